"""Several hosts at once: power failures, many engines on one database, and stops at every moment."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidequest import Sidequest, State
from sidequest.failpoints import VARIABLE
from tests.chaos import chaos_jobs as jobs
from tests.chaos.conftest import StartHost, all_ended, all_records, own_descriptors
from tests.chaos.hosts import Host, kill_all
from tests.chaos.soak import sockets_of
from tests.chaos.truth import TruthLog, check
from tests.integration.waiting import eventually

Scale = Callable[[int], int]
ENGINES = 8


async def test_a_host_whose_power_fails_is_rescued_within_a_lease_life_and_a_look(
    sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 15: nobody is left there to say anything."""
    doomed = await host(max_workers=2)
    handles = await sq.enqueue_many([jobs.nap.call(6.0), jobs.work.call(6.0)] * 3)
    await eventually(lambda: len(truth.running()) >= 4)
    for engine in await sq._store.list_engines():  # as if on a host of its own, whose processes nobody here can see
        await sq._store.register_engine(engine.id, "elsewhere", engine.pid, engine.version, engine.queues)
    rescuer = await host(max_workers=2)
    await asyncio.sleep(1.0)  # it must have seen the other one live
    died_at = time.monotonic()
    await asyncio.to_thread(doomed.die)
    await all_ended(sq)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED, blows=[died_at])
    report.assert_clean()
    assert report.reruns >= 3
    assert rescuer.engines
    assert 2.5 < report.slowest < 3.0 + 0.5 + 3.5  # the lease's life, a look, and a margin for a machine that is busy


@pytest.mark.timeout(300)
async def test_many_engines_run_each_job_exactly_once(
    sq: Sidequest, host: StartHost, truth: TruthLog, scale: Scale, database: str
) -> None:
    """Row 36."""
    await asyncio.gather(*(host(max_workers=1, lease_life=60, heartbeat_interval=5) for _ in range(ENGINES)))
    count = scale(10_000 if database == "postgres" else 1_000)
    handles = [
        handle
        for first in range(0, count, 500)
        for handle in await sq.enqueue_many([jobs.glance.call()] * min(500, count - first))
    ]
    await all_ended(sq, within=200)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs == count
    assert len({run.pid for runs in truth.runs().values() for run in runs}) > 1


