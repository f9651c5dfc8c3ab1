"""The three processes: how they start, stop, die and come back; and that nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from sidequest import BackendUnavailable, ConfigError, EngineStartError, JobFailed, Sidequest, SidequestError, State
from sidequest.backends.sqlite.backend import SqliteBackend
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import engine_pid, eventually, in_state, marked_engines, marked_processes


async def test_what_had_ended_in_a_worker_that_dies_does_not_run_again(start: StartSidequest, tmp_path: Path) -> None:
    """Short jobs follow each other in one worker, which tells of their ends now and then; each of five kills it."""
    log = tmp_path / "log"
    sq = await start(max_workers=1)

    async def run(*words: str) -> None:
        for handle in await sq.enqueue_many([jobs.mark_or_die.call(str(log), word) for word in words]):
            await handle.wait(timeout=30)

    for _ in range(4):  # it gets known that they are short
        await run(*(["short"] * 40))
    words = [str(n) for n in range(200)]
    for at in (180, 140, 90, 60, 7):
        words.insert(at, "die")
    await run(*words)
    marked = Counter(log.read_text().split())
    assert marked == Counter({"short": 160} | {str(n): 1 for n in range(200)})


async def test_kill_9_of_the_app_leaves_no_process_and_loses_no_job(url: str, mark: str, tmp_path: Path) -> None:
    script = tmp_path / "doomed_app.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio
        from sidequest import Sidequest
        from tests.integration import sample_jobs as jobs

        async def main():
            async with Sidequest({url!r}, shutdown_timeout=1):
                for _ in range(3):
                    await jobs.sleep.enqueue(30)
                    await jobs.nap.enqueue(30)
                for _ in range(20):
                    await jobs.add.options(queue="later", delay=600).enqueue(1, 2)
                print("running", flush=True)
                await asyncio.sleep(60)

        if __name__ == "__main__":
            asyncio.run(main())
        """)
    )
    log = tmp_path / "log"
    with log.open("w") as out:
        app = subprocess.Popen([sys.executable, str(script)], stdout=out, stderr=out, cwd=Path.cwd(), env=_environment())
    await eventually(lambda: "running" in log.read_text())
    async with Sidequest(url, engine="off") as sq:
        await eventually(lambda: in_state(sq, State.RUNNING, 6))
        assert len(marked_processes(mark)) >= 5
        app.kill()
        app.wait()
        await eventually(lambda: not marked_processes(mark), within=10)
        counts = await sq.jobs.count()
        assert counts == {**dict.fromkeys(State, 0), State.WAITING: 26}
        [record, *_] = await sq.jobs.list(name=jobs.sleep.name, limit=1)
        assert (record.attempt, record.interrupts, record.errors[0].kind) == (0, 1, "interrupt")
    async with Sidequest(url) as sq:
        for record in await sq.jobs.list(queue="later"):
            await sq.jobs.run_now(record.id)
        await eventually(lambda: in_state(sq, State.COMPLETED, 20))
        await eventually(lambda: in_state(sq, State.RUNNING, 6))
        for record in await sq.jobs.list(state="running"):
            await sq.jobs.cancel(record.id)


async def test_kill_9_of_the_engine_brings_a_new_one_and_every_job_ends(start: StartSidequest, mark: str) -> None:
    sq = await start(max_workers=3)
    handles = [await jobs.nap.enqueue(0.4) for _ in range(30)] + [await jobs.sleep.enqueue(0.2) for _ in range(10)]
    await eventually(lambda: in_state(sq, State.RUNNING, 5))
    first = engine_pid(sq)
    os.kill(first, signal.SIGKILL)
    ends = await asyncio.gather(*(handle.wait(timeout=20) for handle in handles))
    assert set(ends) == {State.COMPLETED}
    assert engine_pid(sq) != first
    records = [await handle.refresh() for handle in handles]
    assert {record.attempt for record in records} == {1}
    assert any(record.interrupts for record in records)
    assert first not in marked_processes(mark)


async def test_an_engine_that_dies_again_and_again_comes_back_each_time(start: StartSidequest) -> None:
    sq = await start()
    for _ in range(2):
        os.kill(engine_pid(sq), signal.SIGKILL)
        handle = await jobs.add.enqueue(1, 2)
        assert await handle.result(timeout=15) == 3
    assert sq._hosting.engine.restarts == 2


