"""PROCESS BOUNDARY. The process groups that workers lead: known by number and start, and ended when their engine is gone.

They end by themselves when their engine does; this is for those that cannot, because a job holds the
GIL or has stopped them, and for what jobs have started. A job that ran on while a new engine starts it
again would run twice. Where there is no `/proc`, no group is known.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sidequest.backends.base import WorkerGroup
from sidequest.clock import monotonic

DEAD = "ZX"
"""States of a process that runs nothing any more, though nobody may have looked at its end."""
GONE_WITHIN = 5.0
"""Seconds that killed processes get to be gone; only the kernel can hold one up longer."""


class Seen(NamedTuple):
    """A process, as `/proc` shows it."""

    state: str
    group: int
    born: str
    """When it started, in the kernel's ticks."""


def look_at(pid: int) -> Seen | None:
    """None when there is no such process, or it is hidden from us."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Seen(stat[0], int(stat[2]), stat[19])
    except (OSError, IndexError, ValueError):
        return None


def born(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty when there is none that runs, or it cannot be told."""
    seen = look_at(pid)
    return "" if seen is None or seen.state in DEAD else seen.born


def worker_groups(pids: Iterable[int]) -> tuple[WorkerGroup, ...]:
    """The groups that these processes lead, with what tells them from others that get the same numbers later."""
    return tuple(WorkerGroup(pid, since) for pid in pids if pid and (since := born(pid)))


async def end_groups(groups: Iterable[WorkerGroup]) -> bool:
    """Kill what is left of the groups, also where the leader is dead already; whether nothing is left within five seconds.

    Harmless when several do it at once.
    """
    left = {group.pid for group in groups if _is_still(group)}
    deadline = monotonic() + GONE_WITHIN
    while left := {pid for pid in left if _kill(pid)}:
        left &= _living_groups()
        if left and monotonic() > deadline:
            return False
        await asyncio.sleep(0.01 if left else 0)
    return True


def _is_still(group: WorkerGroup) -> bool:
    """Whether the number is not by now another process's: that of the leader, or of its group without it."""
    seen = look_at(group.pid)
    return seen is None or seen.born == group.born


def _kill(group: int) -> bool:
    """Whether there was such a group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _living_groups() -> set[int]:
    """The groups of all processes that run. Signals would not do: dead members answer them until somebody looks."""
    found = (look_at(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {seen.group for seen in found if seen is not None and seen.state not in DEAD}
