"""A process dies at each arrow of a job's life: the job ends all the same, is charged nothing, and runs as often as it must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidequest import Sidequest, State
from sidequest.failpoints import VARIABLE
from tests.chaos import chaos_jobs as jobs
from tests.chaos.conftest import StartHost, StartSidequest, all_ended, all_records
from tests.chaos.truth import TruthLog, check
from tests.integration.waiting import engine_pid, eventually

MIX = [jobs.touch.call(), jobs.glance.call(), jobs.nap.call(0.2), jobs.work.call(0.2)] * 3
STORE_ARROWS = [
    "claim.before_commit",
    "claim.after_commit",
    "running.before_write",
    "running.after_write",
    "end.before_write",
    "end.after_write",
]


async def died_once(sq: Sidequest, start: StartSidequest, monkeypatch: pytest.MonkeyPatch, points: str) -> Sidequest:
    """A running Sidequest whose first engine, and none after it, dies as the points say, with jobs that make it do so."""
    monkeypatch.setenv(VARIABLE, points)
    one = await start(max_workers=2)
    monkeypatch.delenv(VARIABLE)
    await one.enqueue_many(MIX)
    await all_ended(sq)
    return one


@pytest.mark.parametrize("arrow", STORE_ARROWS)
async def test_an_engine_that_dies_at_an_arrow_loses_and_charges_nothing(
    arrow: str, sq: Sidequest, start: StartSidequest, truth: TruthLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 4 to 8."""
    one = await died_once(sq, start, monkeypatch, f"{arrow}=kill@1")
    assert one._hosting.engine.restarts == 1
    records = await all_records(sq)
    report = check([], records, truth, jobs.EXPECTED)
    assert report.jobs == len(MIX)
    report.assert_clean()
    interrupted = {record.id for record in records if record.interrupts}
    rerun = {id for id, runs in truth.runs().items() if len(runs) > 1}
    assert rerun <= interrupted
    match arrow:
        case "claim.before_commit":
            assert not interrupted
        case "claim.after_commit":
            assert interrupted
            assert not rerun
        case "end.before_write":
            assert rerun


async def test_a_job_whose_end_was_written_does_not_run_again(
    sq: Sidequest, start: StartSidequest, truth: TruthLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 8: the first ends are written, and then the engine dies before anybody hears of them."""
    monkeypatch.setenv(VARIABLE, "end.after_write=kill@1")
    one = await start(max_workers=2)
    monkeypatch.delenv(VARIABLE)
    handle = await one.enqueue(jobs.touch.call())
    assert await handle.result(timeout=20) == handle.id
    await eventually(lambda: one._hosting.engine.restarts == 1)
    assert len(truth.runs()[handle.id]) == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("arrow", ["start.before_send", "start.after_send", "heartbeat.before_beat", "cancel.before_halt"])
async def test_an_engine_that_dies_on_the_way_to_its_workers_loses_and_charges_nothing(
    arrow: str, sq: Sidequest, start: StartSidequest, truth: TruthLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"{arrow}=exit:9@1")
    one = await start(max_workers=2)
    monkeypatch.delenv(VARIABLE)
    await one.enqueue_many([*MIX, jobs.nap.call(1.5)])  # long enough for a heartbeat, and for a look for cancels
    await all_ended(sq)
    assert one._hosting.engine.restarts == 1
    check([], await all_records(sq), truth, jobs.EXPECTED).assert_clean()


@pytest.mark.parametrize("arrow", ["rescue.before_write", "rescue.after_write", "engine.before_ready"])
async def test_an_engine_that_dies_while_it_takes_over_is_taken_over_itself(
    arrow: str, sq: Sidequest, start: StartSidequest, truth: TruthLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start(max_workers=2)
    await one.enqueue_many([jobs.nap.call(0.7), jobs.work.call(0.7)] * 2)
    await eventually(lambda: truth.started() >= 3)
    monkeypatch.setenv(VARIABLE, f"{arrow}=kill@1")  # for the second engine, and for as long as it takes to start it
    os.kill(engine_pid(one), signal.SIGKILL)
    await eventually(lambda: one._hosting.engine._failures == 1)  # it was told its environment in the same breath
    monkeypatch.delenv(VARIABLE)
    await all_ended(sq)
    assert (one._hosting.engine.restarts, one._hosting.engine._failures) == (1, 2)
    check([], await all_records(sq), truth, jobs.EXPECTED).assert_clean()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_worker_that_dies_after_its_end_was_sent_costs_nobody_anything(
    sq: Sidequest, start: StartSidequest, truth: TruthLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "worker.after_send=kill@2")
    one = await start(max_workers=2)
    await one.enqueue_many([jobs.work.call(0.01)] * 8)
    await all_ended(sq)
    report = check([], await all_records(sq), truth, jobs.EXPECTED)
    report.assert_clean()
    assert report.runs == report.jobs
    assert len({run.pid for runs in truth.runs().values() for run in runs}) >= 4


# The app's own arrows

APP = """
import asyncio, sys
from sidequest import Sidequest
from tests.chaos import chaos_jobs as jobs

async def main():
    async with Sidequest(sys.argv[1], engine="off"):
        await jobs.touch.enqueue()
        print("enqueued", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(("arrow", "jobs_left"), [("enqueue.before_send", 0), ("enqueue.after_commit", 1)])
async def test_an_app_that_dies_while_it_enqueues_leaves_the_job_once_or_not_at_all(
    arrow: str, jobs_left: int, url: str, sq: Sidequest, tmp_path: Path
) -> None:
    """Row 1."""
    done = run_app(url, f"{arrow}=kill", tmp_path)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    assert (await sq.jobs.count())[State.WAITING] == jobs_left


def run_app(url: str, points: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "app.py"
    script.write_text(APP)
    environ = {**os.environ, VARIABLE: points, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(script), url], env=environ, capture_output=True, text=True, check=False, timeout=30, cwd=folder
    )


async def test_an_app_that_dies_leaves_its_jobs_to_end_or_to_wait(
    sq: Sidequest, host: StartHost, truth: TruthLog, scale: Callable[[int], int]
) -> None:
    """Row 2: the engine sees the end of its pipe, lets short jobs end, and gives back the rest."""
    one = await host(max_workers=2, shutdown_timeout=1.0)
    await sq.enqueue_many([jobs.nap.call(0.3), jobs.work.call(0.3), jobs.nap.call(30)] * 2 + [jobs.touch.call()] * scale(20))
    await eventually(lambda: len(truth.running()) >= 4)
    [app] = one.app
    os.kill(app, signal.SIGKILL)
    await eventually(lambda: not one.engines and not one.workers, within=10)
    counts = await sq.jobs.count()
    assert (counts[State.CLAIMED], counts[State.RUNNING]) == (0, 0)
    records = await all_records(sq)
    waiting = [record for record in records if record.state is State.WAITING]
    assert {record.attempt for record in waiting} == {0}
    assert not [run for runs in truth.runs().values() for run in runs if not run.alone]
    for record in waiting:
        if record.args == {"args": [30]}:
            await sq.jobs.cancel(record.id)
    await host(max_workers=2)
    await all_ended(sq)