@pytest.mark.database("sqlite")
async def test_a_new_engine_finds_the_database_also_when_the_app_has_gone_elsewhere(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with Sidequest("sqlite:///relative.db") as sq:
        monkeypatch.chdir(tmp_path / "elsewhere")
        os.kill(engine_pid(sq), signal.SIGKILL)
        assert await (await jobs.add.enqueue(1, 2)).result(timeout=15) == 3


async def test_jobs_enqueued_while_there_is_no_engine_wait_for_the_next_one(start: StartSidequest) -> None:
    sq = await start()
    os.kill(engine_pid(sq), signal.SIGKILL)
    handles = await sq.enqueue_many([jobs.add.call(i, 1) for i in range(50)])
    assert [await handle.result(timeout=15) for handle in handles] == [i + 1 for i in range(50)]


async def test_stopping_lets_running_jobs_finish(url: str) -> None:
    async with Sidequest(url) as sq:
        handles = [await jobs.nap.enqueue(0.6), await jobs.sleep.enqueue(0.6)]
        waiting = await jobs.add.options(delay=60).enqueue(1, 2)
        await eventually(lambda: in_state(sq, State.RUNNING, 2))
    async with Sidequest(url, engine="off") as sq:
        assert [(await sq.handle(handle.id).refresh()).state for handle in handles] == [State.COMPLETED] * 2
        assert (await sq.handle(waiting.id).refresh()).state is State.WAITING


async def test_stopping_interrupts_what_takes_too_long_and_gives_the_attempt_back(url: str) -> None:
    async with Sidequest(url, shutdown_timeout=0.2, max_workers=3) as sq:
        calls = [jobs.nap.call(60), jobs.sleep.call(60), jobs.stubborn.options(timeout=None, max_attempts=3).call()]
        handles = [await sq.enqueue(call) for call in calls]
        await eventually(lambda: in_state(sq, State.RUNNING, 3))
        began = time.monotonic()
    assert time.monotonic() - began < 8
    async with Sidequest(url, engine="off") as sq:
        records = [await sq.handle(handle.id).refresh() for handle in handles]
    assert [(r.state, r.attempt, r.interrupts, r.lease) for r in records] == [(State.WAITING, 0, 1, None)] * 3


async def test_stopping_under_continual_insertion_leaves_no_job_in_hand(url: str) -> None:
    async with Sidequest(url, engine="off") as producer:

        async def insert_for_ever() -> None:
            while True:
                await producer.enqueue_many([jobs.add.call(1, 2) for _ in range(50)])

        async with Sidequest(url) as sq:
            inserting = asyncio.create_task(insert_for_ever())
            await eventually(lambda: in_state(sq, State.COMPLETED, 300))
        inserting.cancel()
        counts = await producer.jobs.count()
        assert (counts[State.CLAIMED], counts[State.RUNNING]) == (0, 0)
        assert counts[State.WAITING] > 0


async def test_start_and_stop_are_idempotent_and_may_come_from_different_tasks(url: str) -> None:
    sq = Sidequest(url)
    await sq.stop()
    await asyncio.gather(asyncio.create_task(sq.start()), asyncio.create_task(sq.start()))
    assert await (await jobs.add.enqueue(1, 2)).result(timeout=10) == 3
    await asyncio.gather(asyncio.create_task(sq.stop()), sq.stop())
    await sq.stop()
    await sq.start()
    assert await (await jobs.add.enqueue(2, 2)).result(timeout=10) == 4
    await asyncio.create_task(sq.stop())


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.2, 0.3])
async def test_a_start_that_is_cancelled_leaves_nothing(url: str, mark: str, after: float) -> None:
    sq = Sidequest(url)
    starting = asyncio.create_task(sq.start())
    await asyncio.sleep(after)
    starting.cancel()
    await asyncio.wait([starting])
    await sq.stop()
    await eventually(lambda: not marked_processes(mark), within=5)


