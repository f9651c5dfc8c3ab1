"""Jobs that do what no job should do: each beside healthy ones, which must not notice.

The whole verdict is asserted: state, attempt, crashes, and what the error says.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidequest import JobHandle, Sidequest, State, call_by_name
from sidequest.wire.frames import Kind
from tests.integration import abusive_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import engine_pid, eventually

# what jobs do to their process is no database's business; what is stored of it, `test_how_jobs_end` tells of each
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
MODULE = "tests.integration.abusive_jobs"
ENOUGH: dict[str, Any] = {"max_workers": 4, "kill_grace": 0.5, "modules": [MODULE]}
LEFT_RUNNING = 60
"""Seconds for which the jobs here leave something running: whoever waits for that waits long."""
EXITED = "the worker process exited with code {}"
KILLED = "the worker process was killed by {}"


@pytest.fixture
async def sq(start: StartSidequest) -> Sidequest:
    return await start(**ENOUGH)


@asynccontextmanager
async def neighbours(sq: Sidequest, seconds: float = 0.8) -> AsyncIterator[None]:
    """Healthy jobs of both kinds beside what happens in the block: each must end at its first attempt, in this engine."""
    engine = engine_pid(sq)
    handles = [await sq.enqueue(call) for call in (jobs.healthy.call(seconds), jobs.healthy_sync.call(seconds))]
    for handle in handles:
        await eventually(lambda handle=handle: _begun(handle), within=60)
    yield
    for handle in handles:
        await handle.result(timeout=20)
        record = await handle.refresh()
        assert (record.attempt, record.crashes, record.interrupts, record.errors) == (1, 0, 0, ())
    assert engine_pid(sq) == engine, "the engine died"


async def verdict(handle: JobHandle[object], within: float = 20) -> tuple[State, int, int, str, str, str]:
    """How it ended: state, attempt, crashes; kind, type and message of its error."""
    await handle.wait(timeout=within)
    record = await handle.refresh()
    [error] = record.errors
    return record.state, record.attempt, record.crashes, error.kind, error.type, error.message


def crash(message: str) -> tuple[State, int, int, str, str, str]:
    return State.FAILED, 1, 1, "crash", "WorkerDied", message


def error(type: str, message: str, kind: str = "error") -> tuple[State, int, int, str, str, str]:
    return State.FAILED, 1, 0, kind, type, message


# Ends of the process


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (jobs.exits.call(3), error("SystemExit", "3")),
        (jobs.exits_at_once.call(0), crash(EXITED.format(0))),
        (jobs.exits_at_once.call(7), crash(EXITED.format(7))),
        (jobs.segfaults.call(), crash(KILLED.format("SIGSEGV"))),
        (jobs.aborts.call(), crash(KILLED.format("SIGABRT"))),
        (jobs.kills_itself.call(), crash(KILLED.format("SIGKILL, which nobody here sent: probably out of memory"))),
        (jobs.kills_its_group.call(), crash(KILLED.format("SIGKILL, which nobody here sent: probably out of memory"))),
    ],
    ids=lambda value: getattr(value, "name", None),
)
async def test_the_end_of_its_process_is_the_jobs_own(sq: Sidequest, call: object, told: object) -> None:
    async with neighbours(sq):
        assert await verdict(await sq.enqueue(call)) == told  # type: ignore[arg-type]


async def test_a_job_that_cuts_off_its_worker_and_returns_has_ended_in_either_way(sq: Sidequest) -> None:
    """Its worker ends as soon as it notices; whether that is before or after the job's end is noted is a race."""
    async with neighbours(sq):
        handle = await sq.enqueue(jobs.closes_everything.call())
        if await handle.wait(timeout=20) is not State.COMPLETED:
            assert await verdict(handle) == crash(EXITED.format(0))


@pytest.mark.parametrize("call", [jobs.exits_at_once_async.call(0), jobs.closes_everything_async.call()])
async def test_an_async_job_alone_in_its_worker_is_to_blame(sq: Sidequest, call: object) -> None:
    handle = await sq.enqueue(call, isolated=True)  # type: ignore[arg-type]
    async with neighbours(sq):
        state, attempt, crashes, kind, type, _ = await verdict(handle)
        assert (state, attempt, crashes, kind, type) == (State.FAILED, 1, 1, "crash", "WorkerDied")


