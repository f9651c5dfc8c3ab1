"""ENGINE PROCESS. Finds async jobs that hold up the event loop which they share with others.

A worker names the job that it steps and counts the steps, in shared memory. While name and count
stand still, one step lasts: nothing else in that worker moves, so only somebody outside can tell.
"""

from __future__ import annotations

import logging

from sidequest.clock import monotonic
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held, Lane
from sidequest.wire.messages import Role

logger = logging.getLogger(__name__)
BLOCKED_AFTER = 1.0
"""Seconds that one step of a job may last before it is named, and its lane gets no more jobs."""


class Watchdog:
    """Looks into lanes again and again; says once of each blocking who it is, and where."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands

    def look(self, lane: Lane) -> None:
        if lane.role is not Role.ASYNC:
            return
        now = monotonic()
        step = (lane.link.current()[0], lane.link.steps())
        held = lane.jobs.get(step[0])
        if held is None or step != lane.step:
            lane.step, lane.step_since = step, now
            lane.blocked = False
        elif not lane.blocked and now - lane.step_since >= BLOCKED_AFTER:
            lane.blocked = True
            self._errands.start(self._name, lane, held, now - lane.step_since)

    async def _name(self, lane: Lane, held: Held, seconds: float) -> None:
        waiting = len(lane.jobs) - 1
        stacks = await lane.link.stacks()
        logger.warning(
            "job %d (%s) blocks the event loop of worker %d since %.1f s; %d other jobs there wait for it\n%s",
            held.job.id, held.job.name, lane.link.pid, seconds, waiting, stacks,
        )  # fmt: skip
