"""Fifty times kill -9, under load: everything ends, nobody pays for it, and it is over soon."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidequest import Sidequest
from sidequest.app import engine_process
from tests.chaos import chaos_jobs as jobs
from tests.chaos.conftest import StartHost, StartSidequest, all_ended, all_records
from tests.chaos.hosts import kill_all, send
from tests.chaos.truth import TruthLog, check
from tests.integration.waiting import engine_pid, eventually, marked_workers

Scale = Callable[[int], int]
FULL, SOME = 50, 5
BARE_START = 0.4
"""Seconds that a process with our code takes to start on two idle CPUs of 2020."""


def load(count: int) -> list:
    """A mix of short jobs, sync and async."""
    return [call for n in range(count) for call in (jobs.nap.call(0.05 + n % 5 / 10), jobs.work.call(0.02), jobs.glance.call())]


async def engine_is_new(sq: Sidequest, old: int) -> bool:
    process = sq._hosting.engine
    return process is not None and process.pid != old and process.engine_id is not None


async def burden() -> float:
    """How many times slower than it should be this machine starts a process just now; 1 at least."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", "-c", "import sidequest.engine.app_pipe")
    await process.wait()
    return max(1.0, (time.monotonic() - began) / BARE_START)


async def test_the_next_engine_of_an_app_takes_over_also_where_nobody_can_see_who_has_died(
    sq: Sidequest, host: StartHost, truth: TruthLog
) -> None:
    """Row 6, as on a system without /proc: the app tells its new engine whose jobs to take."""
    one = await host(max_workers=2, lease_life=60)
    handle = await sq.enqueue(jobs.nap.call(1.0))
    await eventually(lambda: len(truth.running()) == 1)
    for engine in await sq._store.list_engines():  # again, without a word of where it lives
        await sq._store.register_engine(engine.id, engine.host, engine.pid, engine.version, engine.queues)
    blow = time.monotonic()
    [engine_process_id] = one.engines
    send(engine_process_id, signal.SIGKILL)
    await all_ended(sq, within=30)
    report = check([handle.id], await all_records(sq), truth, jobs.EXPECTED, blows=[blow])
    report.assert_clean()
    assert (report.runs, report.charged) == (2, 0)


@pytest.mark.timeout(400)
async def test_an_engine_killed_again_and_again_loses_no_job_and_charges_none(
    start: StartSidequest, truth: TruthLog, scale: Scale, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 5 and 6 of the matrix."""
    monkeypatch.setattr(engine_process, "HEALTHY_AFTER", 0.0)  # the pauses that grow from death to death are not the subject
    sq = await start(max_workers=3)
    kills, blows, starts = scale(FULL if database == "postgres" else SOME), [], []
    handles, slowness = [], []
    for n in range(kills):
        enqueued = len(handles)  # under load, but without a backlog that would hide the delay
        await eventually(lambda most=enqueued: most - len(truth.runs()) <= 4)
        handles += await sq.enqueue_many(load(6))
        seen = truth.started()
        await eventually(lambda seen=seen: truth.started() > seen)
        await asyncio.sleep(random.Random(n).uniform(0.0, 0.15))  # to hit another moment of the load each time
        old = engine_pid(sq)
        blows.append(time.monotonic())
        os.kill(old, signal.SIGKILL)
        await eventually(lambda old=old: engine_is_new(sq, old))
        starts.append(time.monotonic() - blows[-1])
        slowness.append(await burden() if n % 5 == 0 else 1.0)
    await all_ended(sq)
    report = check([handle.id for handle in handles], await all_records(sq), truth, jobs.EXPECTED, blows=blows)
    slow = f"on a machine {max(slowness):.1f} times too slow"
    print(f"chaos: {kills} engines killed; a new one took {max(starts):.2f} s at most, {slow}")
    report.assert_clean()
    assert report.slowest < 5.0 * max(slowness)


@pytest.mark.timeout(400)
async def test_workers_killed_again_and_again_cost_only_the_job_that_they_ran(
    start: StartSidequest, truth: TruthLog, scale: Scale, database: str, mark: str
) -> None:
    """Row 10: one sync job per worker; its neighbours never notice."""
    sq = await start(max_workers=4)
    kills, replaced = scale(FULL if database == "postgres" else SOME), []
    handles = await sq.enqueue_many(
        [jobs.work.options(max_attempts=9).call(0.4) for _ in range(4 + kills * 4)]
    )  # some must wait for the next worker
    killed: set[int] = set()
    for _ in range(kills):
        victim = await eventually(lambda: next((run for run in truth.running() if run.pid not in killed), None))
        killed.add(victim.pid)
        before = marked_workers(mark)
        assert send(victim.pid, signal.SIGKILL)
        began = time.monotonic()
        await eventually(lambda before=before: marked_workers(mark) - before)
        replaced.append(time.monotonic() - began)
    await all_ended(sq, within=90)
    records = await all_records(sq)
    report = check([handle.id for handle in handles], records, truth, jobs.EXPECTED, may_charge=True)
    cut_off = {run.job for runs in truth.runs().values() for run in runs if run.pid in killed and run.end is None}
    print(f"chaos: {kills} workers killed; the next one was being started after {max(replaced):.2f} s at most")
    report.assert_clean()
    assert {record.id for record in records if record.crashes} == cut_off
    assert {record.id for record in records if record.interrupts} == set()
    assert statistics.median(replaced) < 0.3 * await burden()


async def test_an_async_worker_that_is_killed_charges_none_of_the_jobs_it_shared(
    start: StartSidequest, truth: TruthLog
) -> None:
    """Row 10: it is not certain whose fault it was, so all of them run again, each alone."""
    sq = await start(max_workers=4)
    handles = await sq.enqueue_many([jobs.nap.call(1.0)] * 5)
    await eventually(lambda: len(truth.running()) == 5)
    [victim] = {run.pid for run in truth.running()}
    send(victim, signal.SIGKILL)
    await all_ended(sq)
    records = await all_records(sq)
    report = check([handle.id for handle in handles], records, truth, jobs.EXPECTED)
    report.assert_clean()
    assert {(record.attempt, record.isolated) for record in records} == {(1, True)}
    second = [runs[1] for runs in truth.runs().values()]
    assert len({run.pid for run in second}) > 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_job_that_holds_the_gil_does_not_outlive_its_engine(
    start: StartSidequest, truth: TruthLog, tmp_path: Path
) -> None:
    """Row 6: its worker cannot see that the engine is gone, so the app kills it before the job runs again."""
    sq = await start(max_workers=2)
    handle = await sq.enqueue(jobs.hog.call(str(tmp_path / "flag")))
    await eventually((tmp_path / "flag").exists)
    os.kill(engine_pid(sq), signal.SIGKILL)
    await all_ended(sq)
    report = check([handle.id], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.reruns == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_worker_that_nobody_can_kill_any_more_ends_by_itself(sq: Sidequest, host: StartHost, truth: TruthLog) -> None:
    """App and engine die at once, while a job blocks the loop that would see the end of the line."""
    one = await host(max_workers=2)
    await sq.enqueue(jobs.block.call(60.0))
    await eventually(truth.running)
    kill_all([*one.app, *one.engines])
    await eventually(lambda: not one.workers, within=5)
