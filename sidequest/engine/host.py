"""ENGINE PROCESS. The other engines of this host: whether their processes live, and an end for what dead ones left.

Judged is only who names the same boot of the same machine and the same process namespace: a number
means nothing in another container. Where the kernel does not tell (not Linux), nobody is judged.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sidequest.backends.base import NOWHERE, EngineRecord, Home, WorkerGroup
from sidequest.clock import monotonic

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
DEAD = "ZX"
"""States of a process that runs nothing any more, though nobody may have looked at its end."""
GONE_WITHIN = 2.0
"""Seconds that killed processes get to be gone."""


def home() -> Home:
    """Where this process lives; `NOWHERE` when that cannot be told in full."""
    try:
        found = Home(BOOT.read_text().strip(), str(NAMESPACE.readlink()), born(os.getpid()))
    except OSError:
        return NOWHERE
    return found if all(found) else NOWHERE


def born(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty when there is none that runs, or it cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in DEAD else fields[19]
    except (OSError, IndexError):
        return ""


def worker_groups(pids: Iterable[int]) -> tuple[WorkerGroup, ...]:
    """The groups that these processes lead, with what tells them from others that get the same numbers later."""
    return tuple(WorkerGroup(pid, since) for pid in pids if pid and (since := born(pid)))


def has_died(engine: EngineRecord, here: Home) -> bool:
    """Whether this is an engine of this host whose process is gone; False where that cannot be known."""
    theirs = engine.home
    if here == NOWHERE or engine.host != socket.gethostname() or theirs[:2] != here[:2] or not theirs.born:
        return False
    return not _runs(WorkerGroup(engine.pid, theirs.born))


async def end_groups(groups: Iterable[WorkerGroup]) -> bool:
    """Kill what is left of the groups; whether nothing is. Harmless when several do it at once."""
    leaders = {group.pid for group in groups if _state(group) is not None}
    if not leaders:
        return True
    for leader in leaders:  # also where the leader itself is dead already: what it started may not be
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    deadline = monotonic() + GONE_WITHIN
    while not (gone := leaders.isdisjoint(_groups_with_life())) and monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return gone


def _groups_with_life() -> Iterator[int]:
    """The groups of all processes that run. Signals would not do: dead members answer them until somebody looks."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in DEAD:
                    yield int(fields[2])


def _runs(process: WorkerGroup) -> bool:
    return _state(process) not in (None, *DEAD)


def _state(process: WorkerGroup) -> str | None:
    """The state of the very process that was noted, as in /proc ("?": hidden from us); None when it is gone.

    Asked by signal first: some hosts hide the files of others' processes.
    """
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's: it is there, and its file may tell since when
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?"
    return fields[0] if fields[19] == process.born else None
