"""ENGINE PROCESS. Says that this engine lives, and gives back leases that nobody here knows of."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from random import Random

import sidequest
from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.errors import SidequestError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Released

logger = logging.getLogger(__name__)
RECONCILE = 1_000


class Heartbeat:
    """One row, one write per interval, from a loop that runs no user code."""

    def __init__(self, engine_id: str, settings: Settings, store: Backend, known: Callable[[int], bool]) -> None:
        self._engine_id = engine_id
        self._settings = settings
        self._store = store
        self._known = known
        self._uncertain = False
        self._left = False
        self._suspects: set[tuple[int, str]] = set()
        self._chance = Random()
        self.unbroken_since: float | None = None
        """Since when every beat has reached the database (monotonic); None after one that did not."""

    def claim_uncertain(self) -> None:
        """A claim's answer was lost: it may have been applied without anybody here knowing."""
        self._uncertain = True

    async def register(self) -> None:
        await self._store.register_engine(
            self._engine_id, socket.gethostname(), os.getpid(), sidequest.__version__, ",".join(self._settings.serve)
        )
        self.unbroken_since = monotonic()

    async def leave(self) -> None:
        """Remove this engine's row; no beat after this brings it back. Nothing may be claimed any more.

        After a claim whose answer was lost the row stays, when what that claim brought so far has been
        given back: more may land after this, and whatever an engine without a row holds is found by nobody.
        """
        self._left = True
        if self._uncertain:
            await self._reconcile()
            await self._reconcile()  # no other claim's answer is on its way: what is unknown now is a stray
        else:
            await self._store.forget_engine(self._engine_id)

    async def run(self) -> None:
        interval = self._settings.heartbeat_interval.total_seconds()
        while True:
            await asyncio.sleep(interval * self._chance.uniform(0.9, 1.1))
            try:
                await self._beat()
            except SidequestError as error:
                self.unbroken_since = None
                logger.warning("heartbeat failed: %s", error)

    async def _beat(self) -> None:
        await failpoints.reach("heartbeat.before_beat")
        sent_at = monotonic()
        if not await self._store.beat(self._engine_id) and not self._left:
            logger.warning("this engine's row is gone: others believed it dead; registering again")
            await self.register()
        if self.unbroken_since is None:
            self.unbroken_since = sent_at
        if self._uncertain:
            await self._reconcile()

    async def _reconcile(self) -> None:
        """Release the jobs that are leased to this engine and that it does not know.

        Only what was unknown at the last beat as well: another claim's answer may be on its way.
        """
        held = await self._store.held_by(self._engine_id, RECONCILE)
        unknown = {(job.id, job.lease): job for job in held if not self._known(job.id)}
        strays = [job for key, job in unknown.items() if key in self._suspects]
        if strays:
            now = self._store.now()
            await failpoints.reach("release.before_write")
            await self._store.apply([transitions.finish(job, Released(), None, now, self._chance) for job in strays])
            await failpoints.reach("release.after_write")
            logger.warning("gave back %d jobs of a claim whose answer was lost", len(strays))
        self._suspects = unknown.keys() - {(job.id, job.lease) for job in strays}
        self._uncertain = bool(self._suspects) or len(held) == RECONCILE
