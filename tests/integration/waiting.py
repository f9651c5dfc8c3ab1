"""Waiting for a condition, with a deadline; and finding the processes that a test has started."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sidequest import Sidequest, State
from sidequest.worker.title import TEMPLATE, WORKER

MARK = "SIDEQUEST_TEST_MARK"
KEPT = (MARK, "SIDEQUEST_EVENT_LOOP")
"""What stays in the environment of programs that are to find no settings there."""


async def eventually(condition: Callable[[], object | Awaitable[object]], within: float = 15.0) -> object:
    """What `condition` returns, as soon as that is true; AssertionError when it never is."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"still not so after {within} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.02)


async def in_state(sq: Sidequest, state: State, count: int = 1) -> bool:
    """Whether so many jobs are in that state."""
    return (await sq.jobs.count())[state] >= count


def engine_pid(sq: Sidequest) -> int:
    """The engine process that this Sidequest keeps."""
    assert sq.engine_pid is not None
    return sq.engine_pid


def marked_processes(mark: str) -> dict[int, str]:
    """The living processes, other than this one, that were started with this mark: pid → command."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(_own_pid()):
            continue
        try:
            environ = (entry / "environ").read_bytes()
            if f"{MARK}={mark}".encode() in environ:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
    return found


def marked_workers(mark: str) -> set[int]:
    """Those of them that are workers; not what they are forked from."""
    return {pid for pid in marked_processes(mark) if _title(pid) == WORKER}


def marked_templates(mark: str) -> set[int]:
    """Those of them that workers are forked from."""
    return {pid for pid in marked_processes(mark) if _title(pid) == TEMPLATE}


def marked_engines(mark: str) -> list[int]:
    """Those of them that are engines, and not a worker of one that is just being made from it: that leads no group yet."""
    return [pid for pid, command in marked_processes(mark).items() if "-m sidequest.engine" in command and _leads(pid)]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it ended meanwhile
        return ""


def _leads(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def _own_pid() -> int:
    return int(Path("/proc/self").resolve().name)