# Not stopping


@pytest.mark.parametrize("definition", [jobs.ignores_sigterm, jobs.hogs_the_gil])
async def test_what_does_not_stop_is_killed(sq: Sidequest, definition: object) -> None:
    message = "the timeout of 0.2 s was reached; it did not stop when asked, so its worker was killed"
    async with neighbours(sq, 1.5):
        handle = await definition.enqueue()  # type: ignore[attr-defined]
        assert await verdict(handle) == error("JobTimeout", message, "timeout")


@pytest.mark.parametrize("name", ["waits_long", "blocks_long"])
async def test_an_async_job_of_unknown_kind_stops_when_asked_and_keeps_its_worker(sq: Sidequest, name: str) -> None:
    sure = await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10)
    handle = await sq.enqueue(call_by_name(f"tests.integration.lazy_jobs:{name}"), timeout=0.2, kill_grace=60, max_attempts=1)
    assert await verdict(handle) == error("JobTimeout", "the timeout of 0.2 s was reached", "timeout")
    assert await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10) == sure


# Other processes


async def test_a_daemon_of_a_job_is_gone_when_its_worker_is(sq: Sidequest, tmp_path: Path) -> None:
    path = tmp_path / "daemon"
    async with neighbours(sq):
        pid = await (await sq.enqueue(jobs.forks.call(str(path)))).result(timeout=10)
        daemon = int(await eventually(lambda: path.exists() and path.read_text()))  # type: ignore[arg-type]
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not _alive(daemon))


# Descriptors


async def test_a_job_that_closes_its_output_harms_nobody(sq: Sidequest) -> None:
    async with neighbours(sq):
        await (await sq.enqueue(jobs.closes_stdout.call())).result(timeout=10)
        await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10)


async def test_a_hundred_megabytes_of_output_hold_up_neither_job_norengine_pid(sq: Sidequest) -> None:
    before = _resident(engine_pid(sq))
    async with neighbours(sq, 3):
        handle = await sq.enqueue(jobs.floods.call(100))
        worst = 0.0
        while not (await handle.refresh()).state.final:
            began = time.monotonic()
            await (await sq.enqueue(jobs.healthy.call(0))).result(timeout=10)
            worst = max(worst, time.monotonic() - began)
        assert await handle.result(timeout=1) == 100
    record = await handle.refresh()
    assert record.started_at is not None
    assert record.finished_at is not None
    assert (record.finished_at - record.started_at).total_seconds() < 20
    assert worst < 3
    assert _resident(engine_pid(sq)) - before < 50_000_000


GARBAGE = {
    "no frame": b"\xff" * 16,
    "no ends": struct.pack("<IB", 2, Kind.ENDS) + b"\0\0",
    "no request": struct.pack("<IB", 9, Kind.REQUEST) + b"{" * 9,
}


@pytest.mark.parametrize("data", [data.hex() for data in GARBAGE.values()], ids=list(GARBAGE))
async def test_garbage_in_its_channel_is_the_jobs_own_crash(sq: Sidequest, data: str) -> None:
    message = "the worker process was killed: what came through its channel was no message of ours"
    async with neighbours(sq):
        assert await verdict(await sq.enqueue(jobs.writes_to_its_channel.call(data))) == crash(message)


async def test_half_a_message_in_its_channel_is_the_jobs_own_crash(sq: Sidequest) -> None:
    async with neighbours(sq):
        handle = await sq.enqueue(jobs.begins_a_message.call())
        assert await verdict(handle) == crash("the worker process was killed: a message came in part only")


# Results and errors


RETURNED = {
    "unpicklable": ("NotSerializable", "Unpicklable"),
    "hostile": ("NotSerializable", "Hostile"),
    "lock": ("NotSerializable", "lock"),
    "nan": ("NotSerializable", "$.a[1]"),
    "surrogate": ("NotSerializable", "$.a"),
    "cyclic": ("NotSerializable", "$"),
    "50 MB": ("TooLarge", "1,048,576"),
    "generator": ("NotSerializable", "generator"),
}


