"""`engine="auto"`: who is elected, who takes over, what is told of it; scripts that do not stop what they started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from sidequest import ConfigError, EngineStartError, Sidequest, State
from sidequest.app import engine_process
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually, in_state, marked_engines, marked_processes
from tests.servers.server import Server

pytestmark = pytest.mark.usefixtures("runtime")
sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what has nothing to do with the database."""
RARELY = {"polling_interval": 30}
"""An engine that is not called does nothing for half a minute."""


async def is_running(sq: Sidequest) -> bool:
    return (await sq.status()).engine.state == "running"


async def role(sq: Sidequest) -> str:
    return (await sq.status()).client.role


# Election


async def test_of_several_one_is_elected_and_the_others_jobs_run_in_its_engine(
    start: StartSidequest, mark: str, runtime: Path
) -> None:
    clients = [await start(**RARELY) for _ in range(3)]
    assert [await role(sq) for sq in clients] == ["owner", "client", "client"]
    assert len(marked_engines(mark)) == 1
    for sq in clients:
        assert await (await sq.enqueue(jobs.add.call(1, 2))).result(timeout=15) == 3
    states = [(await sq.status()).engine for sq in clients]
    assert [state.state for state in states] == ["running", "elsewhere", "elsewhere"]
    assert {state.pid for state in states} == set(marked_engines(mark))
    assert len({state.id for state in states}) == 1


async def test_who_stops_hands_over_at_once_while_its_own_engine_drains(url: str, mark: str, start: StartSidequest) -> None:
    owner = Sidequest(url, **RARELY)
    await owner.start()
    client = await start(**RARELY)
    slow = await owner.enqueue(jobs.nap.call(3))
    await eventually(lambda: in_state(client, State.RUNNING, 1))
    stopping = asyncio.create_task(owner.stop())
    await eventually(lambda: is_running(client), within=5)
    assert not stopping.done(), "the old engine still lets its job finish"
    assert await (await client.enqueue(jobs.add.call(1, 2))).result(timeout=15) == 3
    await stopping
    record = await client.handle(slow.id).refresh()
    assert (record.state, record.attempt, record.interrupts) == (State.COMPLETED, 1, 0)
    assert (await role(client), len(marked_engines(mark))) == ("owner", 1)


@sqlite
async def test_other_settings_or_always_an_own_engine_are_not_shared(start: StartSidequest, mark: str) -> None:
    for settings in ({}, {"max_workers": 2}, {"engine": "process"}, {"engine": "process"}):
        sq = await start(**settings)
        assert await role(sq) == "owner"
    assert len(marked_engines(mark)) == 4


@sqlite
async def test_a_failed_first_start_raises_and_leaves_the_election_to_others(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: StartSidequest, runtime: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(_script(tmp_path / "python", "exit 3")))
        with pytest.raises(EngineStartError, match="exit code 3"):
            await Sidequest(url).start()
        assert not list(runtime.glob("sidequest/*"))
    assert await role(await start()) == "owner"


@sqlite
async def test_a_taking_over_that_fails_is_tried_again_with_one_error_for_each_reason(
    url: str, start: StartSidequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_process, "RESTART_WAITS", (0.05,))
    owner = await Sidequest(url).start()
    client = await start()
    tries = tmp_path / "tries"
    python = _script(
        tmp_path / "python", f'echo x >> {tries}; [ $(wc -l < {tries}) -le 4 ] && exit 3; exec {sys.executable} "$@"'
    )
    real = sys.executable
    monkeypatch.setattr(sys, "executable", str(python))
    await owner.stop()
    await eventually(lambda: is_running(client))
    monkeypatch.setattr(sys, "executable", real)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "exit code 3" in errors[0]
    assert await (await client.enqueue(jobs.add.call(1, 2))).result(timeout=15) == 3


