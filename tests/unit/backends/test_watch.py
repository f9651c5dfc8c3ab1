"""Waiting for the ends of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from sidequest.backends.watch import HINTED, LONGEST, SHORTEST, EndWatch
from sidequest.errors import JobNotFound, SidequestError
from sidequest.jobs.record import JobEnd
from sidequest.jobs.states import State
from tests.unit.engine.fakes import FakeStore, stored
from tests.unit.engine.virtual_time import settle


class Post:
    """A watch over a store in which jobs 1 and 2 are running."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.store.records = {id: stored(id) for id in (1, 2)}
        self.told: list[list[int]] = []
        self.watch = EndWatch(self.store.backend, self.told.append)

    def finish(self, id: int) -> JobEnd:
        self.store.finished[id] = JobEnd(id, "shop:send", State.COMPLETED, "1", None)
        return self.store.finished[id]

    async def waiter(self, id: int, timeout: float | None = None) -> asyncio.Task[JobEnd]:
        task = asyncio.create_task(self.watch.wait(id, timeout))
        await settle()
        return task

    @property
    def looks(self) -> int:
        return len(self.store.calls)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.watch.run)
        yield made
        tasks.cancel_scope.cancel()


async def test_a_job_that_has_ended_already_is_found_at_once(post: Post) -> None:
    end = post.finish(1)
    assert await post.watch.wait(1, 0.001) == end


async def test_a_hint_wakes_the_waiter_at_once(post: Post) -> None:
    waiter = await post.waiter(1)
    await asyncio.sleep(60)
    end = post.finish(1)
    post.watch.ended([1])
    await settle()
    assert waiter.done()
    assert await waiter == end


async def test_without_a_hint_the_end_is_found_by_looking(post: Post) -> None:
    post.watch.hinted = False
    waiter = await post.waiter(1)
    await asyncio.sleep(60)
    post.finish(1)
    await asyncio.sleep(LONGEST)
    assert waiter.done()


async def test_even_with_hints_an_end_that_nobody_hinted_is_found(post: Post) -> None:
    post.watch.hinted = True
    waiter = await post.waiter(1)
    post.finish(1)
    await asyncio.sleep(HINTED + 0.1)
    assert waiter.done()


async def test_the_longer_nothing_happens_the_rarer_it_looks(post: Post) -> None:
    waiter = await post.waiter(1)
    await asyncio.sleep(1)
    first = post.looks
    await asyncio.sleep(60)
    assert 3 <= first <= 1 / SHORTEST
    assert post.looks - first == pytest.approx(60 / LONGEST, abs=2)
    waiter.cancel()


async def test_with_hints_looking_is_only_a_safety_net(post: Post) -> None:
    post.watch.hinted = True
    waiter = await post.waiter(1)
    await asyncio.sleep(60)
    assert post.looks == pytest.approx(60 / HINTED, abs=2)
    waiter.cancel()


async def test_nobody_looks_while_nobody_waits(post: Post) -> None:
    await asyncio.sleep(3_600)
    assert post.looks == 0


async def test_one_look_serves_all_who_wait(post: Post) -> None:
    waiters = [await post.waiter(1), await post.waiter(1), await post.waiter(2)]
    post.finish(1)
    post.finish(2)
    before = post.looks
    post.watch.ended([1, 2])
    await settle()
    assert ([waiter.result().id for waiter in waiters], post.looks) == ([1, 1, 2], before + 1)


async def test_a_hint_for_a_job_that_nobody_waits_for_looks_at_nothing(post: Post) -> None:
    waiter = await post.waiter(1)
    before = post.looks
    post.watch.ended([2, 3])
    await settle()
    assert post.looks == before
    waiter.cancel()


async def test_a_wait_has_a_limit(post: Post) -> None:
    with pytest.raises(TimeoutError, match=r"job 1 had not ended after 2.5 s"):
        await post.watch.wait(1, 2.5)


async def test_a_wait_without_a_limit_goes_on(post: Post) -> None:
    waiter = await post.waiter(1)
    await asyncio.sleep(86_400)
    assert not waiter.done()
    waiter.cancel()


async def test_a_job_that_does_not_exist_is_told_to_all_who_wait(post: Post) -> None:
    waiters = [await post.waiter(9), await post.waiter(9)]
    for waiter in waiters:
        with pytest.raises(JobNotFound, match="job 9 does not exist"):
            await waiter


async def test_a_job_that_is_deleted_while_somebody_waits_is_told(post: Post) -> None:
    waiter = await post.waiter(1)
    del post.store.records[1]
    with pytest.raises(JobNotFound):
        await waiter


async def test_one_who_gives_up_does_not_disturb_the_others(post: Post) -> None:
    hasty, patient = await post.waiter(1, 1), await post.waiter(1)
    with pytest.raises(TimeoutError):
        await hasty
    end = post.finish(1)
    assert await patient == end


async def test_who_has_given_up_is_forgotten(post: Post) -> None:
    waiter = await post.waiter(1)
    watched = post.watch.watched()
    waiter.cancel()
    await settle()
    assert (watched, post.watch.watched()) == ([1], [])


async def test_a_watched_job_is_told_once_however_many_wait(post: Post) -> None:
    waiters = [await post.waiter(1), await post.waiter(1)]
    assert post.told == [[1]]
    for waiter in waiters:
        waiter.cancel()


async def test_an_outage_of_the_database_ends_no_wait(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    waiter = await post.waiter(1)
    post.store.away = True
    await asyncio.sleep(60)
    post.store.away = False
    end = post.finish(1)
    assert await waiter == end
    assert "cannot look for ended jobs: the database is away" in caplog.text


async def test_who_waits_when_sidequest_stops_is_told(post: Post) -> None:
    waiter = await post.waiter(1)
    post.watch.close()
    with pytest.raises(SidequestError, match="was stopped while this waited"):
        await waiter
