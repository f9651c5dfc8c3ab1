"""Web servers as they are: one engine however many workers, taken over when its owner dies, gone with the server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from sidequest import Sidequest, State
from tests.integration.hosts import SERVERS, Host, hosted, open_terminal
from tests.integration.waiting import eventually, in_state, marked_processes

pytestmark = [pytest.mark.database("sqlite"), pytest.mark.usefixtures("runtime")]
SEVERAL = [kind for kind, server in SERVERS.items() if server.workers > 1]
TAKEN_OVER = 5.0
"""Seconds from the owner's death to another one's engine."""


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.mark.parametrize("kind", SERVERS)
async def test_all_workers_of_a_server_share_one_engine_which_each_of_them_can_call(
    kind: str, tmp_path: Path, url: str, mark: str
) -> None:
    async with hosted(kind, tmp_path, url, mark) as host:
        await eventually(lambda: _has_engine(host), within=20)
        workers = await host.everybody()
        assert sorted(found["role"] for found in workers.values()) == ["client"] * (len(workers) - 1) + ["owner"]
        [engine] = host.engines()
        assert {found["engine"] for found in workers.values()} == {engine}
        assert {found["road"] for found in workers.values() if found["role"] == "client"} <= {"socket"}
        ran = await host.everybody("/version", "POST")  # the engine looks every 30 seconds at most: it was called
        assert ran.keys() == workers.keys()
        assert {found["result"] for found in ran.values()} == {1}
        assert host.engines() == [engine]
        host.process.terminate()
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=10)


@pytest.mark.parametrize("kind", ["uvicorn-workers", "gunicorn"])
async def test_the_owners_engine_runs_jobs_of_a_module_that_only_another_worker_has_imported(
    kind: str, tmp_path: Path, url: str, mark: str
) -> None:
    async with hosted(kind, tmp_path, url, mark) as host:
        await eventually(lambda: _has_engine(host), within=20)
        ran = 0
        while ran < 2:
            found = await host.ask("/late")
            if found["role"] == "client":
                assert found["result"] == "better than never"
                ran += 1
        host.process.terminate()
        await host.ended()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("kind", ["uvicorn-workers", "gunicorn"])
async def test_another_worker_takes_over_when_the_owner_is_killed_and_every_job_ends(
    kind: str, tmp_path: Path, url: str, mark: str
) -> None:
    async with hosted(kind, tmp_path, url, mark) as host, Sidequest(url, engine="off") as sq:
        workers = await host.everybody()
        [owner] = [pid for pid, found in workers.items() if found["role"] == "owner"]
        [first] = host.engines()
        for seconds in (0.3, 0.5, 2.0) * 3:
            await host.ask(f"/nap?seconds={seconds}")
        await eventually(lambda: in_state(sq, State.RUNNING))
        os.kill(owner, signal.SIGKILL)
        killed = time.monotonic()
        await eventually(lambda: _taken_over(host, first), within=TAKEN_OVER)
        assert time.monotonic() - killed < TAKEN_OVER
        assert (await host.ask("/version"))["result"] == 1
        await eventually(lambda: _all_ended(sq, 10), within=10)
        await eventually(lambda: len(host.engines()) == 1, within=10)
        host.process.terminate()
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=10)


@pytest.mark.parametrize("kind", SEVERAL)
async def test_nobody_starts_an_engine_when_all_workers_stop_at_once(kind: str, tmp_path: Path, url: str, mark: str) -> None:
    async with hosted(kind, tmp_path, url, mark) as host:
        await host.everybody()
        [first] = host.engines()
        await host.ask("/nap?seconds=1.5")
        seen: set[int] = set()
        host.process.terminate()
        while host.process.poll() is None:
            seen.update(host.engines())
            await asyncio.sleep(0.01)
    await eventually(lambda: not marked_processes(mark), within=10)
    assert seen == {first}


@pytest.mark.parametrize("kind", SEVERAL)
async def test_a_server_whose_every_process_is_killed_leaves_nothing(kind: str, tmp_path: Path, url: str, mark: str) -> None:
    async with hosted(kind, tmp_path, url, mark) as host:
        await host.ask("/nap?seconds=60")
        os.killpg(host.process.pid, signal.SIGKILL)  # engines and workers have sessions of their own
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=12)


async def test_a_server_that_ends_when_a_worker_is_killed_leaves_nothing(tmp_path: Path, url: str, mark: str) -> None:
    async with hosted("hypercorn", tmp_path, url, mark) as host:
        workers = await host.everybody()
        [owner] = [pid for pid, found in workers.items() if found["role"] == "owner"]
        os.kill(owner, signal.SIGKILL)
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=12)


@pytest.mark.parametrize("kind", SEVERAL)
async def test_workers_that_outlive_their_killed_master_keep_their_one_engine_until_they_end(
    kind: str, tmp_path: Path, url: str, mark: str
) -> None:
    async with hosted(kind, tmp_path, url, mark) as host:
        workers = await host.everybody()
        engines = host.engines()
        host.process.kill()
        await host.ended()
        await asyncio.sleep(1)
        left = [pid for pid in workers if pid in marked_processes(mark)]
        assert host.engines() == (engines if left else [])
        for pid in left:
            os.kill(pid, signal.SIGTERM)
        await eventually(lambda: not set(workers) & marked_processes(mark).keys(), within=10)
        await eventually(lambda: not host.engines(), within=10)
        for pid in marked_processes(mark):  # helpers of multiprocessing, which are the server's
            os.kill(pid, signal.SIGKILL)


async def test_a_reload_brings_a_new_engine_with_the_new_code(tmp_path: Path, url: str, mark: str) -> None:
    async with hosted("uvicorn-reload", tmp_path, url, mark) as host:
        [first] = host.engines()
        assert (await host.ask("/version"))["result"] == 1
        app = tmp_path / "shop.py"
        app.write_text(app.read_text().replace("VERSION = 1", "VERSION = 2"))
        await eventually(lambda: _says(host, version=2), within=20)
        assert (await host.ask("/version"))["result"] == 2
        await eventually(lambda: first not in host.engines())
        assert len(host.engines()) == 1
        host.process.terminate()
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=10)


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-reload", "uvicorn-workers", "gunicorn", "hypercorn"])
@pytest.mark.parametrize("presses", [1, 2, 3])
async def test_ctrl_c_in_a_terminal_leaves_nothing(kind: str, presses: int, tmp_path: Path, url: str, mark: str) -> None:
    keyboard, screen = open_terminal()
    try:
        async with hosted(kind, tmp_path, url, mark, terminal=screen, SHOP_TIMEOUT="1") as host:
            await host.ask("/nap?seconds=60")
            for _ in range(presses):
                os.write(keyboard, b"\x03")
                await asyncio.sleep(0.1)
            await host.ended(within=20)
    finally:
        os.close(keyboard)
        os.close(screen)
    await eventually(lambda: not marked_processes(mark), within=12)


async def test_ctrl_c_lets_running_jobs_finish(tmp_path: Path, url: str, mark: str) -> None:
    keyboard, screen = open_terminal()
    try:
        async with hosted("uvicorn", tmp_path, url, mark, terminal=screen) as host, Sidequest(url, engine="off") as sq:
            await host.ask("/nap?seconds=1")
            await eventually(lambda: in_state(sq, State.RUNNING))
            os.write(keyboard, b"\x03")
            await host.ended()
            assert await _all_ended(sq, 1), "the terminal's interrupt has not reached it"
            [record] = await sq.jobs.list()
            assert (record.interrupts, record.attempt) == (0, 1)
    finally:
        os.close(keyboard)
        os.close(screen)


async def test_a_closed_terminal_leaves_nothing(tmp_path: Path, url: str, mark: str) -> None:
    keyboard, screen = open_terminal()
    async with hosted("uvicorn", tmp_path, url, mark, terminal=screen, SHOP_TIMEOUT="1") as host:
        await host.ask("/nap?seconds=60")
        os.close(screen)
        os.close(keyboard)
        await host.ended()
    await eventually(lambda: not marked_processes(mark), within=12)


async def test_a_signal_to_the_whole_group_lets_running_jobs_finish(tmp_path: Path, url: str, mark: str) -> None:
    """As systemd stops a service: every process is signaled at once."""
    async with hosted("gunicorn", tmp_path, url, mark) as host, Sidequest(url, engine="off") as sq:
        await host.ask("/nap?seconds=1")
        await eventually(lambda: in_state(sq, State.RUNNING))
        for pid in marked_processes(mark):
            os.kill(pid, signal.SIGTERM)
        await host.ended()
        assert await _all_ended(sq, 1)
        [record] = await sq.jobs.list()
        assert record.interrupts == 0
    await eventually(lambda: not marked_processes(mark), within=10)


async def _taken_over(host: Host, first: int) -> bool:
    found = await host.look()
    return found is not None and found["engine"] not in (first, None) and found["state"] in ("running", "elsewhere")


async def _has_engine(host: Host) -> bool:
    found = await host.look()
    return found is not None and found["engine"] is not None


async def _says(host: Host, version: int) -> bool:
    found = await host.look()
    return found is not None and found["version"] == version


async def _all_ended(sq: Sidequest, count: int) -> bool:
    return (await sq.jobs.count())[State.COMPLETED] == count
