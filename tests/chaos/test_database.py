"""The database and the line to it: connections killed, cut and swallowed, slow answers, locks, rows that vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from sidequest import BackendUnavailable, Sidequest, State
from sidequest.backends import make_backend
from sidequest.backends.base import Backend
from sidequest.engine.outbox import PATIENCE
from sidequest.failpoints import VARIABLE
from tests.chaos import chaos_jobs as jobs
from tests.chaos.conftest import QUICK, StartHost, all_ended, all_records
from tests.chaos.truth import TruthLog, check
from tests.integration.waiting import eventually
from tests.servers.proxy import Proxy, through

Scale = Callable[[int], int]
SERVERS = ["postgres", "mariadb", "mysql", "mongodb"]
ON_SERVERS = pytest.mark.parametrize("database", SERVERS, indirect=True)
ON_ROW_LOCKS = pytest.mark.parametrize("database", ["postgres", "mariadb", "mysql"], indirect=True)
TOUCH = jobs.touch.name.encode()
"""Stands in the message that makes such a job, and in no other that an enqueue sends."""


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Backend]:
    store = make_backend(url, role="engine")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@ON_SERVERS
@pytest.mark.parametrize("before", [True, False], ids=["not sent", "answer lost"])
async def test_an_enqueue_whose_line_is_cut_leaves_the_job_once_or_not_at_all(
    sq: Sidequest, url: str, proxy: Proxy, before: bool
) -> None:
    """Row 1: who gets an error may try again, and then there are two; nobody gets one job twice for one call."""
    async with Sidequest(through(proxy, url), engine="off", migrate=False) as other:
        await other.enqueue(jobs.touch.call())  # the queue is there, and the connection is warm
        proxy.cut_once(TOUCH, before=before)
        told = True
        try:
            await other.enqueue(jobs.touch.call())
        except BackendUnavailable:
            told = False
        assert proxy.cuts == 1
    count = (await sq.jobs.count())[State.WAITING]
    assert count == 2 if told else count == (1 if before else 2)


@ON_SERVERS
@pytest.mark.timeout(200)
async def test_connections_killed_all_the_time_cost_no_job_anything(
    sq: Sidequest, url: str, proxy: Proxy, host: StartHost, truth: TruthLog, scale: Scale, database: str
) -> None:
    """Row 19: every line of the engine is cut again and again, in the middle of whatever it carries."""
    one = await host(url=through(proxy, url), max_workers=2, lease_life=20)
    handles = [
        handle
        for _ in range(scale(20 if database == "postgres" else 5))
        for handle in await sq.enqueue_many([jobs.glance.call(), jobs.touch.call()] * 50)
    ]
    over = asyncio.Event()

    async def cut() -> None:
        while not over.is_set():
            await asyncio.sleep(0.25)
            proxy.cut()

    cutting = asyncio.create_task(cut())
    [engine] = one.engines
    await eventually(lambda: truth.started() >= len(handles) // 2, within=100)
    over.set()
    await cutting
    await all_ended(sq, within=60)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs
    assert one.engines == [engine]


@ON_SERVERS
async def test_a_line_that_swallows_everything_is_given_up_and_made_up_for(
    sq: Sidequest, url: str, proxy: Proxy, host: StartHost, truth: TruthLog
) -> None:
    """Row 20: no answer and no end of the connection; jobs that end meanwhile are kept."""
    one = await host(url=through(proxy, url), max_workers=2, lease_life=60, heartbeat_interval=1)
    handles = await sq.enqueue_many([jobs.nap.call(0.5), jobs.work.call(0.5)])
    await eventually(lambda: len(truth.running()) == 2)
    proxy.swallow()
    await eventually(lambda: not truth.running())
    [engine] = one.engines
    await asyncio.sleep(6)  # longer than a statement may take: the engine has given up at least one
    proxy.let_through()
    handles += await sq.enqueue_many([jobs.touch.call()] * 5)
    await all_ended(sq, within=40)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs
    assert one.engines == [engine]


@pytest.mark.parametrize("database", ["postgres", "mysql"], indirect=True)
async def test_a_slow_database_costs_time_and_no_lease(
    sq: Sidequest, url: str, proxy: Proxy, host: StartHost, truth: TruthLog
) -> None:
    """Row 23: each round trip takes half as long as a beat may take; a rescuer on a good line watches."""
    await host(url=through(proxy, url), max_workers=2, queues=["default"])
    await host(max_workers=1, queues=["other"])
    handles = await sq.enqueue_many([jobs.nap.call(2.0), jobs.work.call(2.0)] + [jobs.touch.call()] * 20)
    await eventually(lambda: len(truth.running()) >= 2)
    proxy.delay = QUICK["heartbeat_interval"] / 4
    await all_ended(sq)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs


@ON_ROW_LOCKS
async def test_rows_that_somebody_has_locked_hold_up_nobody_else(
    sq: Sidequest, url: str, host: StartHost, truth: TruthLog
) -> None:
    """Row 31: a transaction of the user's, left open on half of the jobs."""
    handles = await sq.enqueue_many([jobs.touch.call()] * 20)
    locked = [handle.id for handle in handles[::2]]
    async with opened(url) as store:
        async with store.writer() as session:
            await session.begin()
            for id in locked:  # one by one: a statement that scans locks whatever it comes by
                await session.fetch(f"SELECT id FROM {store.jobs} WHERE id = :id FOR UPDATE", {"id": id})
            await host(max_workers=2)
            await eventually(lambda: truth.started() == 10)
            assert set(truth.runs()) == {handle.id for handle in handles[1::2]}
            await session.rollback()
        await all_ended(sq)
    check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED).assert_clean()


