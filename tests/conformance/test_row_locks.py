"""Rows that somebody else's open transaction holds: who goes past them, and who waits and sees what it wrote.

Not on SQLite, where one writes at a time, and not on MongoDB, where no claim is a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

import pytest

from sidequest.backends.base import JobFilter
from sidequest.backends.sql import backend as sql_backend
from sidequest.backends.sql.backend import SqlBackend
from sidequest.backends.sql.rows import queue_row
from sidequest.backends.sql.session import Session, transaction
from sidequest.errors import BackendUnavailable
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

T = TypeVar("T")
SOON = 4.0
"""Seconds: what does not wait is over by then, and servers let others wait for longer."""

SENT = 0.2
"""Seconds after which a server has got a statement; were it longer, a test would be easier to pass, and never fail."""


@pytest.fixture(params=["postgres", "mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@asynccontextmanager
async def open_transaction(rival: SqlBackend) -> AsyncIterator[Session]:
    """Somebody else's, rolled back at the end unless it was committed."""
    async with rival.writer() as session:
        await session.begin()
        try:
            yield session
        finally:
            await session.rollback()


async def at_once(work: Awaitable[T]) -> T:
    """What the work gives, if it does not wait for anybody. Not cancelled, because then a write is finished first."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=SOON)
    assert task.done(), "it waits for somebody"
    return task.result()


async def lock(session: Session, rival: SqlBackend, *ids: int) -> None:
    for id in ids:
        await session.execute(f"UPDATE {rival.jobs} SET snoozes = snoozes + 1 WHERE id = :id", {"id": id})


async def test_a_claim_goes_past_jobs_that_another_transaction_holds(insert, claim, connect):
    rival = await connect()
    ids = await insert(*(NewJob("shop:pay") for _ in range(6)))
    async with open_transaction(rival) as session:
        await lock(session, rival, ids[0], ids[2])
        assert [job.id for job in await at_once(claim(2))] == [ids[1], ids[3]]
    assert [job.id for job in await claim(9)] == [ids[0], ids[2], ids[4], ids[5]]


async def test_a_claim_of_several_queues_waits_for_none(backend, insert, connect):
    rival = await connect()
    ids = await insert(*(NewJob("shop:pay", queue=queue) for queue in "aabb"))
    async with open_transaction(rival) as session:
        await lock(session, rival, ids[0], ids[2], ids[3])
        assert [job.id for job in await at_once(backend.claim("e1", "l1", {"b": 2, "a": 2}))] == [ids[1]]


async def test_a_claim_that_is_not_over_holds_up_nobody(backend, insert, claim, connect, clock, monkeypatch):
    """Where a claim is a transaction of several statements, stopped here before it commits."""
    rival, go_on = await connect(), asyncio.Event()
    ids = await insert(*(NewJob("shop:pay") for _ in range(4)), NewJob("shop:later", delay=timedelta(seconds=1)))

    async def stopped(session: Session, work):
        async def work_and_wait(session: Session):
            answer = await work(session)
            await go_on.wait()
            return answer

        return await transaction(session, work_and_wait)

    with monkeypatch.context() as patch:
        patch.setattr(sql_backend, "transaction", stopped)
        first = asyncio.ensure_future(rival.claim("e1", "l1", {"default": 2}))
        await asyncio.sleep(SENT)
    clock.advance(seconds=1)
    try:
        before, behind = await at_once(insert(NewJob("shop:pay", priority=1), NewJob("shop:pay", priority=-1)))
        assert [job.id for job in await at_once(claim(2, lease="l2"))] == [before, ids[2]]
        assert await at_once(backend.promote(9)) == 1
        assert [job.id for job in await at_once(claim(9, lease="l2"))] == [ids[3], ids[4], behind]
    finally:
        go_on.set()
    assert [job.id for job in await first] == ids[:2]


async def test_a_promotion_goes_past_jobs_that_another_transaction_holds(backend, insert, claim, connect, clock):
    rival = await connect()
    ids = await insert(*(NewJob("shop:pay", delay=timedelta(seconds=n)) for n in (1, 2, 3, 4)))
    clock.advance(seconds=3)
    async with open_transaction(rival) as session:
        await lock(session, rival, ids[0])
        assert await at_once(backend.promote(9)) == 2
        assert [job.id for job in await at_once(claim(9))] == ids[1:3]
    assert await backend.promote(9) == 1


async def test_reading_waits_for_nobody(backend, insert, connect):
    rival = await connect()
    ids = await insert(*(NewJob("shop:pay") for _ in range(2)))
    async with open_transaction(rival) as session:
        await lock(session, rival, *ids)
        before = await at_once(backend.get_many(ids))
        assert [job.snoozes for job in before] == [0, 0]
        assert (await at_once(backend.count(JobFilter())))[State.WAITING] == 2
        assert await at_once(backend.list_jobs(JobFilter(), 9)) == before[::-1]
        assert (await at_once(backend.look())).queues[0].ready
        assert await at_once(backend.ends(ids)) == ([], frozenset())


async def test_jobs_that_are_not_committed_are_not_seen_and_hold_up_nobody(backend, insert, claim, connect, clock):
    rival = await connect()
    (first,) = await insert()
    async with open_transaction(rival) as session:
        (inner,) = await rival.insert_jobs(session, [NewJob("shop:pay", priority=9)], clock.time)
        (second,) = await at_once(insert())
        assert [job.id for job in await at_once(claim(9))] == [first, second]
        await session.commit()
    assert [job.id for job in await claim(9)] == [inner]


async def changed_meanwhile(rival: SqlBackend, id: int, columns: str, work) -> object:
    """What the work gives, when it meets a job that another transaction has changed and then commits."""
    async with open_transaction(rival) as session:
        await session.execute(f"UPDATE {rival.jobs} SET {columns} WHERE id = :id", {"id": id})
        task = asyncio.ensure_future(work)
        await asyncio.sleep(SENT)
        assert not task.done()
        await session.commit()
    return await at_once(task)


@pytest.mark.parametrize("columns", ["lease = 'l2'", "state = 'canceled'", "lease = NULL"])
async def test_a_change_that_waited_is_fenced_by_what_it_waited_for(backend, insert, claim, connect, clock, chance, columns):
    rival = await connect()
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    held = await claim(3)
    ends = [transitions.finish(job, Completed(), None, clock.time, chance) for job in held]
    assert await changed_meanwhile(rival, held[0].id, columns, backend.apply(ends[:1])) == {held[0].id}
    assert await changed_meanwhile(rival, held[2].id, columns, backend.apply(ends[1:])) == {held[2].id}
    assert [job.state for job in await backend.get_many(job.id for job in held[1:2])] == [State.COMPLETED]


async def test_a_cancelled_write_that_was_sent_is_finished_first(backend, insert, claim, connect, clock, chance):
    rival = await connect()
    await insert(*(NewJob("shop:pay") for _ in range(2)))
    ends = [transitions.finish(job, Completed("1"), None, clock.time, chance) for job in await claim(2)]
    for batch in (ends[:1], [ends[1]._replace(columns={}), ends[1]._replace(id=999)]):
        async with open_transaction(rival) as session:
            await lock(session, rival, batch[0].id)
            write = asyncio.ensure_future(backend.apply(batch))
            await asyncio.sleep(SENT)
            write.cancel()
            await asyncio.sleep(SENT)
            assert not write.done()
        await asyncio.wait([write], timeout=SOON)
        assert write.cancelled()
        assert (await backend.get(batch[0].id)).state is State.COMPLETED


async def test_a_deletion_that_waited_spares_what_is_held_by_then(backend, insert, connect):
    rival = await connect()
    ids: Sequence[int] = await insert(*(NewJob("shop:pay") for _ in range(2)))
    claimed = "state = 'claimed', ready = NULL, lease = 'l2', engine = 'e2'"
    assert await changed_meanwhile(rival, ids[0], claimed, backend.delete(ids)) == {ids[1]}
    assert [job.id for job in await backend.list_jobs(JobFilter(), 9)] == [ids[0]]


async def test_a_purge_that_waited_spares_what_is_held_by_then(backend, insert, connect):
    rival = await connect()
    ids: Sequence[int] = await insert(*(NewJob("shop:pay") for _ in range(2)))
    claimed = "state = 'claimed', ready = NULL, lease = 'l2', engine = 'e2'"
    assert await changed_meanwhile(rival, ids[0], claimed, backend.purge_queue("default")) == 1
    assert [job.id for job in await backend.list_jobs(JobFilter(), 9)] == [ids[0]]


async def test_a_queue_that_another_transaction_creates_is_kept_as_it_is(backend, connect, clock):
    """Whoever wanted to create it too waits, and has not done it."""
    rival = await connect()
    wanted = QueueRecord("mail", 9)
    works = (backend.create_queue(wanted), backend.insert([NewJob("shop:pay", queue="mail")], wanted))
    async with open_transaction(rival) as session:
        assert await rival.insert_queue(session, queue_row(QueueRecord("mail", 3, 1), clock.time, rival.to_column))
        tasks = [asyncio.ensure_future(work) for work in works]
        await asyncio.sleep(SENT)
        await session.commit()
    created, ids = await at_once(asyncio.gather(*tasks))
    assert (created, len(ids)) == (False, 1)
    assert await backend.list_queues() == [QueueRecord("mail", 3, 1)]


async def test_changes_may_go_past_jobs_that_another_transaction_holds(backend, insert, claim, connect, clock, chance):
    rival = await connect()
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    jobs = await claim(3)
    changes = [transitions.finish(job, Completed("1"), None, clock.time, chance) for job in jobs]
    async with open_transaction(rival) as session:
        await lock(session, rival, jobs[1].id)
        assert await at_once(backend.apply(changes, skip_locked=True)) == {jobs[1].id}
    assert await backend.apply(changes[1:2], skip_locked=True) == frozenset()
    assert (await backend.count(JobFilter()))[State.COMPLETED] == 3


async def test_a_beat_waits_for_no_other_work(backend, insert, claim, connect, clock, chance):
    """All connections that work may have wait for a lock, and more work waits for them."""
    rival = await connect()
    await backend.register_engine("e1", "h", 1, "1", "*")
    await insert(NewJob("shop:pay"))
    [job] = await claim()
    end = transitions.finish(job, Completed("1"), None, clock.time, chance)
    async with open_transaction(rival) as session:
        await lock(session, rival, job.id)
        stuck = [asyncio.ensure_future(backend.apply([end])) for _ in range(6)]
        await asyncio.sleep(SENT)
        for _ in range(3):
            assert await at_once(backend.beat("e1", within=timedelta(seconds=SOON / 2))) is True
        assert not any(task.done() for task in stuck)
    await asyncio.gather(*stuck)
    assert [engine.beat for engine in await backend.list_engines()] == [3]


async def test_a_beat_that_finds_its_own_row_locked_is_given_up_in_its_time(backend, connect):
    rival = await connect()
    await backend.register_engine("e1", "h", 1, "1", "*")
    async with open_transaction(rival) as session:
        await session.execute(f"UPDATE {rival.engines} SET pid = 2 WHERE id = 'e1'")
        with pytest.raises(BackendUnavailable, match="in time"):
            await at_once(backend.beat("e1", within=timedelta(seconds=0.3)))
    assert await backend.beat("e1") is True
