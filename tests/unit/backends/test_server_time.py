"""The clock of a database server: carried on by the monotonic clock, whatever the host's clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sidequest.backends import server_time
from sidequest.backends.server_time import MEASURE_AFTER, ServerTime

HOST = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clocks:
    """The host's two clocks."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.host = HOST


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(server_time, "monotonic", lambda: clocks.seconds)
    monkeypatch.setattr(server_time, "utc_now", lambda: clocks.host)
    return clocks


def test_before_the_first_answer_the_host_is_believed(clocks: Clocks) -> None:
    time = ServerTime()
    assert time.stale
    assert (time.now(), time.ahead()) == (HOST, timedelta(0))


def test_the_answer_is_from_the_middle_of_the_round_trip(clocks: Clocks) -> None:
    time, said = ServerTime(), HOST + timedelta(hours=1)
    clocks.seconds = 104.0
    time.measured(said, asked_at=100.0)
    assert time.now() == said + timedelta(seconds=2)
    assert not time.stale


def test_a_host_clock_that_jumps_changes_nothing(clocks: Clocks) -> None:
    time, said = ServerTime(), HOST + timedelta(hours=1)
    time.measured(said, asked_at=100.0)
    clocks.seconds += 5
    clocks.host += timedelta(days=1)
    assert time.now() == said + timedelta(seconds=5)
    assert time.ahead() == timedelta(hours=1, seconds=5) - timedelta(days=1)


def test_after_a_while_it_is_time_to_ask_again(clocks: Clocks) -> None:
    time = ServerTime()
    time.measured(HOST, asked_at=100.0)
    clocks.seconds += MEASURE_AFTER
    assert not time.stale
    clocks.seconds += 0.1
    assert time.stale


def test_a_clock_that_stands_in_is_never_measured(clocks: Clocks) -> None:
    time = ServerTime(lambda: HOST + timedelta(days=3))
    assert not time.stale
    assert (time.now(), time.ahead()) == (HOST + timedelta(days=3), timedelta(0))
