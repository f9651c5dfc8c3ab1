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

import pytest

from sidequest import JobHandle, Sidequest, State, call_by_name
from tests.integration import abusive_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.database("sqlite")]
MODULE = "tests.integration.abusive_jobs"
EXITED = "the worker process exited with code {}"
KILLED = "the worker process was killed by {}"


@pytest.fixture
async def sq(start: StartSidequest) -> Sidequest:
    return await start(max_workers=4, kill_grace=0.5, modules=[MODULE])


@asynccontextmanager
async def neighbours(sq: Sidequest, seconds: float = 0.8) -> AsyncIterator[None]:
    """Healthy jobs of both kinds beside what happens in the block: each must end at its first attempt, in this engine."""
    engine = sq._process.pid if sq._process else None
    handles = [await sq.enqueue(call) for call in (jobs.healthy.call(seconds), jobs.healthy_sync.call(seconds))]
    await eventually(lambda: _running(sq, 2))
    yield
    for handle in handles:
        await handle.result(timeout=20)
        record = await handle.refresh()
        assert (record.attempt, record.crashes, record.interrupts, record.errors) == (1, 0, 0, ())
    assert (sq._process.pid if sq._process else None) == engine, "the engine died"


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
        (jobs.closes_everything.call(), crash(EXITED.format(0))),
    ],
    ids=lambda value: getattr(value, "name", None),
)
async def test_the_end_of_its_process_is_the_jobs_own(sq: Sidequest, call: object, told: object) -> None:
    async with neighbours(sq):
        assert await verdict(await sq.enqueue(call)) == told  # type: ignore[arg-type]


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


async def test_a_hundred_megabytes_of_output_hold_up_neither_job_nor_engine(sq: Sidequest) -> None:
    assert sq._process is not None
    before = _resident(sq._process.pid)
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
    assert (record.finished_at - record.started_at).total_seconds() < 10
    assert worst < 1
    assert _resident(sq._process.pid) - before < 50_000_000


@pytest.mark.parametrize("data", ["ff" * 16, struct.pack("<IB", 2, 61).hex() + "0000", struct.pack("<IB", 9, 63).hex() + "7b" * 9])
async def test_garbage_in_its_channel_is_the_jobs_own_crash(sq: Sidequest, data: str) -> None:
    message = "the worker process was killed: what came through its channel was no message of ours"
    async with neighbours(sq):
        assert await verdict(await sq.enqueue(jobs.writes_to_its_channel.call(data))) == crash(message)


async def test_half_a_message_in_its_channel_is_the_jobs_own_crash(sq: Sidequest) -> None:
    async with neighbours(sq):
        handle = await sq.enqueue(jobs.begins_a_message.call())
        assert await verdict(handle) == crash("the worker process was killed: a message came in part only")


# What is returned and raised


@pytest.mark.parametrize(
    ("what", "type", "words"),
    [
        ("unpicklable", "NotSerializable", "Unpicklable"),
        ("hostile", "NotSerializable", "Hostile"),
        ("lock", "NotSerializable", "lock"),
        ("nan", "NotSerializable", r"$.a[1]"),
        ("surrogate", "NotSerializable", r"$.a"),
        ("cyclic", "NotSerializable", "$"),
        ("50 MB", "TooLarge", "1,048,576"),
        ("generator", "NotSerializable", "generator"),
    ],
)
async def test_what_cannot_be_stored_fails_at_once_and_says_why(sq: Sidequest, what: str, type: str, words: str) -> None:
    async with neighbours(sq):
        *told, message = await verdict(await sq.enqueue(jobs.returns.call(what), max_attempts=3))
        assert told == list(error(type, "", "result"))[:-1]
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
    "surrogate": ("ValueError", "?"),
    "long": ("ValueError", None),
}


@pytest.mark.parametrize("what", [*RAISED, "unpicklable", "StopIteration"])
@pytest.mark.parametrize("definition", [jobs.raises, jobs.raises_async], ids=["sync", "async"])
async def test_whatever_a_job_raises_is_its_error_and_nothing_more(sq: Sidequest, definition: object, what: str) -> None:
    async with neighbours(sq, 0.3):
        state, attempt, crashes, kind, type, message = await verdict(await definition.enqueue(what))  # type: ignore[attr-defined]
        assert (state, attempt, crashes, kind) == (State.FAILED, 1, 0, "error")
        if what == "StopIteration":  # a coroutine cannot raise that: Python makes it a RuntimeError
            assert type in ("StopIteration", "RuntimeError")
        elif what == "unpicklable":
            assert (type, "Unpicklable" in message) == ("ValueError", True)
        else:
            expected = RAISED[what]
            assert (type, expected[1] and message) == expected


async def test_endless_recursion_is_an_error_that_can_be_read(sq: Sidequest) -> None:
    async with neighbours(sq):
        *told, message = await verdict(await jobs.recurses.enqueue())
        assert told == list(error("RecursionError", ""))[:-1]
        assert message.startswith("maximum recursion depth exceeded")


# What is left behind


@pytest.mark.parametrize("definition", [jobs.leaks_a_task, jobs.leaks_a_thread_of_the_loop, jobs.waits_too_briefly])
async def test_what_an_async_job_leaves_running_holds_back_neither_its_result_nor_a_stop(
    start: StartSidequest, url: str, definition: object
) -> None:
    async with Sidequest(url, max_workers=3, modules=[MODULE]) as sq:
        async with neighbours(sq):
            assert await (await definition.enqueue()).result(timeout=5) == "done"  # type: ignore[attr-defined]
        began = time.monotonic()
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("definition", [jobs.leaks_a_thread, jobs.sleeps_at_exit])
async def test_what_a_sync_job_leaves_running_does_not_hold_up_a_stop(url: str, definition: object) -> None:
    async with Sidequest(url, max_workers=3, modules=[MODULE]) as sq:
        async with neighbours(sq):
            await (await definition.enqueue()).result(timeout=5)  # type: ignore[attr-defined]
        began = time.monotonic()
    assert time.monotonic() - began < 6


async def _running(sq: Sidequest, count: int) -> bool:
    return (await sq.jobs.count())[State.RUNNING] >= count


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _resident(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


_ = (asyncio, call_by_name)
