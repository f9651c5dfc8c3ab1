"""ENGINE PROCESS. Takes back the jobs of engines that died.

Any engine may rescue any other's jobs, on two conditions, both on its own monotonic clock: the
other's beat counter has not moved for a full lease life, and the rescuer itself had unbroken
contact with the database that long. So no clock that jumps and no outage that ends causes a mass
rerun. An engine of the same host whose process is gone needs no waiting: what is left of its workers
is killed, and its jobs are free.

It is marked first, unless it has beaten meanwhile, and cannot beat from then on; so it will know,
and whoever comes next may go on where a rescuer ended. Every write is fenced by the lease that was
read, and goes past rows that somebody else's transaction holds: several at once do no harm. The mark
stays for a lease life, for the engine to find when it was only frozen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from random import Random

from sidequest import failpoints
from sidequest.backends.base import Backend, EngineRecord
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.engine import host
from sidequest.engine.heartbeat import Heartbeat
from sidequest.engine.process_groups import end_groups
from sidequest.engine.trouble import Trouble
from sidequest.errors import SidequestError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Interrupted, JobError, Stopped
from sidequest.jobs.record import ClaimedJob, JobRecord
from sidequest.jobs.states import State

logger = logging.getLogger(__name__)
BATCH = 100
RIPENESS = 0.01
"""Seconds beyond a lease life at which it is surely over."""
MOST_HELD = 100_000
"""What one engine can hold: `max_concurrent_jobs` allows no more."""
DIED = "its engine process died"


class Rescue:
    """Watches the beats of all engines; releases what dead ones hold."""

    def __init__(
        self,
        settings: Settings,
        store: Backend,
        heartbeat: Heartbeat,
        rescued: Callable[[], None],
        replay: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`replay` writes what a dead engine of this host has left in its spool; it comes before the release."""
        self._life = settings.lease_life.total_seconds()
        self._interval = settings.rescue_interval.total_seconds()
        self._ages = {State.RUNNING: settings.stale_running, State.CLAIMED: settings.stale_claimed}
        self._store = store
        self._heartbeat = heartbeat
        self._rescued = rescued
        self._replay = replay
        self._trouble = Trouble(logger, "rescue jobs of other engines")
        self._seen: dict[str, tuple[int, float]] = {}
        self._marked: dict[str, float] = {}
        self._home = host.home()
        self._chance = Random()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._pause())
            try:
                await self.round()
            except SidequestError as error:
                self._trouble.met(error)
            else:
                self._trouble.over()

    def _pause(self) -> float:
        """Until the next round: one interval, or until a beat will have stood still for a lease life."""
        now = monotonic()
        ripe = [since + self._life - now for _, since in self._seen.values() if since + self._life > now]
        return min([self._interval * self._chance.uniform(0.9, 1.1), *(left + RIPENESS for left in ripe)])

    async def round(self) -> None:
        """One look at all engines."""
        engines = [engine for engine in await self._store.list_engines() if engine.id != self._heartbeat.engine_id]
        self._notice(engines)
        for engine in engines:
            if engine.given_up_by is not None:
                await self._go_on(engine.id)
            elif await self._died_here(engine):
                await self.release(engine.id, DIED)
            elif self._is_silent(engine.id) and await self._mark(engine):
                await self._take_back(engine.id, "its engine stopped giving signs of life")
        if any(self._ages.values()):
            await self._take_back_stale([*(engine.id for engine in engines), self._heartbeat.engine_id])

    async def release_dead_of_this_host(self) -> None:
        """Those of the engines here whose processes are gone: after a restart of everything nobody has to wait."""
        for engine in await self._store.list_engines():
            if engine.id != self._heartbeat.engine_id and await self._died_here(engine):
                await self.release(engine.id, DIED)

    async def release(self, engine_id: str, reason: str) -> int:
        """Take back all that this engine, whose process is known to be gone, holds; how many jobs that were.

        It stays listed, as given up: a claim that it had sent when it died may still land, and whatever an
        engine without a row holds is found by nobody. It is forgotten a lease life later.
        """
        if self._replay is not None:
            await self._replay()
        await self._store.give_up_engine(engine_id, self._heartbeat.engine_id)
        count, _ = await self._take_back(engine_id, reason)
        return count

    # Who is dead

    def _notice(self, engines: Sequence[EngineRecord]) -> None:
        now = monotonic()
        self._seen = {
            engine.id: self._seen[engine.id]
            if engine.id in self._seen and self._seen[engine.id][0] == engine.beat
            else (engine.beat, now)
            for engine in engines
        }
        self._marked = {engine.id: self._marked.get(engine.id, now) for engine in engines if engine.given_up_by is not None}

    def _is_silent(self, engine_id: str) -> bool:
        """Whether its beat stood still for a lease life while we could see it."""
        now, contact = monotonic(), self._heartbeat.unbroken_since
        return contact is not None and now - contact >= self._life and now - self._seen[engine_id][1] >= self._life

    async def _died_here(self, engine: EngineRecord) -> bool:
        return host.has_died(engine, self._home) and await end_groups(engine.workers)

    async def _mark(self, engine: EngineRecord) -> bool:
        return await self._store.give_up_engine(engine.id, self._heartbeat.engine_id, self._seen[engine.id][0])

    # What becomes of its jobs

    async def _go_on(self, engine_id: str) -> None:
        """Somebody gave it up: take back what is left, also what came in late; and forget it in the end."""
        _, all_of_them = await self._take_back(engine_id, "its engine was given up")
        if all_of_them and monotonic() - self._marked[engine_id] >= self._life:
            await self._forget(engine_id)

    async def _take_back(self, engine_id: str, reason: str) -> tuple[int, bool]:
        """How many of its jobs wait again or have ended, and whether those were all; others are tried next time."""
        count, passed = 0, set[int]()
        while held := await self._held_besides(engine_id, passed):
            refused = await self._give_back(held, reason)
            passed |= refused
            count += len(held) - len(refused)
        if count:
            logger.warning("rescued %d jobs of engine %s: %s", count, engine_id, reason)
            self._rescued()
        return count, not passed

    async def _held_besides(self, engine_id: str, passed: set[int]) -> Sequence[ClaimedJob]:
        held = await self._store.held_by(engine_id, BATCH + len(passed))
        return [job for job in held if job.id not in passed]

    async def _give_back(self, held: Sequence[ClaimedJob], reason: str) -> frozenset[int]:
        """The ids that were not written: locked, ended or moved meanwhile."""
        records = {record.id: record for record in await self._store.get_many(job.id for job in held)}
        return await self._interrupt([(job, records[job.id]) for job in held if job.id in records], reason)

    async def _interrupt(self, jobs: Sequence[tuple[ClaimedJob, JobRecord]], reason: str) -> frozenset[int]:
        now = self._store.now()
        error = JobError("interrupt", "EngineLost", f"the job was interrupted: {reason}")
        changes: list[transitions.Change] = []
        for job, record in jobs:
            outcome = Stopped() if record.cancel_requested_at is not None else Interrupted(error)
            changes.append(transitions.finish(job, outcome, record.started_at, now, self._chance))
        await failpoints.reach("rescue.before_write")
        refused = await self._store.apply(changes, skip_locked=True)
        await failpoints.reach("rescue.after_write")
        return refused

    async def _forget(self, engine_id: str) -> None:
        await self._store.forget_engine(engine_id)
        self._seen.pop(engine_id, None)
        self._marked.pop(engine_id, None)

    # Fixed ages

    async def _take_back_stale(self, engine_ids: Sequence[str]) -> None:
        """Jobs that are in hand for longer than anybody wants, whoever has them."""
        for engine_id in engine_ids:
            held = await self._store.held_by(engine_id, MOST_HELD)
            for some in (held[n : n + BATCH] for n in range(0, len(held), BATCH)):
                records = {record.id: record for record in await self._store.get_many(job.id for job in some)}
                now = self._store.now()
                stale = [(job, records[job.id]) for job in some if job.id in records and self._is_stale(records[job.id], now)]
                if stale:
                    await self._take_back_these(engine_id, stale)

    async def _take_back_these(self, engine_id: str, stale: Sequence[tuple[ClaimedJob, JobRecord]]) -> None:
        refused = await self._interrupt(stale, "it was in hand for longer than stale_running or stale_claimed allows")
        ids = [job.id for job, _ in stale if job.id not in refused]
        if ids:
            logger.warning("took %d stale jobs from engine %s: %s", len(ids), engine_id, ", ".join(map(str, ids[:10])))
            self._rescued()
            if engine_id == self._heartbeat.engine_id:
                self._heartbeat.doubt()  # those run here

    def _is_stale(self, record: JobRecord, now: datetime) -> bool:
        age = self._ages.get(record.state)
        since = record.started_at if record.state is State.RUNNING else record.claimed_at
        return age is not None and since is not None and now - since > age
