"""APP PROCESS. The worker processes of an engine that died: ended, and gone, before another engine starts.

They end by themselves when their engine does; this is for those that cannot, because a job holds the
GIL or has stopped them. A job that ran on while a new engine starts it again would run twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sidequest.clock import monotonic

logger = logging.getLogger(__name__)
LONGEST = 5.0
"""Seconds that killed processes may take to be gone; only the kernel can hold one up longer."""


class _Seen(NamedTuple):
    """A process, as `/proc` shows it."""

    state: str
    group: int
    born: str
    """When it started, in the kernel's ticks."""


class Orphans:
    """Remembers an engine's workers. Where there is no `/proc` it remembers none."""

    def __init__(self) -> None:
        self._born: dict[int, str] = {}

    def remember(self, pids: Iterable[int]) -> None:
        """The workers that there are now."""
        seen = {pid: _look_at(pid) for pid in pids}
        self._born = {pid: found.born for pid, found in seen.items() if found is not None}

    async def end(self) -> None:
        """Kill them, with whatever their jobs have started in their process groups; return when all are gone."""
        workers, self._born = self._born, {}
        left = {pid for pid, born in workers.items() if _is_still(pid, born)}
        deadline = monotonic() + LONGEST
        while left:
            for pid in left:
                _kill(pid)
            left &= _living_groups()
            if left and monotonic() > deadline:
                logger.error("workers %s of the engine that died do not end: their jobs may run twice", sorted(left))
                return
            await asyncio.sleep(0.01 if left else 0)


def _is_still(pid: int, born: str) -> bool:
    """Whether the number is not by now another process's: that of the worker, or of its group without it."""
    found = _look_at(pid)
    return found is None or found.born == born


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _living_groups() -> set[int]:
    """The process groups with a member that is more than an entry in the kernel's table."""
    found = (_look_at(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {seen.group for seen in found if seen is not None and seen.state not in "ZX"}


def _look_at(pid: int) -> _Seen | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _Seen(stat[0], int(stat[2]), stat[19])
    except (OSError, IndexError, ValueError):
        return None