async def test_an_error_in_the_body_is_not_replaced(url: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Sidequest(url):
            raise KeyError("mine")


async def test_an_engine_that_cannot_start_says_why(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\nexit 3\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(false))
    with pytest.raises(EngineStartError, match="exit code 3"):
        await Sidequest(url).start()


async def test_an_engine_that_does_not_become_ready_is_given_up(
    url: str, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    with pytest.raises(EngineStartError, match=r"0\.3 s"):
        await Sidequest(url, start_timeout=0.3).start()
    assert not marked_processes(mark)


async def test_the_engines_own_error_reaches_the_app(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sidequest(url, engine="off"):
        pass
    monkeypatch.setattr(
        "sidequest.app.engine_process.EngineProcess._orders", lambda self, _: _orders_for("sqlite:////nowhere/x.db")
    )
    with pytest.raises(EngineStartError, match="/nowhere"):
        await Sidequest(url).start()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_the_engine_process_begins_while_the_app_opens_the_database(
    url: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def open_late(self: SqliteBackend) -> None:
        await eventually(lambda: marked_engines(mark))
        seen.extend(marked_engines(mark))
        await SqliteBackend._open(self)

    monkeypatch.setattr(SqliteBackend, "open", open_late)
    async with Sidequest(url) as sq:
        assert seen == [engine_pid(sq)]
        assert await (await jobs.add.enqueue(1, 2)).result(timeout=10) == 3


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_an_app_that_cannot_open_its_database_leaves_the_engine_to_others(
    url: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(SqliteBackend, "open", _no_database)
        with pytest.raises(BackendUnavailable):
            await Sidequest(url).start()
    assert not marked_processes(mark)
    assert time.monotonic() - began < 5  # nobody waits for what has nothing to finish
    async with Sidequest(url) as sq:
        assert (await sq.status()).client.role == "owner"


@pytest.mark.database("sqlite")
async def test_a_database_that_cannot_be_opened_is_an_error_of_start() -> None:
    with pytest.raises((ConfigError, BackendUnavailable), match="/nowhere"):
        await Sidequest("sqlite:////nowhere/jobs.db").start()


async def test_two_engines_share_the_work_and_run_nothing_twice(start: StartSidequest, tmp_path: Path) -> None:
    one = await start(max_workers=2, engine="process")
    await start(max_workers=2, engine="process")
    path = tmp_path / "log"
    handles = await one.enqueue_many([jobs.mark.call(str(path), str(i)) for i in range(300)])
    for handle in handles:
        await handle.wait(timeout=20)
    assert sorted(map(int, path.read_text().split())) == list(range(300))


async def test_a_dead_host_s_jobs_are_rescued_by_another_engine(start: StartSidequest, mark: str) -> None:
    quick = {"heartbeat_interval": 0.1, "lease_life": 0.6, "rescue_interval": 0.2, "engine": "process"}
    doomed = await start(**quick, max_workers=2)
    handles = [await doomed.enqueue(jobs.nap.call(2.0)), await doomed.enqueue(jobs.sleep.call(2.0))]
    await eventually(lambda: in_state(doomed, State.RUNNING, 2))
    doomed._hosting.engine._stopping = True  # as if the whole host had gone: nobody starts a new engine
    os.kill(engine_pid(doomed), signal.SIGKILL)
    rescuer = await start(**quick)
    for handle in handles:
        assert await rescuer.handle(handle.id).wait(timeout=10) is State.COMPLETED
        record = await rescuer.handle(handle.id).refresh()
        assert (record.attempt, record.interrupts) == (1, 1)


async def test_a_long_healthy_job_is_not_rescued(start: StartSidequest) -> None:
    quick = {"heartbeat_interval": 0.1, "lease_life": 0.3, "rescue_interval": 0.1, "engine": "process"}
    one = await start(**quick)
    handle = await one.enqueue(jobs.sleep.call(1.5))
    await start(**quick)
    assert await handle.wait(timeout=10) is State.COMPLETED
    assert (await handle.refresh()).interrupts == 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_an_engine_drains_when_somebody_signals_it(start: StartSidequest, signals: int) -> None:
    sq = await start()
    handle = await jobs.nap.enqueue(1.0)
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    for _ in range(signals):
        os.kill(engine_pid(sq), signal.SIGTERM)
        await asyncio.sleep(0.1)
    assert await handle.wait(timeout=15) is State.COMPLETED
    assert (await handle.refresh()).interrupts == signals - 1


async def test_a_terminal_s_interrupt_does_not_reach_jobs(start: StartSidequest) -> None:
    sq = await start()
    pid = await (await jobs.sleep.enqueue(0)).result(timeout=10)
    handle = await jobs.sleep.enqueue(0.5)
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert await handle.result(timeout=10) == pid


async def test_a_hung_engine_is_killed_and_replaced(start: StartSidequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidequest.app.engine_process.PING_INTERVAL", 0.1)
    monkeypatch.setattr("sidequest.app.engine_process.HUNG_AFTER", 0.3)
    sq = await start()
    first = engine_pid(sq)
    os.kill(first, signal.SIGSTOP)
    handle = await jobs.add.enqueue(1, 2)
    assert await handle.result(timeout=15) == 3
    assert engine_pid(sq) != first


async def test_sidequest_in_a_worker_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SIDEQUEST_WORKER", str(os.getpid()))
    with pytest.raises(RuntimeError, match="__main__"):
        await Sidequest(url).start()
    assert not issubclass(RuntimeError, SidequestError)


async def _no_database(self: object) -> None:
    raise BackendUnavailable("no database")


def _orders_for(url: str) -> dict[str, object]:
    from sidequest.config import Settings

    return {
        "settings": Settings.collect(url, {}).to_json(),
        "path": sys.path,
        "script": None,
        "predecessor": None,
        "parent": os.getpid(),
    }


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


async def test_who_waits_for_a_job_while_everything_stops_is_told_so(url: str) -> None:
    async with Sidequest(url, shutdown_timeout=0.1) as sq:
        handle = await jobs.add.options(delay=60).enqueue(1, 2)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        await sq.stop()
        with pytest.raises(SidequestError, match="was stopped while this waited"):
            await waiting


async def test_a_job_that_uses_the_apps_own_sidequest_is_told_what_to_use(url: str, sq: Sidequest) -> None:
    handle = await jobs.uses_a_module_level_sidequest.enqueue()
    with pytest.raises(JobFailed, match=r"ctx\.sidequest"):
        await handle.result(timeout=10)
