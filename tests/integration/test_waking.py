"""Jobs start at once, whichever process of this host enqueued them: the polls here come far too late for that."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidequest import JobHandle, JobRecord, Sidequest, State
from sidequest.wire.wake_socket import STREAM, LocalEngines
from tests.conformance.callers import WAYS
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import engine_pid, eventually

RARELY = {"polling_interval": 5, "engine": "process"}
"""An engine that is not woken looks after five seconds, and ever less often; each test says how many there are."""
AT_ONCE = timedelta(seconds=0.5)
ON_TIME = timedelta(seconds=0.25)
PAIRS = [(database, way) for database, ways in WAYS.items() for way in ways]


@pytest.fixture
async def engine(start: StartSidequest, runtime: Path) -> Sidequest:
    """Somebody else's engine, at rest."""
    return await at_rest(await start(**RARELY))


@pytest.fixture
async def other(start: StartSidequest, engine: Sidequest) -> Sidequest:
    """A process without an engine, as far as the engine can tell: there is no pipe between them."""
    return await start(engine="off")


async def at_rest(sq: Sidequest, queue: str = "default") -> Sidequest:
    """As soon as it has a worker, and nothing else to look for."""
    await (await sq.enqueue(jobs.add.options(queue=queue).call(1, 1))).result(timeout=15)
    await asyncio.sleep(0.3)
    return sq


async def served_apart(start: StartSidequest) -> Sidequest:
    """One of two engines: its own serves `mail`, the other one `reports`."""
    mail, reports = await start(**RARELY, queues=["mail"]), await start(**RARELY, queues=["reports"])
    await at_rest(reports, "reports")
    return await at_rest(mail, "mail")


async def ended(handle: JobHandle[Any]) -> JobRecord:
    assert await handle.wait(timeout=15) in (State.COMPLETED, State.CANCELED)
    return await handle.refresh()


def waited(record: JobRecord) -> timedelta:
    """How long the job waited since it was due."""
    assert record.started_at is not None
    return record.started_at - max(record.available_at, record.inserted_at)