@pytest.mark.parametrize(
    "point",
    [
        "app.before_engine",
        "engine.before_ready",
        "claim.before_commit",
        "claim.after_commit",
        "running.before_write",
        "end.before_write",
        "heartbeat.before_beat",
        "shutdown.before_release",
        "shutdown.before_halt",
        "shutdown.before_flush",
        "shutdown.before_forget",
    ],
)
@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_a_stop_in_the_midst_of_anything_leaves_nothing_held(
    point: str, url: str, sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 64: each of these takes long, so that the stop comes while it is under way."""
    handles = await sq.enqueue_many([jobs.nap.call(0.1), jobs.work.call(0.1), jobs.nap.call(30)] * 3)
    one = await host(max_workers=2, shutdown_timeout=1.0, environ={VARIABLE: f"{point}=sleep:0.7"})
    await asyncio.sleep(0.5)
    await stopped(one, sq, url, within=1.0 + 8.0)
    records = await all_records(sq)
    assert len(records) == len(handles)
    assert not [run for runs in truth.runs().values() for run in runs if not run.alone]
    for record in records:
        if record.state is State.WAITING:
            assert record.attempt == 0
        else:
            assert (record.state, record.attempt) == (State.COMPLETED, 1)


async def stopped(one: Host, sq: Sidequest, url: str, within: float) -> None:
    """Stop the host as a deploy does; nothing of it is left, in the database or anywhere else."""
    one.terminate()
    began = time.monotonic()
    await eventually(lambda: one.exit_code is not None, within)
    assert one.exit_code == 0, one.words()
    assert not one.engines
    assert not one.workers
    counts = await sq.jobs.count()
    assert (counts[State.CLAIMED], counts[State.RUNNING]) == (0, 0), f"after {time.monotonic() - began:.1f} s"
    assert await sq._store.list_engines() == []
    assert sockets_of(url) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_stop_before_it_has_started_leaves_nothing(
    url: str, sq: Sidequest, mark: str, truth: TruthLog, tmp_path, host: StartHost
) -> None:
    """Row 64, the earliest moments: at any time of the start."""
    for n in range(6):
        one = Host(f"early{n}", url, mark, tmp_path, truth.path, migrate=False)
        one.start()
        await asyncio.sleep(0.15 + n * 0.1)
        one.terminate()
        await eventually(lambda one=one: one.exit_code is not None, 15)
        await eventually(lambda one=one: not one.engines and not one.workers, 5)
    assert await sq._store.list_engines() == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_an_app_that_dies_while_its_engine_starts_leaves_no_engine(
    url: str, sq: Sidequest, mark: str, truth: TruthLog, tmp_path: Path, host: StartHost
) -> None:
    """Row 2: the end of the pipe comes when nobody is there yet to be stopped by it."""
    one = Host("early", url, mark, tmp_path, truth.path, migrate=False, environ={VARIABLE: "engine.before_open=sleep:3"})
    one.start()
    await eventually(lambda: one.engines)
    await asyncio.sleep(1.5)  # it has its orders by now
    kill_all(one.app)
    await eventually(lambda: one.exit_code is not None and not one.engines, within=10)
    assert await sq._store.list_engines() == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_stop_while_a_new_engine_starts_does_not_wait_for_its_whole_time(sq: Sidequest, host: StartHost) -> None:
    """Row 64: the order to stop comes before there is an engine to obey it."""
    one = await host(shutdown_timeout=20, environ={VARIABLE: "engine.before_open=sleep:2"})
    [first] = one.engines
    kill_all([first])
    await eventually(lambda: one.engines not in ([], [first]))
    await asyncio.sleep(1.0)
    one.terminate()
    await eventually(lambda: one.exit_code == 0, within=10)
    assert not one.engines


async def test_a_stop_under_continual_insertion_leaves_no_job_held(
    url: str, sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 65."""
    one = await host(max_workers=2)
    inserted: list[int] = []
    over = asyncio.Event()

    async def insert() -> None:
        while not over.is_set():
            inserted.extend(handle.id for handle in await sq.enqueue_many([jobs.glance.call(), jobs.touch.call()] * 10))
            await asyncio.sleep(0.01)

    inserting = asyncio.create_task(insert())
    await eventually(lambda: truth.started() > 100)
    await stopped(one, sq, url, within=5.0 + 8.0)
    over.set()
    await inserting
    records = await all_records(sq)
    assert {record.id for record in records} == {*inserted}
    assert {record.state for record in records} <= {State.WAITING, State.COMPLETED}
    assert {record.attempt for record in records if record.state is State.WAITING} <= {0}
    assert {record.id for record in records if record.state is State.COMPLETED} == set(truth.runs())


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_an_engine_that_dies_while_it_stops_is_made_up_for_by_the_next_one(
    sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 66, the engine's death during the drain: nobody starts a new one, so its jobs wait for a rescue."""
    one = await host(max_workers=2, shutdown_timeout=3.0, environ={VARIABLE: "shutdown.before_wait=kill"})
    await sq.enqueue_many([jobs.nap.call(1.0), jobs.work.call(1.0)] * 2)
    await eventually(lambda: len(truth.running()) >= 3)
    one.terminate()
    await eventually(lambda: one.exit_code is not None, 15)
    await eventually(lambda: not one.engines and not one.workers, 10)
    await host(max_workers=2)
    await all_ended(sq)
    check([], await all_records(sq), truth, jobs.EXPECTED).assert_clean()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_frozen_engine_that_thaws_overwrites_nothing(
    sq: Sidequest, host: StartHost, truth: TruthLog, tmp_path: Path
) -> None:
    """Row 16, as far as the store goes: what others have taken over is theirs."""
    frozen = await host(max_workers=2)
    await sq.enqueue_many([jobs.twice.call(str(tmp_path / word), 1.0, 4.0) for word in ("one", "two")])
    await eventually(lambda: len(truth.running()) == 2)
    [pid] = frozen.engines
    os.kill(pid, signal.SIGSTOP)
    await host(max_workers=2)
    await eventually(lambda: truth.started() >= 4, within=30)  # both run again when the thaw comes
    os.kill(pid, signal.SIGCONT)
    await eventually(lambda: _beats_again(sq, pid))
    await all_ended(sq)
    records = await all_records(sq)
    assert [(record.state, record.result, record.interrupts) for record in records] == [(State.COMPLETED, "later", 1)] * 2


async def _beats_again(sq: Sidequest, pid: int) -> bool:
    return pid in {engine.pid for engine in await sq._store.list_engines()}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_starting_and_stopping_again_and_again_leaks_no_descriptor_and_no_socket(url: str, truth: TruthLog) -> None:
    counts: list[int] = []
    for _ in range(4):
        async with Sidequest(url) as sq:
            await (await sq.enqueue(jobs.touch.call())).result(timeout=20)
        counts.append(own_descriptors())
    assert counts[-1] <= counts[0]
    assert sockets_of(url) == []
