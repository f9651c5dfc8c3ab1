"""Where workers come from: forked from a template or started anew, what must hold is the same.

Who hides the kernel's pidfd from an engine gets one that starts each worker anew, as on other systems.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidequest import JobHandle, Sidequest, State
from sidequest.engine.worker_process import CLOSE_WAIT
from sidequest.jobs.definition import registry
from tests.integration import worker_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import (
    engine_pid,
    eventually,
    in_state,
    marked_engines,
    marked_processes,
    marked_templates,
    marked_workers,
)

KNOWN: dict[str, Any] = {"modules": ["tests.integration.worker_jobs"]}
DRIVERS = {"aiosqlite", "sqlite3", "asyncpg", "aiomysql", "pymysql", "motor", "pymongo", "bson"}
ASKING = """
import json, os
from concurrent.futures import ThreadPoolExecutor
from sidequest.engine import forkserver

def ask(process):
    while process.exitcode is None:
        pass
    return process.exitcode

forkserver.begin("auto")
told = []
with ThreadPoolExecutor(4) as pool:
    for code in range(20):
        process = forkserver.Forking().Process(target=os._exit, args=(code,))
        process.start()
        told.append(list(pool.map(ask, [process] * 4)))
        process.close()
print(json.dumps(told))
"""
forked = pytest.mark.parametrize("birth", ["forked"], indirect=True)


@pytest.fixture
def database() -> str:
    """How processes are started is no database's business."""
    return "sqlite"