def cli(url: str, *argv: str) -> str:
    command = [sys.executable, "-m", "sidequest", *argv, "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def sockets(runtime: Path) -> list[str]:
    """By which engines are woken, beside those by which they are asked."""
    return sorted(path.name for path in runtime.glob("sidequest/*") if path.is_socket() and path.suffix != STREAM)


# Starting


async def test_a_job_of_a_process_without_an_engine_starts_at_once(other: Sidequest) -> None:
    for _ in range(3):
        assert waited(await ended(await other.enqueue(jobs.add.call(1, 2)))) < AT_ONCE


async def test_a_job_of_a_script_that_ends_right_away_starts_at_once(url: str, engine: Sidequest, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio
        from sidequest import Sidequest, call_by_name

        async def main():
            async with Sidequest({url!r}, engine="off") as sq:
                print((await sq.enqueue(call_by_name({jobs.add.name!r}, 1, 2))).id)

        asyncio.run(main())
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script_run = await asyncio.to_thread(
        subprocess.run, [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert waited(await ended(engine.handle(int(script_run.stdout)))) < AT_ONCE


async def test_a_job_of_the_command_line_starts_at_once(url: str, engine: Sidequest) -> None:
    id = await asyncio.to_thread(cli, url, "jobs", "enqueue", jobs.add.name, "[1, 2]")
    assert waited(await ended(engine.handle(int(id)))) < AT_ONCE


async def test_what_the_command_line_sets_in_motion_starts_at_once(url: str, engine: Sidequest) -> None:
    later = await engine.enqueue(jobs.add.options(delay=600).call(1, 2))
    await asyncio.to_thread(cli, url, "jobs", "run", str(later.id))
    assert waited(await ended(later)) < AT_ONCE
    await asyncio.to_thread(cli, url, "jobs", "retry", str(later.id))
    assert waited(await ended(later)) < AT_ONCE
    await asyncio.to_thread(cli, url, "queues", "create", "line", "--paused")
    paused = await engine.enqueue(jobs.add.options(queue="line").call(1, 2))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(cli, url, "queues", "resume", "line")
    resumed = asyncio.get_running_loop().time()
    await ended(paused)
    assert asyncio.get_running_loop().time() - resumed < AT_ONCE.total_seconds()


async def test_a_job_starts_at_once_in_the_engine_that_serves_its_queue(start: StartSidequest, runtime: Path) -> None:
    mail = await served_apart(start)
    for queue in ("mail", "reports", "reports", "mail"):
        handle = await mail.enqueue(jobs.add.options(queue=queue).call(1, 2))
        assert waited(await ended(handle)) < AT_ONCE


async def test_a_job_that_a_running_job_enqueues_starts_at_once_in_another_engine(start: StartSidequest, runtime: Path) -> None:
    mail = await served_apart(start)
    parent = await mail.enqueue(jobs.enqueue_in.options(queue="mail").call("reports"))
    assert waited(await ended(mail.handle(await parent.result(timeout=15)))) < AT_ONCE


async def test_what_a_stopping_engine_gives_back_starts_at_once_in_another(
    start: StartSidequest, url: str, runtime: Path
) -> None:
    async with Sidequest(url, **RARELY, shutdown_timeout=0.1) as leaving:
        handle = await leaving.enqueue(jobs.nap.call(60))
        await eventually(lambda: _is_running(handle))
        staying = await at_rest(await start(**RARELY))
    stopped = asyncio.get_running_loop().time()
    await eventually(lambda: _is_running(staying.handle(handle.id)))
    assert asyncio.get_running_loop().time() - stopped < AT_ONCE.total_seconds()
    await staying.jobs.cancel(handle.id)


@pytest.mark.parametrize("database", ["postgres", "mongodb"], indirect=True)
async def test_a_job_of_another_host_starts_at_once_where_the_database_can_tell(
    engine: Sidequest, other: Sidequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngines, "wake", lambda *_, **__: None)
    for _ in range(3):
        assert waited(await ended(await other.enqueue(jobs.add.call(1, 2)))) < AT_ONCE


@pytest.mark.parametrize("delay", [0.3, 0.75])
async def test_a_delayed_job_of_another_process_starts_on_time(engine: Sidequest, other: Sidequest, delay: float) -> None:
    far = await engine.enqueue(jobs.add.options(delay=3_600).call(1, 2))
    handle = await other.enqueue(jobs.add.options(delay=delay).call(1, 2))
    assert timedelta(0) <= waited(await ended(handle)) < ON_TIME
    assert (await far.refresh()).state is State.WAITING


async def test_two_delayed_jobs_in_a_row_both_start_on_time(other: Sidequest) -> None:
    """The second comes right after the look that the first one caused, and is due before it."""
    late = await other.enqueue(jobs.add.options(delay=0.8).call(1, 2))
    await other.enqueue(jobs.add.call(1, 2))
    early = await other.enqueue(jobs.add.options(delay=0.4).call(1, 2))
    for handle in (early, late):
        assert waited(await ended(handle)) < ON_TIME


@pytest.mark.parametrize(("database", "way"), PAIRS, indirect=["database"])
@pytest.mark.parametrize("took", [0.05, 0.6])
async def test_a_job_starts_soon_after_its_transaction_is_committed(
    url: str, engine: Sidequest, other: Sidequest, database: str, way: str, took: float
) -> None:
    async with WAYS[database][way](url) as user:
        handle = await other.enqueue(jobs.add.call(1, 2), connection=user.connection)
        await asyncio.sleep(took)
        await user.commit()
        committed = asyncio.get_running_loop().time()
    await ended(handle)
    assert asyncio.get_running_loop().time() - committed < AT_ONCE.total_seconds()


# Canceling


async def test_a_cancel_of_another_process_is_felt_at_once(engine: Sidequest, other: Sidequest) -> None:
    for _ in range(3):  # without a call the engine looks once a second: one of them could be lucky
        handle = await other.enqueue(jobs.nap.call(60))
        await eventually(lambda handle=handle: _is_running(handle))
        await asyncio.sleep(0.1)
        assert await handle.cancel() == "requested"
        asked = datetime.now(UTC)
        record = await ended(handle)
        assert record.finished_at is not None
        assert record.finished_at - asked < timedelta(seconds=0.3)


# What is left


async def test_nothing_is_left_of_engines_that_stop(url: str, runtime: Path) -> None:
    async with Sidequest(url, engine="process"), Sidequest(url, engine="process"):
        assert len(sockets(runtime)) == 2
    assert list(runtime.glob("sidequest/*")) == []


async def test_an_app_without_an_engine_leaves_no_trace(url: str, runtime: Path) -> None:
    async with Sidequest(url, engine="off") as sq:
        await sq.enqueue(jobs.add.call(1, 2))
        assert list(runtime.iterdir()) == []


async def test_the_sockets_of_a_killed_engine_are_swept_by_the_next_one(start: StartSidequest, runtime: Path) -> None:
    sq = await start(**RARELY)
    [first] = sockets(runtime)
    for name in (first, f"{first}{STREAM}"):
        await eventually((runtime / "sidequest" / name).exists)
        os.utime(runtime / "sidequest" / name, (0, 0))
    os.kill(engine_pid(sq), signal.SIGKILL)
    await eventually(lambda: sockets(runtime) not in ([], [first]))
    assert len(sockets(runtime)) == 1
    await eventually(lambda: not list(runtime.glob(f"sidequest/{first}*")))
    assert await (await sq.enqueue(jobs.add.call(1, 2))).result(timeout=15) == 3


async def test_where_no_socket_may_be_jobs_are_found_by_polling(
    start: StartSidequest, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    for name in ("sidequest", f"sidequest-{os.geteuid()}"):
        (runtime / name).touch()
    await start()
    other = await start(engine="off")
    assert waited(await ended(await other.enqueue(jobs.add.call(1, 2)))) < timedelta(seconds=2)


async def _is_running(handle: JobHandle[Any]) -> bool:
    return (await handle.refresh()).state is State.RUNNING
