"""What is said about a database in trouble, and how long a loop waits."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sidequest.engine.trouble import FULL_WAIT, TOLD_EVERY, Trouble
from sidequest.errors import BackendFull, BackendUnavailable, SchemaMismatch

logger = logging.getLogger("tests")
AWAY, FULL = BackendUnavailable("away"), BackendFull("no room")


@pytest.fixture
def trouble() -> Trouble:
    return Trouble(logger, "write", waits=(1, 2, 5))


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.message) for record in caplog.records]


async def test_waits_grow_and_begin_anew_with_each_trouble(trouble: Trouble) -> None:
    waits = [trouble.met(AWAY) for _ in range(5)]
    trouble.over()
    assert (waits, trouble.met(AWAY)) == ([1, 2, 5, 5, 5], 1)


async def test_it_is_told_at_first_and_then_every_half_minute(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        trouble.met(AWAY, " (7 wait)")
        await asyncio.sleep(1)
    assert told(caplog) == [(logging.WARNING, "cannot write (7 wait): away")] * (1 + 99 // round(TOLD_EVERY))


async def test_its_end_is_told_once(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    trouble.over()
    trouble.met(AWAY)
    await asyncio.sleep(12)
    trouble.over()
    trouble.over()
    assert [message for _, message in told(caplog)] == ["cannot write: away", "can write again, after 12.0 s"]


async def test_a_database_without_room_is_an_error_and_left_in_peace(
    trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    assert [trouble.met(FULL) for _ in range(2)] == [FULL_WAIT] * 2
    assert told(caplog) == [(logging.ERROR, "cannot write: no room")]


async def test_trouble_of_another_kind_is_told_at_once(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for error in (AWAY, FULL, AWAY, SchemaMismatch("no table")):
        trouble.met(error)
    levels = [level for level, _ in told(caplog)]
    assert levels == [logging.WARNING, logging.ERROR, logging.WARNING, logging.ERROR]
