"""Workers that use more memory than they may."""

from __future__ import annotations

import os

import pytest

from sidequest.engine import memory
from sidequest.jobs.outcome import Crashed, JobError, SharedCrash
from sidequest.wire.frames import Kind
from tests.unit.engine.workshop import Workshop, workshop

LIMIT = 300_000_000


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """What each worker uses, by pid."""
    table: dict[int, int] = {}
    monkeypatch.setattr(memory.Memory.__init__, "__defaults__", (table.get,))
    return table


async def grow(shop: Workshop, used: dict[int, int], size: int, stepped: int = 0) -> None:
    used[shop.links[0].pid] = size
    shop.links[0].word = (stepped, 0)
    await shop.look()


async def test_a_worker_above_the_limit_takes_no_new_job_and_closes_when_its_jobs_have_ended(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1)
        await grow(shop, used, LIMIT + 1)
        await shop.accept(2)
        await shop.greet()
        before = shop.links[0].told(Kind.CLOSE)
        await shop.end(0, 1)
        assert (shop.ran, before, shop.links[0].told(Kind.CLOSE), shop.links[0].kills) == ([[1], [2]], 0, 1, [])


async def test_memory_is_measured_before_a_worker_gets_its_next_job(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT, max_workers=1) as shop:
        await shop.accept(1, 2, name="sync")
        used[shop.links[0].pid] = LIMIT + 1
        await shop.end(0, 1)
        assert (shop.links[0].ran, shop.links[0].told(Kind.CLOSE)) == ([1], 1)


async def test_an_idle_worker_above_the_limit_is_closed(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1)
        await shop.end(0, 1)
        await grow(shop, used, LIMIT + 1)
        assert shop.links[0].told(Kind.CLOSE) == 1


async def test_a_worker_within_the_limit_stays(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1)
        await grow(shop, used, LIMIT)
        await shop.end(0, 1)
        assert shop.links[0].told(Kind.CLOSE) == 0


async def test_what_a_worker_needs_before_it_has_run_a_job_is_no_jobs_doing(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await grow(shop, used, 5 * LIMIT)
        assert shop.links[0].told(Kind.CLOSE) == 0


MESSAGE = "the worker process was killed: it used 600 MB, more than twice max_worker_memory (300 MB)"


@pytest.mark.parametrize("name", ["sync", "async"])
async def test_a_job_alone_in_a_worker_of_twice_the_limit_is_to_blame(used: dict[int, int], name: str) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1, name=name)
        shop.links[0].dump = "here"
        await grow(shop, used, 2 * LIMIT, stepped=1)
        assert shop.links[0].kills == [None]
        assert shop.ended == {1: Crashed(JobError("crash", "WorkerDied", MESSAGE))}


async def test_of_several_jobs_in_a_worker_of_twice_the_limit_all_run_alone_next_time(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1, 2)
        await grow(shop, used, 2 * LIMIT, stepped=1)
        told = JobError("crash", "WorkerDied", f"{MESSAGE}, with 2 jobs in it; this one runs alone next time")
        assert shop.ended == {1: SharedCrash(told), 2: SharedCrash(told)}


async def test_between_two_sync_jobs_nobody_is_killed(used: dict[int, int]) -> None:
    async with workshop(max_worker_memory=LIMIT) as shop:
        await shop.accept(1, name="sync")
        await grow(shop, used, 2 * LIMIT, stepped=0)
        assert shop.links[0].kills == []


def test_the_memory_of_a_process_is_told_in_bytes_and_that_of_none_is_not() -> None:
    assert 5_000_000 < (memory.resident(os.getpid()) or 0) < 5_000_000_000
    assert memory.resident(2**22 + 1) is None