async def test_a_row_that_vanishes_while_its_job_runs_harms_nobody(
    sq: Sidequest, url: str, host: StartHost, truth: TruthLog
) -> None:
    """Row 32: an administrator's DELETE, a TRUNCATE, a clean-up that is not ours."""
    one = await host(max_workers=2)
    gone, stays = [handle.id for handle in await sq.enqueue_many([jobs.nap.call(2.0), jobs.work.call(2.2)])]

    async def both_are_said_to_run() -> bool:  # a start that finds no row would end the job here and now
        return (await sq.jobs.count())[State.RUNNING] == 2

    await eventually(both_are_said_to_run)
    [engine] = one.engines
    await delete_row(url, gone)
    await eventually(lambda: not truth.running())
    handle = await sq.enqueue(jobs.touch.call())
    await all_ended(sq)
    assert [record.id for record in await all_records(sq)] == [handle.id, stays]
    assert one.engines == [engine]
    one.terminate()
    await eventually(lambda: one.exit_code == 0)
    assert "is no longer there; its end (completed) was not written" in one.words()
    assert "did not take the last" not in one.words()


async def delete_row(url: str, id: int) -> None:
    async with opened(url) as store:
        if store.dialect == "mongo":
            async with store._working() as database:
                await database.jobs.delete_one({"_id": id})
        else:
            await store.execute(f"DELETE FROM {store.jobs} WHERE id = :id", {"id": id})


async def test_a_claim_whose_answer_is_lost_is_found_and_given_back(sq: Sidequest, host: StartHost, truth: TruthLog) -> None:
    """Reconciliation: the jobs are leased to a living engine that does not know them."""
    handles = await sq.enqueue_many([jobs.touch.call()] * 5)
    one = await host(max_workers=2, lease_life=60, environ={VARIABLE: "claim.after_commit=raise:BackendUnavailable@1"})
    [engine] = one.engines
    await all_ended(sq, within=30)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs
    assert one.engines == [engine]
    assert "gave back 5 jobs of a claim whose answer was lost" in one.words()


async def test_an_end_that_could_not_be_written_is_written_later(sq: Sidequest, host: StartHost, truth: TruthLog) -> None:
    handles = await sq.enqueue_many([jobs.glance.call(), jobs.touch.call()] * 5)
    await host(max_workers=2, lease_life=60, environ={VARIABLE: "end.before_write=raise:BackendUnavailable@1"})
    await all_ended(sq)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_an_engine_that_can_write_no_end_claims_no_more(sq: Sidequest, host: StartHost, truth: TruthLog) -> None:
    """What cannot be ended need not be begun; another engine takes over in the end."""
    one = await host(max_workers=1, environ={VARIABLE: "end.before_write=raise:BackendUnavailable"})
    first = await sq.enqueue(jobs.touch.call())
    await eventually(lambda: len(truth.runs()) == 1)
    await eventually(lambda: "cannot write what became of jobs (1 ends wait)" in one.words())
    await asyncio.sleep(PATIENCE + 1.0)
    late = await sq.enqueue_many([jobs.touch.call()] * 5)
    await asyncio.sleep(2.0)  # a gate that is open would let them in at once
    assert set(truth.runs()) == {first.id}
    one.terminate()
    await eventually(lambda: one.exit_code is not None)
    assert "the database did not take the last 1 job changes" in one.words()
    await host(max_workers=1)
    await all_ended(sq)
    report = check([first.id, *(handle.id for handle in late)], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == 7


async def test_a_stop_right_after_a_claim_whose_answer_was_lost_gives_it_back(
    sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 64: no heartbeat comes in between that would have found the jobs."""
    handles = await sq.enqueue_many([jobs.touch.call()] * 5)
    points = "claim.after_commit=raise:BackendUnavailable@1"
    one = await host(max_workers=1, heartbeat_interval=30, lease_life=90, environ={VARIABLE: points})
    await eventually(lambda: "cannot claim jobs" in one.words())
    one.terminate()
    await eventually(lambda: one.exit_code == 0)
    assert (await sq.jobs.count())[State.WAITING] == 5
    await host(max_workers=1)
    await all_ended(sq)
    check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED).assert_clean()
