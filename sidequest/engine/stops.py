"""ENGINE PROCESS. Jobs that must stop: asked first, and killed with their worker when they do not.

A worker enforces a job's timeout by itself, because the clock starts with user code. What is
enforced here is the grace after it: for a job that ignores the request, or holds the GIL so that
its worker cannot even make it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sidequest.clock import epoch_us, monotonic
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held
from sidequest.wire.messages import StopReason

logger = logging.getLogger(__name__)


class Stops:
    """The running jobs that have a limit: a timeout, or a request to stop."""

    def __init__(self, kill_grace: float, errands: Errands) -> None:
        self._kill_grace = kill_grace
        self._errands = errands
        self._bounded: dict[int, Held] = {}

    def limit(self, held: Held) -> None:
        """A job with a timeout was given to a lane."""
        self._bounded[held.job.id] = held

    def ask(self, held: Held, reason: StopReason, grace: float | None) -> None:
        """Ask a job that is in a lane to stop within `grace` seconds (default: its own, or the engine's)."""
        assert held.lane is not None
        held.stop = reason
        held.stop_by = monotonic() + (self._grace(held) if grace is None else grace)
        self._bounded[held.job.id] = held
        held.lane.recall()  # it may not have started: then it just comes back
        held.lane.halt(held.job.id, reason)

    def forget(self, ids: Iterable[int]) -> None:
        """These jobs are over."""
        if self._bounded:
            for id in ids:
                self._bounded.pop(id, None)

    def enforce(self) -> None:
        """Kill the workers of jobs whose grace is over."""
        now, now_us = monotonic(), epoch_us()
        for held in list(self._bounded.values()):
            if held.lane is not None and self._is_over(held, now, now_us):
                held.stop = held.stop or StopReason.TIMEOUT
                self.forget([held.job.id])
                pid = held.lane.link.pid
                logger.warning("job %d does not stop (%s): killing its worker %d", held.job.id, held.stop.describe(), pid)
                self._errands.start(held.lane.link.kill, held.job.id)

    def _is_over(self, held: Held, now: float, now_us: int) -> bool:
        if held.stop is not None:
            return now >= held.stop_by
        limit = (held.job.timeout_ms or 0) / 1000 + self._grace(held)
        return held.started_us > 0 and now_us - held.started_us > limit * 1_000_000

    def _grace(self, held: Held) -> float:
        return self._kill_grace if held.job.kill_grace_ms is None else held.job.kill_grace_ms / 1000
