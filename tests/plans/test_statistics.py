"""What engines ask, where the planner was told wrong things about the table, and after it was told better.

Statistics are always of another time: a table that grew by a million since, or was filled at once.
PostgreSQL ended jobs a thousand times slower when it took its plans from a small table's. SQLite
knows nothing by itself, and plans otherwise once somebody has said ANALYZE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

import pytest

from sidequest.backends.base import Backend, JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from tests.plans.conftest import Open
from tests.plans.place import Place
from tests.plans.plan import Seen
from tests.plans.stock import NOW, QUEUES

SHARE = 5
"""Of the large database's jobs: enough to see a plan go wrong."""
COUNT = 100
MOST = 2 * COUNT + 20
"""Rows that one statement may look at: MongoDB looks at two entries for each id, and a few may be beside."""


async def claim(backend: Backend) -> object:
    return await backend.claim("e9", "l9", {QUEUES[0]: COUNT})


async def claim_from_all(backend: Backend) -> object:
    return await backend.claim("e9", "l9", dict.fromkeys(QUEUES, COUNT // 4))


async def claim_and_end(backend: Backend) -> object:
    jobs = await backend.claim("e9", "l9", {QUEUES[1]: COUNT})
    return await backend.apply([transitions.finish(job, Completed("null"), NOW, NOW, Random(7)) for job in jobs])


async def claim_and_start(backend: Backend) -> object:
    jobs = await backend.claim("e9", "l9", {QUEUES[2]: COUNT})
    return await backend.apply([transitions.start(job, NOW) for job in jobs])


async def look(backend: Backend) -> object:
    return await backend.look()


async def promote(backend: Backend) -> object:
    return await backend.promote(20)


async def ends(backend: Backend) -> object:
    last = await backend.last_id()
    return await backend.ends(range(last - COUNT, last))


async def newest(backend: Backend) -> object:
    return await backend.list_jobs(JobFilter(), COUNT)


async def clean_up(backend: Backend) -> object:
    ended_before = NOW - timedelta(days=365)
    return await backend.delete_finished(ended_before, ended_before, 0, COUNT)


CALLS: list[Callable[[Backend], Awaitable[object]]] = [
    claim, claim_from_all, claim_and_end, claim_and_start, look, promote, ends, newest, clean_up,
]  # fmt: skip


@pytest.fixture(scope="session")
async def misled(open_place: Open, rows: int) -> Place:
    place = await open_place(rows // SHARE)
    await place.mislead()
    await place.fill()
    return place


@pytest.mark.only("postgres")
@pytest.mark.parametrize("filled", ["misled", "large"])  # before the next test tells the former better
async def test_statements_that_were_prepared_long_ago_read_what_they_need(request, filled, monkeypatch):
    place: Place = request.getfixturevalue(filled)
    monkeypatch.setattr(place, "prepared_long_ago", True)
    await all_read_what_they_need(place)


@pytest.mark.parametrize("statistics", ["of another time", "of today"])
async def test_engines_read_what_they_need_whatever_the_statistics_say(misled, statistics):
    if statistics == "of today":
        await misled.analyze()
    await all_read_what_they_need(misled)


async def all_read_what_they_need(place: Place) -> None:
    for call in CALLS:
        async with place.watch() as plans:
            answer = await call(place.backend)
        seen = Seen(answer, plans, 0)
        assert None not in seen.indexes, f"{call.__name__}: {seen}"
        assert seen.most_rows <= MOST, f"{call.__name__}: {seen}"