@sqlite
async def test_where_no_lock_may_be_each_has_its_own_engine_and_says_so_once(
    start: StartSidequest, runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mark: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    for name in ("sidequest", f"sidequest-{os.geteuid()}"):
        (runtime / name).touch()
    for _ in range(2):
        assert await role(await start()) == "owner"
    assert len(marked_engines(mark)) == 2
    warnings = [record.message for record in caplog.records if "starts its own" in record.message]
    assert len(warnings) == 2, "one for each process"


@sqlite
async def test_a_client_that_stops_before_it_took_over_starts_nothing(url: str, mark: str, runtime: Path) -> None:
    async with Sidequest(url), Sidequest(url):
        [first] = marked_engines(mark)
        seen = {first}
    seen.update(marked_engines(mark))
    assert seen == {first}
    assert not list(runtime.glob("sidequest/*"))


@sqlite
async def test_a_client_that_stops_while_it_takes_over_leaves_nothing(url: str, mark: str, runtime: Path) -> None:
    for pause in (0.0, 0.3, 0.5, 0.6, 0.8, 1.0):
        owner, client = await Sidequest(url).start(), await Sidequest(url).start()
        await owner.stop()
        await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            await client.stop()
        assert not marked_engines(mark)
        assert not list(runtime.glob("sidequest/*"))


# What is told


async def test_the_status_says_it_all(start: StartSidequest, url: str) -> None:
    sq = await start(max_concurrent_jobs=2, max_workers=2)
    napping = await sq.enqueue_many([jobs.nap.call(30), jobs.nap.call(30)])
    await eventually(lambda: in_state(sq, State.RUNNING, 2))
    status = await sq.status()
    assert status.client == type(status.client)(os.getpid(), "auto", "owner")
    engine = status.engine
    assert (engine.state, engine.restarts, engine.running_jobs, engine.held_jobs) == ("running", 0, 2, 2)
    assert engine.id == sq.engine_id
    assert engine.claiming is False
    assert "max_concurrent_jobs" in (engine.not_claiming or "")
    assert status.database.reachable
    assert status.database.round_trip is not None
    assert timedelta(0) < status.database.round_trip < timedelta(seconds=5)
    assert (status.database.error, status.database.engines, status.wake_up.road) == (None, 1, "pipe")
    for handle in napping:
        await handle.cancel()
    await eventually(lambda: _claims(sq))


async def test_engines_are_listed_with_what_they_hold(start: StartSidequest) -> None:
    sq = await start()
    other = await start(engine="process", queues=["nothing"])
    handle = await sq.enqueue(jobs.nap.call(30))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    listed = await other.engines.list()
    assert [(engine.id, engine.running, engine.queues) for engine in listed] == [
        (sq.engine_id, 1, "*"), (other.engine_id, 0, "nothing"),
    ]  # fmt: skip
    await handle.cancel()


@pytest.mark.parametrize("database", ["postgres", "mysql"], indirect=True)
async def test_the_status_of_an_outage_is_no_error_and_comes_soon(start: StartSidequest, server: Server) -> None:
    sq, off = await start(), await start(engine="off")
    await asyncio.to_thread(server.kill)
    for one in (sq, off):
        async with asyncio.timeout(4):
            status = await one.status()
        assert not status.database.reachable
        assert status.database.error
        assert status.database.round_trip is None
    assert (await sq.status()).engine.state == "running"
    await eventually(lambda: _says_why_it_does_not_claim(sq))
    await asyncio.to_thread(server.start)
    await eventually(lambda: _is_reachable(sq))
    await eventually(lambda: _claims(sq), within=30)


@pytest.mark.parametrize("database", ["postgres", "mysql"], indirect=True)
async def test_the_status_comes_soon_while_the_database_stands_still(start: StartSidequest, server: Server) -> None:
    sq = await start()
    server.freeze()
    try:
        for _ in range(2):
            async with asyncio.timeout(4):
                status = await sq.status()
            assert not status.database.reachable
            assert "no answer" in (status.database.error or "")
    finally:
        server.thaw()
    await eventually(lambda: _is_reachable(sq))


@sqlite
async def test_the_status_of_an_engine_that_hangs_or_restarts_says_so(
    start: StartSidequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "PING_INTERVAL", 0.2)
    monkeypatch.setattr(engine_process, "HUNG_AFTER", 3)
    monkeypatch.setattr(engine_process, "RESTART_WAITS", (3.0,))
    sq = await start()
    before = (await sq.status()).engine
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    await eventually(lambda: _in_engine_state(sq, "hung"))
    hung = (await sq.status()).engine
    assert (hung.id, hung.pid, hung.running_jobs, hung.claiming) == (before.id, before.pid, None, None)
    await eventually(lambda: _in_engine_state(sq, "restarting"))
    await eventually(lambda: is_running(sq))
    after = (await sq.status()).engine
    assert (after.restarts, after.id != before.id) == (1, True)
    assert after.since is not None
    assert before.since is not None
    assert after.since > before.since


@sqlite
async def test_the_status_of_those_without_an_engine_process(url: str, start: StartSidequest) -> None:
    inline, off = await start(engine="inline"), await start(engine="off")
    status = await inline.status()
    assert (status.client.role, status.engine.state, status.engine.claiming, status.wake_up.road) == (
        "inline", "running", True, "inline",
    )  # fmt: skip
    await inline.stop()
    status = await off.status()
    assert (status.client.role, status.engine.state, status.wake_up.road) == ("off", "none", "poll")
    with pytest.raises(ConfigError, match="not started"):
        await inline.status()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_the_status_shows_no_password(url: str) -> None:
    with_password = url.replace("postgres@", "postgres:secret@", 1)  # the server asks for none, and does not mind
    assert with_password != url
    async with Sidequest(with_password, engine="off") as sq:
        status = await sq.status()
    assert status.database.reachable
    assert "secret" not in repr(status)


# Supervision


@sqlite
async def test_an_engine_that_dies_again_and_again_is_one_error(
    start: StartSidequest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "RESTART_WAITS", (0.05,))
    sq = await start()
    for deaths in range(1, 4):
        await eventually(lambda: is_running(sq))
        engine = (await sq.status()).engine
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await eventually(lambda deaths=deaths: _restarted(sq, deaths))
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["the engine process ended unexpectedly (exit code -9); starting a new one"]


@sqlite
async def test_pauses_grow_until_an_engine_was_healthy_for_a_while(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(engine_process, "RESTART_WAITS", (0.01, 0.02, 0.03))
    async with Sidequest(url) as sq:
        assert sq._hosting is not None
        engine = sq._hosting.engine
        for failures in (1, 2):
            await _kill_and_wait(sq)
            assert engine._failures == failures
        monkeypatch.setattr(engine_process, "HEALTHY_AFTER", 0.0)
        await _kill_and_wait(sq)
        assert engine._failures == 1


@sqlite
async def test_an_engine_that_talks_nonsense_is_replaced(start: StartSidequest) -> None:
    sq = await start()
    assert sq._hosting is not None
    process = sq._hosting.engine._process
    assert process is not None
    assert process.stdout is not None
    process.stdout.feed_data(b"\xff" * 64)
    await eventually(lambda: _restarted(sq, 1))
    assert await (await jobs.add.enqueue(1, 2)).result(timeout=15) == 3


@sqlite
async def test_a_directory_that_is_gone_is_an_error_of_the_first_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sq = Sidequest(url)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(EngineStartError, match="could not be started"):
        await sq.start()


@sqlite
async def test_stopping_while_a_new_engine_starts_is_soon_over(url: str, mark: str) -> None:
    for pause in (0.0, 0.1, 0.25, 0.4, 0.6):
        sq = await Sidequest(url).start()
        [engine] = marked_engines(mark)
        os.kill(engine, signal.SIGKILL)
        await asyncio.sleep(pause)
        async with asyncio.timeout(8):
            await sq.stop()
        assert not marked_engines(mark)


@sqlite
async def test_hurrying_gives_running_jobs_back_within_seconds(url: str) -> None:
    async with Sidequest(url, engine="off") as off:
        sq = await Sidequest(url, shutdown_timeout=60).start()
        handle = await off.enqueue(jobs.stubborn.options(timeout=None, max_attempts=3).call())
        await eventually(lambda: in_state(off, State.RUNNING, 1))
        stopping = asyncio.create_task(sq.stop())
        await asyncio.sleep(0.1)
        assert not stopping.done()
        sq.hurry()
        async with asyncio.timeout(10):
            await stopping
        record = await handle.refresh()
        assert (record.state, record.attempt, record.interrupts) == (State.WAITING, 0, 1)


@sqlite
async def test_killing_ends_everything_at_once(url: str, mark: str) -> None:
    sq = await Sidequest(url, shutdown_timeout=60).start()
    await sq.enqueue(jobs.stubborn.options(timeout=None).call())
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    sq.kill()
    async with asyncio.timeout(10):
        await sq.wait()
        await sq.stop()
    assert not marked_processes(mark)


# Scripts


HEAD = """
import asyncio, os, sys, time
from sidequest import Sidequest
from tests.integration import sample_jobs as jobs
URL = {url!r}
"""


@sqlite
@pytest.mark.parametrize(
    "body",
    [
        # ends without a word
        """
        async def main():
            await Sidequest(URL, shutdown_timeout=1).start()
            await jobs.nap.enqueue(60)
            os._exit(0)
        asyncio.run(main())
        """,
        # forgets to stop
        """
        async def main():
            await Sidequest(URL, shutdown_timeout=1).start()
            await jobs.nap.enqueue(60)
        asyncio.run(main())
        """,
        # leaves its loop in the middle of everything
        """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(Sidequest(URL, shutdown_timeout=1).start())
        loop.run_until_complete(jobs.nap.enqueue(60))
        """,
        # raises
        """
        async def main():
            async with Sidequest(URL, shutdown_timeout=1):
                await jobs.nap.enqueue(60)
                raise SystemExit(3)
        asyncio.run(main())
        """,
        # leaves a forked child that has the pipe to the engine open
        """
        async def main():
            async with Sidequest(URL, shutdown_timeout=1):
                await jobs.nap.enqueue(60)
                if os.fork() == 0:
                    time.sleep(3)
                    os._exit(0)
                os.kill(os.getpid(), 9)
        asyncio.run(main())
        """,
    ],
    ids=["_exit", "no stop", "loop left", "SystemExit", "forked child"],
)
@pytest.mark.parametrize("way", ["script", "-c", "-m"])
async def test_a_script_that_does_not_stop_it_leaves_nothing(url: str, mark: str, tmp_path: Path, way: str, body: str) -> None:
    code = HEAD.format(url=url) + textwrap.dedent(body)
    file = tmp_path / "script.py"
    file.write_text(code)
    arguments = {"script": [str(file)], "-c": ["-c", code], "-m": ["-m", "script"]}[way]
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=Path.cwd(),
            env=os.environ | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    await asyncio.wait_for(asyncio.to_thread(process.wait), 30)
    await eventually(lambda: not marked_processes(mark), within=10)
    async with Sidequest(url, engine="off") as sq:  # it has come so far
        assert [record.name for record in await sq.jobs.list()] == [jobs.nap.name], (tmp_path / "log").read_text()


@sqlite
async def test_an_engine_goes_with_its_app_also_while_a_forked_child_holds_its_pipe(
    url: str, mark: str, tmp_path: Path
) -> None:
    code = HEAD.format(url=url) + textwrap.dedent("""
        async def main():
            async with Sidequest(URL, shutdown_timeout=1):
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                os.kill(os.getpid(), 9)
        asyncio.run(main())
        """)
    (tmp_path / "script.py").write_text(code)
    process = _run(tmp_path / "script.py")
    await asyncio.to_thread(process.wait)
    await eventually(lambda: not marked_engines(mark), within=5)
    await eventually(lambda: len(marked_processes(mark)) == 1, within=5)
    [child] = marked_processes(mark)
    os.kill(child, signal.SIGKILL)


@sqlite
async def test_an_app_that_dies_while_its_engine_starts_leaves_nothing(url: str, mark: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        HEAD.format(url=url) + "asyncio.get_event_loop_policy().new_event_loop().run_until_complete(Sidequest(URL).start())"
    )
    for pause in (0.0, 0.1, 0.2, 0.3):
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py")], env=os.environ | {"PYTHONPATH": str(Path.cwd())}
        )
        await eventually(lambda: marked_engines(mark), within=20)
        await asyncio.sleep(pause)
        process.kill()
        process.wait()
        await eventually(lambda: not marked_processes(mark), within=10)


def _run(file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(file)], env=os.environ | {"PYTHONPATH": str(Path.cwd())})


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


async def _kill_and_wait(sq: Sidequest) -> None:
    engine = (await sq.status()).engine
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await eventually(lambda: _restarted(sq, engine.restarts + 1))


async def _in_engine_state(sq: Sidequest, state: str) -> bool:
    return (await sq.status()).engine.state == state


async def _restarted(sq: Sidequest, times: int) -> bool:
    engine = (await sq.status()).engine
    return engine.restarts == times and engine.state == "running"


async def _claims(sq: Sidequest) -> bool:
    return (await sq.status()).engine.claiming is True


async def _says_why_it_does_not_claim(sq: Sidequest) -> bool:
    engine = (await sq.status()).engine
    return engine.claiming is False and "failed" in (engine.not_claiming or "")


async def _is_reachable(sq: Sidequest) -> bool:
    return (await sq.status()).database.reachable