async def test_what_cannot_be_stored_fails_at_once_and_says_why(sq: Sidequest) -> None:
    async with neighbours(sq):
        handles = {what: await sq.enqueue(jobs.returns.call(what), max_attempts=3) for what in RETURNED}
        for what, (type, words) in RETURNED.items():
            *told, message = await verdict(handles[what])
            assert told == list(error(type, "", "result"))[:-1], what
            assert words in message


RAISED = {
    "hostile": (f"{MODULE}.HostileError", "run me"),
    "two arguments": (f"{MODULE}.NeedsTwo", "1 and 2"),
    "no words": (f"{MODULE}.NoWords", "(the error has no readable text)"),
    "CancelledError": ("asyncio.exceptions.CancelledError", "by itself"),
    "StopAsyncIteration": ("StopAsyncIteration", "enough"),
    "KeyboardInterrupt": ("KeyboardInterrupt", "ctrl"),
    "GeneratorExit": ("GeneratorExit", "leave"),
    "SystemExit": ("SystemExit", "bye"),
    "BaseException": ("BaseException", "base"),
    "surrogate": ("ValueError", "\\ud800"),
    "long": ("ValueError", f"{'x' * 3_999}…"),
}
STOP = {"sync": ("StopIteration", "enough"), "async": ("RuntimeError", "coroutine raised StopIteration")}


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_a_job_raises_is_its_error_and_nothing_more(sq: Sidequest, kind: str) -> None:
    definition = jobs.raises if kind == "sync" else jobs.raises_async
    expected = RAISED | {"StopIteration": STOP[kind]}
    async with neighbours(sq):
        unpicklable = await definition.enqueue("unpicklable")
        handles = {what: await definition.enqueue(what) for what in expected}
        assert {what: await verdict(handle) for what, handle in handles.items()} == {
            what: error(type, message) for what, (type, message) in expected.items()
        }
        *told, message = await verdict(unpicklable)
        assert (told, "Unpicklable" in message) == (list(error("ValueError", ""))[:-1], True)


async def test_endless_recursion_is_an_error_that_can_be_read(sq: Sidequest) -> None:
    async with neighbours(sq):
        *told, message = await verdict(await jobs.recurses.enqueue())
        assert told == list(error("RecursionError", ""))[:-1]
        assert message.startswith("maximum recursion depth exceeded")


# What is left behind


@pytest.mark.parametrize("definition", [jobs.leaks_a_task, jobs.leaks_a_thread_of_the_loop, jobs.waits_too_briefly])
async def test_what_an_async_job_leaves_running_holds_back_neither_its_result_nor_a_stop(url: str, definition: object) -> None:
    async with Sidequest(url, max_workers=3, modules=[MODULE]) as sq:
        async with neighbours(sq):
            assert await (await definition.enqueue()).result(timeout=5) == "done"  # type: ignore[attr-defined]
        began = time.monotonic()
    assert time.monotonic() - began < LEFT_RUNNING / 3


@pytest.mark.parametrize("definition", [jobs.leaks_a_thread, jobs.sleeps_at_exit])
async def test_what_a_sync_job_leaves_running_does_not_hold_up_a_stop(url: str, definition: object) -> None:
    async with Sidequest(url, max_workers=3, modules=[MODULE]) as sq:
        async with neighbours(sq):
            await (await definition.enqueue()).result(timeout=5)  # type: ignore[attr-defined]
        began = time.monotonic()
    assert time.monotonic() - began < LEFT_RUNNING / 3


# What is found by the next one


