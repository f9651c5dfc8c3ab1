"""ENGINE PROCESS. How much memory workers use: too much retires one, twice as much kills it.

Measured here and not in the worker, because a job that takes all memory lets nothing else run there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from sidequest.engine.errands import Errands
from sidequest.engine.lane import Lane
from sidequest.wire.messages import Role

logger = logging.getLogger(__name__)


def resident(pid: int) -> int | None:
    """Bytes of memory that the process has in use; None where that cannot be told, or when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class Memory:
    """Holds workers to `max_worker_memory`."""

    def __init__(self, limit: int | None, errands: Errands, measure: Callable[[int], int | None] = resident) -> None:
        self._limit = limit
        self._errands = errands
        self._measure = measure

    def look(self, lane: Lane) -> None:
        """Retire the lane, or kill its worker, when it uses too much."""
        if self._limit is None or not lane.ready or lane.closing or not lane.served:
            return  # what a worker needs before it has run a job is no job's doing
        used = self._measure(lane.link.pid)
        if used is None or used <= self._limit:
            return
        if used >= 2 * self._limit and self._somebody_runs(lane):
            cause = f"it used {_megabytes(used)}, more than twice max_worker_memory ({_megabytes(self._limit)})"
            self._errands.start(lane.link.kill, None, cause)
        elif not lane.retiring:
            logger.warning(
                "worker %d uses %s, more than max_worker_memory (%s): it is replaced when its jobs have ended",
                lane.link.pid, _megabytes(used), _megabytes(self._limit),
            )  # fmt: skip
            lane.retiring = True

    def _somebody_runs(self, lane: Lane) -> bool:
        """Between two sync jobs there is nobody to blame: the next look will do."""
        return bool(lane.jobs) and (lane.role is Role.ASYNC or lane.link.current()[0] in lane.jobs)


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"