@pytest.fixture(params=["forked", "spawned"])
def birth(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How workers are born in the engines of this test."""
    name: str = request.param
    if name == "spawned":
        (tmp_path / "sitecustomize.py").write_text("import os\ndel os.pidfd_open\n")
        path = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return name


@pytest.fixture
async def sq(birth: str, start: StartSidequest) -> Sidequest:
    return await start(max_workers=4, **KNOWN)


async def crash_of(handle: JobHandle[object]) -> str:
    assert await handle.wait(timeout=20) is State.FAILED
    [error] = (await handle.refresh()).errors
    assert (error.kind, error.type) == ("crash", "WorkerDied")
    return error.message


async def together(sq: Sidequest, count: int, gate: Path) -> set[int]:
    """The workers of so many jobs that ran at the same time."""
    handles = [await sq.enqueue(jobs.waits.call(str(gate))) for _ in range(count)]
    await eventually(lambda: in_state(sq, State.RUNNING, count), within=60)
    gate.touch()
    pids = {await handle.result(timeout=20) for handle in handles}
    assert len(pids) == count
    return pids


# What a worker is


async def test_a_worker_is_a_child_of_the_template_or_of_the_engine(sq: Sidequest, birth: str, mark: str) -> None:
    worker, parent = await (await sq.enqueue(jobs.parent.call())).result(timeout=20)
    assert worker in marked_workers(mark)
    expected = marked_templates(mark) if birth == "forked" else {engine_pid(sq)}
    assert {parent} == expected


async def test_a_forked_worker_is_like_one_that_was_started_anew(
    start: StartSidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    for hidden in ("", "import os\ndel os.pidfd_open\n"):
        (tmp_path / "sitecustomize.py").write_text(hidden)
        sq = await start(engine="process", **KNOWN)
        seen.append(await (await sq.enqueue(jobs.surroundings.call())).result(timeout=20))
        assert seen[-1].pop("watches") == engine_pid(sq)
        await sq.stop()
    assert seen[0]["leads its group and session"]
    assert seen[0]["marked"]
    assert len(seen[0]["argv"]) == 1  # modules that parse it when they are imported find nothing
    assert [kind for kind in seen[0]["descriptors"] if "inherited" in kind] == ["/dev/null inherited", *["pipe inherited"] * 2]
    for one in seen:  # how many there are of multiprocessing's own differs
        one["descriptors"] = set(one["descriptors"]) - {"/dev/null"}
    assert seen[0] == seen[1]


async def test_no_worker_has_another_ones_descriptors_or_the_engines(sq: Sidequest, tmp_path: Path) -> None:
    pids = await together(sq, 4, tmp_path / "gate")
    sockets = {pid: _sockets(pid) for pid in [*pids, engine_pid(sq)]}
    for pid, found in sockets.items():
        assert found
        for other, theirs in sockets.items():
            assert pid == other or not found & theirs


async def test_a_program_that_a_job_starts_gets_nothing_of_its_worker(sq: Sidequest, tmp_path: Path) -> None:
    handle = await sq.enqueue(jobs.descriptors_of_a_program.call(str(tmp_path / "list")))
    assert await handle.result(timeout=20) == ["0", "1", "2", "3"]  # the last one is what lists them


async def test_workers_do_not_share_their_chances(sq: Sidequest) -> None:
    handles = [await sq.enqueue(jobs.chances.options(isolated=True).call()) for _ in range(4)]
    drawn = [value for handle in handles for value in await handle.result(timeout=20)]
    assert len(set(drawn)) == len(drawn)


async def test_the_users_modules_are_imported_in_workers_only(
    birth: str, start: StartSidequest, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports").mkdir()
    monkeypatch.setenv("SIDEQUEST_TEST_IMPORTS", str(tmp_path / "imports"))
    sq = await start(**KNOWN)
    await (await sq.enqueue(jobs.parent.call())).result(timeout=20)
    assert {int(path.name) for path in (tmp_path / "imports").iterdir()} == marked_workers(mark)


async def test_no_worker_imports_a_driver(birth: str, start: StartSidequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_jobs", {})  # other test jobs lead to a client
    sq = await start(**KNOWN)
    modules = await (await sq.enqueue(jobs.imported.call())).result(timeout=20)
    assert not DRIVERS & {*modules}
    assert not [
        name for name in modules if name.startswith(("sidequest.backends", "sidequest.engine", "sidequest.app", "anyio"))
    ]


# How it ends


async def test_each_worker_of_many_that_end_at_once_is_said_to_have_ended_as_it_did(
    birth: str, start: StartSidequest, tmp_path: Path
) -> None:
    sq = await start(max_workers=8, **KNOWN)
    gate = tmp_path / "gate"
    for first in (1, 11, 21):
        gate.unlink(missing_ok=True)
        codes = range(first, first + 8)
        handles = [await sq.enqueue(jobs.exits_when_told.call(str(gate), code)) for code in codes]
        await eventually(lambda: in_state(sq, State.RUNNING, 8), within=60)
        gate.touch()
        assert [await crash_of(handle) for handle in handles] == [f"the worker process exited with code {c}" for c in codes]


async def test_all_who_ask_at_once_how_a_forked_process_ended_are_told_the_same() -> None:
    """The forkserver says it once."""
    asking = await asyncio.create_subprocess_exec(sys.executable, "-P", "-c", ASKING, stdout=PIPE, cwd=Path.cwd())
    told, _ = await asking.communicate()
    assert json.loads(told) == [[code] * 4 for code in range(20)]


async def test_a_worker_that_ends_in_peace_runs_what_was_registered_for_its_exit(
    birth: str, start: StartSidequest, tmp_path: Path
) -> None:
    sq = await start(max_jobs_per_worker=1, **KNOWN)
    await (await sq.enqueue(jobs.writes_at_exit.call(str(tmp_path / "words")))).result(timeout=20)
    await eventually(lambda: (tmp_path / "words").exists() and (tmp_path / "words").read_text() == "goodbye")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_processes_that_jobs_start_are_of_their_workers_group_and_die_with_it(sq: Sidequest, method: str) -> None:
    worker, process, group = await (await sq.enqueue(jobs.starts_a_process.call(method))).result(timeout=20)
    assert group == worker
    with suppress(ProcessLookupError):  # the child made it be replaced, and so end
        os.kill(worker, signal.SIGKILL)
    await eventually(lambda: not _alive(process))


async def test_a_child_that_holds_a_dead_workers_channel_does_not_hold_up_the_next_worker(
    birth: str, start: StartSidequest, tmp_path: Path
) -> None:
    sq = await start(max_workers=1, **KNOWN)
    path = tmp_path / "child"
    doomed = await sq.enqueue(jobs.leaves_a_child_that_holds_everything.call(str(path)))
    following = await sq.enqueue(jobs.sleeps.call(0))
    assert await crash_of(doomed) == "the worker process exited with code 9"
    assert await following.result(timeout=20)
    assert _alive(int(path.read_text()))
    os.kill(int(path.read_text()), signal.SIGKILL)


async def test_nothing_of_an_engine_that_was_killed_is_left(sq: Sidequest, mark: str) -> None:
    await (await sq.enqueue(jobs.parent.call())).result(timeout=20)
    old = {pid for pid, command in marked_processes(mark).items() if "python" in command}
    assert len(old) >= 3
    os.kill(engine_pid(sq), signal.SIGKILL)
    await eventually(lambda: not old & {*marked_processes(mark)})


@forked
async def test_a_daemon_of_a_job_does_not_keep_the_template_of_a_dead_engine_alive(
    sq: Sidequest, mark: str, tmp_path: Path
) -> None:
    path = tmp_path / "child"
    doomed = await sq.enqueue(jobs.leaves_a_child_that_holds_everything.call(str(path)))
    await crash_of(doomed)
    old = marked_templates(mark)
    assert len(old) == 1
    os.kill(engine_pid(sq), signal.SIGKILL)
    await eventually(lambda: not old & marked_templates(mark))
    assert _alive(int(path.read_text()))
    os.kill(int(path.read_text()), signal.SIGKILL)


# When the template is harmed


@forked
async def test_the_death_of_the_template_is_felt_by_no_job(sq: Sidequest, mark: str) -> None:
    running = await sq.enqueue(jobs.sleeps.call(CLOSE_WAIT + 1.5))  # an executor that felt it would have its worker killed
    await eventually(lambda: in_state(sq, State.RUNNING))
    engine, old = engine_pid(sq), marked_templates(mark)
    before = marked_workers(mark)
    await (await sq.enqueue(jobs.kills_its_parent.call(int(signal.SIGKILL)))).result(timeout=20)
    await eventually(lambda: not old & marked_templates(mark))
    more = [await sq.enqueue(jobs.sleeps.call(0.5)) for _ in range(3)]
    assert await running.result(timeout=20) in before
    assert {await handle.result(timeout=20) for handle in more} - before
    for handle in (running, *more):
        record = await handle.refresh()
        assert (record.attempt, record.crashes, record.interrupts) == (1, 0, 0)
    assert len(marked_templates(mark)) == 1
    assert engine_pid(sq) == engine


@forked
async def test_how_a_worker_ended_whose_template_is_gone_is_not_made_up(sq: Sidequest, mark: str, tmp_path: Path) -> None:
    handle = await sq.enqueue(jobs.exits_when_told.call(str(tmp_path / "gate"), 7))
    await eventually(lambda: in_state(sq, State.RUNNING))
    [template] = marked_templates(mark)
    os.kill(template, signal.SIGKILL)
    await eventually(lambda: not marked_templates(mark))
    (tmp_path / "gate").touch()
    assert await crash_of(handle) == "the worker process died, and nobody could see how"


@forked
async def test_a_template_that_stands_still_is_replaced(birth: str, start: StartSidequest, mark: str) -> None:
    sq = await start(max_workers=2, worker_start_timeout=1, **KNOWN)
    running = await sq.enqueue(jobs.sleeps.call(3.0))
    await eventually(lambda: in_state(sq, State.RUNNING))
    engine = engine_pid(sq)
    [template] = marked_templates(mark)
    os.kill(template, signal.SIGSTOP)
    assert await (await sq.enqueue(jobs.parent.call())).result(timeout=20)
    assert await running.result(timeout=20)
    assert template not in marked_templates(mark)
    assert engine_pid(sq) == engine


async def test_a_signal_to_the_whole_group_of_the_engine_lets_jobs_end(sq: Sidequest, mark: str) -> None:
    """systemd's way to stop a service."""
    handle = await sq.enqueue(jobs.sleeps.call(1.0))
    await eventually(lambda: in_state(sq, State.RUNNING))
    os.killpg(engine_pid(sq), signal.SIGTERM)
    assert await handle.wait(timeout=15) is State.COMPLETED
    assert (await handle.refresh()).interrupts == 0


async def test_a_signal_to_the_whole_group_of_the_engine_does_not_hide_how_workers_end(sq: Sidequest, tmp_path: Path) -> None:
    handle = await sq.enqueue(jobs.exits_when_told.call(str(tmp_path / "gate"), 7))
    await eventually(lambda: in_state(sq, State.RUNNING))
    os.killpg(engine_pid(sq), signal.SIGTERM)
    (tmp_path / "gate").touch()
    assert await crash_of(handle) == "the worker process exited with code 7"


@forked
async def test_a_stop_while_the_template_still_imports_is_quick_and_silent(
    birth: str, url: str, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\nif 'multiprocessing.forkserver' in str(sys.orig_argv): time.sleep(30)\n"
    )
    path = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    async with Sidequest(url):
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 15, "half of the time for which the template stands still"
    await eventually(lambda: not marked_processes(mark))  # what was killed needs a moment on a busy machine
    assert capfd.readouterr().err == ""


# Many at once


async def test_workers_that_start_at_the_same_moment_are_told_apart(
    birth: str, start: StartSidequest, mark: str, tmp_path: Path
) -> None:
    sq = await start(min_workers=6, max_workers=6, **KNOWN)
    pids = await together(sq, 6, tmp_path / "gate")
    assert pids == marked_workers(mark)
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: len(marked_workers(mark) - pids) == 1)
    assert pids - marked_workers(mark) == {victim}
    assert len(marked_engines(mark)) == 1


async def test_an_app_that_is_cancelled_while_workers_start_leaves_none(birth: str, url: str, mark: str) -> None:
    sq = Sidequest(url, min_workers=4, **KNOWN)
    await sq.start()
    sq.hurry()
    await asyncio.wait_for(sq.stop(), 15)
    await eventually(lambda: not marked_processes(mark), within=5)


def _sockets(pid: int) -> set[str]:
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