CHANGES = {
    "cwd": "the working directory is /",
    "gone": "the working directory is gone",
    "umask": "the umask is 0777",
    "environment": "the environment variable POISON was changed",
    "variable": "the environment variable PATH was changed",
    "signals": "SIGTERM has another handler",
    "alarm": "an interval timer was changed",
    "limit": "RLIMIT_NOFILE is 100",
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_worker_that_a_job_has_changed_is_replaced(
    start: StartSidequest, what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sq = await start(max_workers=2, modules=[MODULE])
    async with neighbours(sq, 0.3):
        before = await (await sq.enqueue(jobs.surroundings.call())).result(timeout=10)
        path = str(tmp_path / "gone") if what == "gone" else "/"
        handle = await sq.enqueue(jobs.changes.call(what, path))
        pid = await handle.result(timeout=10)
        after = await (await sq.enqueue(jobs.surroundings.call())).result(timeout=10)
    assert (after[0] != pid, after[1:]) == (True, before[1:])
    told = f"job {handle.id} ({MODULE}:changes) left worker {pid} spoiled: {CHANGES[what]}; it is replaced"
    await _logged(capfd, told)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (jobs.leaks_a_thread, "the thread 'left-behind' still runs"),
        (jobs.leaves_a_subprocess, "still runs"),
        (jobs.closes_stdout, "stdout is closed; stderr is closed"),
    ],
)
async def test_a_worker_in_which_a_job_has_left_something_running_is_replaced(
    start: StartSidequest, capfd: pytest.CaptureFixture[str], definition: object, words: str
) -> None:
    sq = await start(**ENOUGH)
    async with neighbours(sq):
        handle = await definition.enqueue()  # type: ignore[attr-defined]
        pid = await handle.result(timeout=10)
        assert (await (await sq.enqueue(jobs.surroundings.call())).result(timeout=10))[0] != pid
    await _logged(capfd, words)
    await eventually(lambda: not _alive(pid))


async def test_a_shared_worker_that_an_async_job_has_changed_is_replaced_when_its_jobs_have_ended(
    start: StartSidequest, capfd: pytest.CaptureFixture[str]
) -> None:
    sq = await start(max_workers=2, modules=[MODULE])
    handle = await sq.enqueue(jobs.changes_async.call("/"))
    pid = await handle.result(timeout=10)
    await _logged(capfd, f"job {handle.id} ({MODULE}:changes_async) left worker {pid} spoiled: the working directory is /")
    assert await (await sq.enqueue(jobs.healthy.call(0))).result(timeout=10) != pid


async def test_a_clean_job_does_not_cost_its_worker(sq: Sidequest) -> None:
    pids = {await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10) for _ in range(5)}
    assert len(pids) == 1


@pytest.mark.parametrize(("name", "spoiled"), [("leaks_a_task", True), ("leaks_a_thread", True), ("uses_a_thread", False)])
async def test_an_async_job_of_unknown_kind_is_held_back_by_nothing_that_it_leaves_running(
    sq: Sidequest, name: str, spoiled: bool
) -> None:
    async with neighbours(sq):
        began = time.monotonic()
        pid = await (await sq.enqueue(call_by_name(f"tests.integration.lazy_jobs:{name}"))).result(timeout=10)
        next_pid = await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10)
        assert (next_pid != pid) == spoiled
        assert time.monotonic() - began < LEFT_RUNNING / 3
    if spoiled:
        await eventually(lambda: not _alive(pid))


# Imports


