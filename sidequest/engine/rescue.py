"""ENGINE PROCESS. Takes back the jobs of engines that died.

Any engine may rescue any other's jobs, on two conditions, both on its own monotonic clock: the
other's beat counter has not moved for a full lease life, and the rescuer itself had unbroken
contact with the database that long. So no clock that jumps and no outage that ends causes a mass
rerun. Every write is fenced by the lease that was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.engine.heartbeat import Heartbeat
from sidequest.errors import SidequestError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Interrupted, JobError, Stopped
from sidequest.jobs.record import ClaimedJob

logger = logging.getLogger(__name__)
BATCH = 500


class Rescue:
    """Watches the beats of all engines; releases what dead ones hold."""

    def __init__(
        self, engine_id: str, settings: Settings, store: Backend, heartbeat: Heartbeat, rescued: Callable[[], None]
    ) -> None:
        self._engine_id = engine_id
        self._settings = settings
        self._store = store
        self._heartbeat = heartbeat
        self._rescued = rescued
        self._seen: dict[str, tuple[int, float]] = {}
        self._chance = Random()

    async def run(self) -> None:
        interval = self._settings.rescue_interval.total_seconds()
        while True:
            await asyncio.sleep(interval * self._chance.uniform(0.9, 1.1))
            try:
                for engine_id in await self._dead():
                    await self.release(engine_id, "its engine stopped giving signs of life")
                    await self._store.forget_engine(engine_id)
                    self._seen.pop(engine_id, None)
            except SidequestError as error:
                logger.warning("rescue failed: %s", error)

    async def release(self, engine_id: str, reason: str) -> int:
        """Take back all that this engine holds; how many jobs that were.

        It stays registered: a claim that it had sent when it died may still land, and whatever an engine
        without a row holds is found by nobody. It is forgotten when its beat has stood still for a lease life.
        """
        count = 0
        while held := await self._store.held_by(engine_id, BATCH):
            await self._give_back(held, reason)
            count += len(held)
        if count:
            logger.warning("rescued %d jobs of engine %s: %s", count, engine_id, reason)
            self._rescued()
        return count

    async def _give_back(self, held: Sequence[ClaimedJob], reason: str) -> None:
        now = self._store.now()
        error = JobError("interrupt", "EngineLost", f"the job was interrupted: {reason}")
        records = {record.id: record for record in await self._store.get_many(job.id for job in held)}
        changes: list[transitions.Change] = []
        for job in held:
            record = records.get(job.id)
            if record is None:
                continue
            outcome = Stopped() if record.cancel_requested_at is not None else Interrupted(error)
            changes.append(transitions.finish(job, outcome, record.started_at, now, self._chance))
        await failpoints.reach("rescue.before_write")
        await self._store.apply(changes)
        await failpoints.reach("rescue.after_write")

    async def _dead(self) -> list[str]:
        """Engines whose beat stood still for a lease life while we could see it."""
        now, life = monotonic(), self._settings.lease_life.total_seconds()
        engines = {engine.id: engine.beat for engine in await self._store.list_engines() if engine.id != self._engine_id}
        self._seen = {
            id: self._seen[id] if id in self._seen and self._seen[id][0] == beat else (beat, now)
            for id, beat in engines.items()
        }
        contact = self._heartbeat.unbroken_since
        if contact is None or now - contact < life:
            return []
        return [id for id, (_, since) in self._seen.items() if now - since >= life]