@pytest.mark.parametrize(
    ("code", "patience", "words"),
    [
        ("import os; os._exit(3)", 60, "the worker process exited with code 3 while it imported this"),
        ("import time; time.sleep(600)", 8, "importing it took too long"),
        ("while True: pass", 8, "importing it took too long"),
        ("import sys; sys.exit('no')", 60, "SystemExit: no"),
    ],
)
async def test_a_module_whose_import_ends_workers_harms_only_its_own_jobs(
    start: StartSidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, patience: float, words: str
) -> None:
    (tmp_path / "bad_shop.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    sq = await start(max_workers=4, modules=[MODULE, "bad_shop"], worker_start_timeout=patience)
    async with neighbours(sq):
        handle = await sq.enqueue(call_by_name("bad_shop:send"), max_attempts=1)
        state, attempt, crashes, kind, _, message = await verdict(handle)
        assert (state, attempt, crashes, kind) == (State.FAILED, 1, 0, "import")
        assert message.startswith("bad_shop cannot be imported: ")
        assert words in message


# Memory and loops


async def test_a_job_that_takes_twice_the_memory_is_killed_and_told_how_much_it_was(start: StartSidequest) -> None:
    sq = await start(max_workers=3, modules=[MODULE], max_worker_memory=150_000_000)
    async with neighbours(sq, 2):
        told = await verdict(await sq.enqueue(jobs.balloons.call(1_000)))
    assert told[:-1] == crash("")[:-1]
    found = re.fullmatch(
        r"the worker process was killed: it used (\d+) MB, more than twice max_worker_memory \(150 MB\)", told[-1]
    )
    assert found is not None, told
    assert 300 <= int(found[1]) < 700


async def test_a_worker_that_has_grown_is_replaced_when_its_jobs_have_ended(start: StartSidequest) -> None:
    sq = await start(max_workers=3, modules=[MODULE], max_worker_memory=150_000_000)
    handle = await sq.enqueue(jobs.healthy.call(1.0))
    await eventually(lambda: _begun(handle))
    grown = await (await sq.enqueue(jobs.grows.call(120))).result(timeout=10)
    assert await (await sq.enqueue(jobs.healthy.call(0))).result(timeout=10) != grown
    assert await handle.result(timeout=10) == grown
    assert (await handle.refresh()).attempt == 1
    await eventually(lambda: not _alive(grown))


async def test_the_kernel_would_rather_take_a_worker_than_theengine_pid(sq: Sidequest) -> None:
    pid = await (await sq.enqueue(jobs.healthy_sync.call(0))).result(timeout=10)
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500
    assert int(Path(f"/proc/{engine_pid(sq)}/oom_score_adj").read_text()) < 500


async def test_a_job_that_blocks_its_loop_is_named_and_others_run_elsewhere(
    start: StartSidequest, capfd: pytest.CaptureFixture[str]
) -> None:
    sq = await start(**ENOUGH)
    neighbour = await sq.enqueue(jobs.healthy.call(3))
    await eventually(lambda: _begun(neighbour))
    handle = await sq.enqueue(jobs.blocks_the_loop.call(8))
    told = await _logged(capfd, f"job {handle.id} ({MODULE}:blocks_the_loop) blocks the event loop of worker")
    assert "1 other jobs there wait for it" in told
    await (await sq.enqueue(jobs.healthy.call(0))).result(timeout=10)
    assert (await handle.refresh()).state is State.RUNNING, "it waited for the loop that is blocked"
    assert "in blocks_the_loop" in told + await _logged(capfd, "")
    for each in (handle, neighbour):
        assert await each.wait(timeout=20) is State.COMPLETED
    assert "blocks the event loop" not in await _logged(capfd, "")


# Output


async def test_what_a_job_prints_is_logged_with_its_name_once(start: StartSidequest, capfd: pytest.CaptureFixture[str]) -> None:
    sq = await start(**ENOUGH, log_level="INFO")
    handle = await sq.enqueue(jobs.speaks.call())
    await handle.wait(timeout=10)
    told = await _logged(capfd, "from the context")
    lines = [line.partition(f", job {handle.id} ({MODULE}:speaks): ")[2] for line in told.splitlines()]
    of_context = f"INFO sidequest.job: job {handle.id} {MODULE}:speaks: from the context"
    assert sorted(filter(None, lines)) == sorted(
        ["to stdout", "to stderr", "from a child", "\\xff", "WARNING shop: out of stock", of_context]
    )


async def test_an_app_whose_stderr_nobody_reads_has_an_engine_that_works(url: str, mark: str) -> None:
    reader, writer = os.pipe()
    keep = os.dup(2)
    os.dup2(writer, 2)
    try:
        async with Sidequest(url, max_workers=3, modules=[MODULE]) as sq:
            await (await sq.enqueue(jobs.floods.call(1))).result(timeout=10)
            for _ in range(8):  # each second of this is more than a pipe holds
                handle = await sq.enqueue(jobs.floods.call(1))
                await handle.result(timeout=10)
                await asyncio.sleep(0.3)
            async with neighbours(sq):
                await (await sq.enqueue(jobs.healthy.call(0))).result(timeout=10)
            os.set_blocking(reader, False)
            assert len(os.read(reader, 1_000_000)) > 60_000, "the pipe was full"
    finally:
        os.dup2(keep, 2)
        for end in (reader, writer, keep):
            os.close(end)


async def _logged(capfd: pytest.CaptureFixture[str], words: str) -> str:
    """What the engine has logged since the last time, as soon as these words are in it.

    The engine must have been started in the test itself: it keeps the stderr that it was started with.
    """
    told = ""

    def there() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return words in told

    await eventually(there)
    return told


async def _begun(handle: JobHandle[object]) -> bool:
    return (await handle.refresh()).started_at is not None


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
