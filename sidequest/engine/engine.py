"""ENGINE PROCESS. The engine: its loops, how they hang together, their order of start and stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Protocol
from uuid import uuid4

import anyio

from sidequest import failpoints
from sidequest.backends.announcer import Announcer
from sidequest.backends.base import Backend
from sidequest.backends.watch import EndWatch
from sidequest.clock import from_epoch_us
from sidequest.config import Settings
from sidequest.engine.cancellations import Cancellations
from sidequest.engine.cleanup import Cleanup
from sidequest.engine.dispatcher import Dispatcher
from sidequest.engine.errands import Errands
from sidequest.engine.heartbeat import Heartbeat
from sidequest.engine.inquiries import Inquiries
from sidequest.engine.lane import Held, Lane
from sidequest.engine.lanes import Lanes
from sidequest.engine.leases import Leases
from sidequest.engine.outbox import Entry, Outbox, ended
from sidequest.engine.queue_scheduler import QueueScheduler
from sidequest.engine.requests import Requests
from sidequest.engine.rescue import DIED, Rescue
from sidequest.engine.spool import Spool
from sidequest.engine.wakeups import Wakeups
from sidequest.engine.worker_process import Link
from sidequest.errors import SidequestError
from sidequest.event_loop import kind_of
from sidequest.jobs import transitions
from sidequest.jobs.naming import Script
from sidequest.jobs.outcome import Completed, Failed, JobError, Outcome, Stopped
from sidequest.jobs.record import ClaimedJob
from sidequest.jobs.states import FINAL, State
from sidequest.wire.frames import BrokenFrame
from sidequest.wire.lesson import Lesson
from sidequest.wire.messages import End, StopReason
from sidequest.wire.vitals import Vitals

logger = logging.getLogger(__name__)
MICROSECOND = timedelta(microseconds=1)
TICK = 0.05
IDLE_TICK = 1.0
RECENT = 10_000
"""Ended jobs that are remembered at least, for those who ask for them a moment too late."""
SHUTDOWN_GRACE = 1.0
KILL_WAIT = 3.0
CLOSE_WAIT = 3.0
FLUSH_WAIT = 3.0
FENCE_GRACE = 1.0
"""Seconds from the request to stop a job until it is killed, when others may soon take it; less with a short lease life."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What an engine is started with."""

    settings: Settings
    script: Script | None = None
    predecessor: str | None = None
    """A dead engine whose jobs this one takes over at once."""


class Listener(Protocol):
    """Who hears of what the engine does: the app's end of the pipe."""

    def jobs_ended(self, ids: Sequence[int]) -> None: ...

    def workers_changed(self, pids: Sequence[int]) -> None: ...

    def engine_renamed(self, engine_id: str) -> None: ...


class Engine:
    """Claims, runs and ends jobs until `stop`. Does no I/O before `run`."""

    def __init__(self, orders: Orders, store: Backend, make_link: Callable[[], Link], listener: Listener) -> None:
        self.engine_id = uuid4().hex
        self._orders = orders
        self._settings = orders.settings
        self._store = store
        self._make_link = make_link
        self._listener = listener
        self._chance = Random()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop_within: float | None = None
        self._recent: set[int] = set()
        self._less_recent: set[int] = set()
        self._writing: dict[int, None] = {}
        self._in_doubt: list[Entry] = []

    # Orders from outside

    def stop(self, within: float | None = None) -> None:
        """Begin to drain: running jobs get `within` seconds (default `shutdown_timeout`). Idempotent."""
        if not self._stop.is_set():
            self._stop_within = within
            self._stop.set()

    def hurry(self) -> None:
        """Stop waiting for running jobs: they are stopped now."""
        self.stop()
        self._hurry.set()

    def wake(self) -> None:
        self._dispatcher.wake()

    def look_for_cancels(self) -> None:
        self._cancellations.look_now()

    def learn(self, lesson: Lesson) -> None:
        """A process of the app has jobs in modules that this engine may not know."""
        if news := self._lanes.crew.unknown(lesson.modules):
            sys.path += [entry for entry in lesson.path if entry not in sys.path]
            self._lanes.crew.learn(news, sys.path)

    def _taught(self, text: bytes) -> None:
        try:
            self.learn(Lesson.from_bytes(text))
        except BrokenFrame as error:
            logger.warning("somebody sent what is no lesson: %s", error)

    def recently_ended(self, ids: Sequence[int]) -> list[int]:
        """Those of the jobs that ended here a moment ago."""
        return [id for id in ids if id in self._recent or id in self._less_recent]

    def vitals(self) -> Vitals:
        """How it is at this moment. It must be running."""
        return Vitals(
            held=len(self._lanes.held),
            running=len(self._lanes.running()),
            outbox=self._outbox.waiting,
            workers=self._lanes.crew.alive(),
            not_claiming=self._not_claiming(),
        )

    def _not_claiming(self) -> str | None:
        if self._stop.is_set():
            return "it is stopping"
        if not self._outbox.gate_open:
            return f"the database does not take what there is to write: {self._outbox.waiting} changes wait"
        if self._dispatcher.trouble.error is not None:
            return f"the last claim failed: {self._dispatcher.trouble.error}"
        if len(self._lanes.held) >= self._settings.max_concurrent_jobs:
            return f"it has as many jobs in hand as max_concurrent_jobs allows: {len(self._lanes.held)}"
        return None

    # Life

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until stopped; `ready` is called when the engine claims. The store must be open."""
        self._assemble()
        dispatching: asyncio.Task[None] | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._errands.run)
            self._lanes.crew.warm_up()  # now: it takes longer than all that comes before the first claim
            await self._heartbeat.register()
            await self._store.save_queues(self._settings.queues.values())
            await self._replay()
            if self._orders.predecessor is not None:
                await self._rescue.release(self._orders.predecessor, DIED)
            await self._rescue.release_dead_of_this_host()
            await tasks.start(self._wakeups.run)
            for loop in (self._outbox.run, self._heartbeat.run, self._heartbeat.guard,
                         self._rescue.run, self._cancellations.run, self._cleanup.run, self._ends.run, self._announcer.run,
                         self._inquiries.run, self._watch_lanes):  # fmt: skip
                tasks.start_soon(loop)
            dispatching = asyncio.create_task(self._dispatcher.run())
            try:
                await failpoints.reach("engine.before_ready")
                ready()
                stopping = asyncio.create_task(self._stop.wait())
                await asyncio.wait([stopping, dispatching], return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._drain(dispatching)
                tasks.cancel_scope.cancel()
        if dispatching is not None:
            dispatching.result()  # an engine that cannot claim must not look healthy: what ended the dispatcher ends it

    def _assemble(self) -> None:
        settings, store = self._settings, self._store
        self._errands = Errands()
        self._scheduler = QueueScheduler(settings.max_concurrent_jobs, settings.serve)
        self._lanes = Lanes(settings, self, self._errands, self._make_link, self._greeting(), self._scheduler.concurrency)
        self._lanes.may_start = lambda: self._heartbeat.trusted
        self._spool = Spool(settings.spool, store.url.identity, self.engine_id) if settings.spool is not None else None
        self._outbox = Outbox(store, self._written, self._refused, self._unwritable, self._spool)
        self._leases = Leases(store, self._holding, self._knows, self._lanes.lose)
        self._heartbeat = Heartbeat(self.engine_id, settings, store, self._leases, self)
        self._dispatcher = Dispatcher(
            self.engine_id, settings, store, self._scheduler, self._lanes,
            self._may_claim, self._leases.claim_uncertain,
        )  # fmt: skip
        self._cancellations = Cancellations(self.engine_id, store, self._lanes, lambda: bool(self._lanes.held))
        self._wakeups = Wakeups(self.engine_id, store, self.wake, self.look_for_cancels, self._taught)
        self._inquiries = Inquiries(lambda: self.engine_id, store.url.identity, lambda: self._lanes.held)
        self._announcer = Announcer(store, self, suffices=settings.serves_all)
        self._rescue = Rescue(settings, store, self._heartbeat, self._announcer.work, self._replay)
        self._cleanup = Cleanup(settings, store)
        self._ends = EndWatch(store)
        self._ends.hinted = True
        self._requests = Requests(settings, store, self._ends, self._announcer.work, lambda _: self._announcer.cancels())

    def _may_claim(self) -> bool:
        return self._outbox.gate_open and not self._outbox.behind and self._heartbeat.trusted

    def _greeting(self) -> dict[str, Any]:
        script = self._orders.script
        plain = self._settings.to_json()
        return {
            "modules": list(self._settings.modules),
            "path": sys.path,  # the list itself: it may grow while the engine runs
            "script": {"name": script.name, "path": script.path} if script else None,
            "log_level": self._settings.log_level,
            "job_defaults": plain["job_defaults"],
            "event_loop": kind_of(asyncio.get_running_loop()),
        }

    async def _drain(self, dispatching: asyncio.Task[None]) -> None:
        """Stop claiming, give back what has not started, let running jobs finish, stop the rest."""
        within = self._settings.shutdown_timeout.total_seconds() if self._stop_within is None else self._stop_within
        self._dispatcher.close()
        await asyncio.wait([dispatching])
        await failpoints.reach("shutdown.before_release")
        self._lanes.stop_placing()
        self._lanes.recall_all()
        self._lanes.release_backlog()
        await failpoints.reach("shutdown.before_wait")
        await _first_of(within, self._lanes.idle, self._hurry)
        await failpoints.reach("shutdown.before_halt")
        for id in self._lanes.running():
            self._lanes.halt(id, StopReason.SHUTDOWN, grace=SHUTDOWN_GRACE)
        await _first_of(SHUTDOWN_GRACE + KILL_WAIT, self._lanes.idle)
        self._lanes.abandon()
        self._lanes.crew.close_all()
        await failpoints.reach("shutdown.before_flush")
        with anyio.move_on_after(FLUSH_WAIT) as flushing:
            await self._outbox.emptied()
        await self._announcer.flush()
        await failpoints.reach("shutdown.before_forget")
        if flushing.cancelled_caught:
            await self._keep_the_rest()  # and its row: others must find what it held
        else:
            with suppress(SidequestError):
                await self._heartbeat.leave()
        await _first_of(CLOSE_WAIT, self._lanes.crew.gone)  # what is left after that is killed with its task

    async def _keep_the_rest(self) -> None:
        kept = self._spool is not None and await self._outbox.spool_rest()
        if kept:
            logger.warning("the database did not take %d job changes: the next engine here writes them", self._outbox.waiting)
        else:
            logger.error("the database did not take the last %d job changes: those jobs will run again", self._outbox.waiting)

    async def _replay(self) -> None:
        if self._spool is not None:
            await self._spool.replay(self._store)

    async def _watch_lanes(self) -> None:
        while True:
            if not self._lanes.busy:
                await _first_of(IDLE_TICK, self._lanes.at_work)
            await asyncio.sleep(TICK)
            self._lanes.look()

    # What happens on the floor

    def jobs_ended(self, ended: Sequence[tuple[Held, End]]) -> None:
        ahead_us = self._store.ahead() // MICROSECOND  # one answer for all: no end comes before its start
        entries: list[Entry] = []
        for held, end in ended:
            if held.lost:
                continue  # told when it was found out
            job, outcome = held.job, end.outcome
            started_at = from_epoch_us(end.started_us + ahead_us) if end.started_us else None
            change = transitions.finish(job, outcome, started_at, from_epoch_us(end.finished_us + ahead_us), self._chance)
            if not isinstance(outcome, Completed):
                _log_end(job.id, job.name, outcome, change.state)
            self._writing[job.id] = None
            entries.append(Entry.of(job, change))
        self._outbox.put(entries)

    def job_running(self, held: Held) -> None:
        started_at = from_epoch_us(held.started_us) + self._store.ahead()  # as the database's clock had it
        self._outbox.put_start(held.job, transitions.start(held.job, started_at))

    def job_progress(self, held: Held, text: str) -> None:
        self._outbox.put_progress(held.job, text)

    def room_freed(self) -> None:
        self._dispatcher.room_freed()

    def workers_changed(self, pids: Sequence[int]) -> None:
        self._listener.workers_changed(pids)
        self._heartbeat.workers_changed(pids)

    def worker_request(self, lane: Lane, request: dict[str, Any]) -> None:
        self._errands.start(self._requests.answer, lane, request)

    def _holding(self) -> Sequence[ClaimedJob]:
        return [held.job for held in self._lanes.held.values() if not held.lost]

    def _knows(self, job: ClaimedJob) -> bool:
        held = self._lanes.held.get(job.id)
        return (held is not None and held.job.lease == job.lease) or job.id in self._writing

    # How sure it is of its jobs

    def trusted_until(self, until: float) -> None:
        if self._settings.on_lease_lost == "kill":
            self._lanes.crew.trust_until(until)
        self._lanes.pump()

    def trust_expired(self) -> None:
        if self._settings.on_lease_lost == "kill":
            self._lanes.crew.trust_expired()
            self._lanes.fence(min(FENCE_GRACE, self._settings.lease_life.total_seconds() / 16))

    def engine_renamed(self, engine_id: str) -> None:
        self.engine_id = self._dispatcher.engine_id = self._cancellations.engine_id = engine_id
        for id in list(self._lanes.held):
            self._lanes.halt(id, StopReason.LEASE)
        self._listener.engine_renamed(engine_id)

    def _written(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._writing.pop(entry.job.id, None)
        finals = ended(entries)
        self._recent.update(finals)
        if len(self._recent) > RECENT:
            self._recent, self._less_recent = set(), self._recent
        if finals:
            self._ends.ended(finals)
            self._listener.jobs_ended(finals)
        if len(finals) < len(entries):  # something went back to waiting, perhaps due at once
            self._announcer.work() if self._stop.is_set() else self._dispatcher.wake()
        self._dispatcher.room_freed()  # it claims nothing while the outbox is behind

    def _refused(self, entry: Entry) -> None:
        """The fence held the change off: a cancel came in between, it had landed before, or the job is no longer ours."""
        if entry.change.state is State.WAITING:
            again = transitions.finish(entry.job, Stopped(), None, self._store.now(), self._chance)
            self._outbox.put([Entry.of(entry.job, again)])
            return
        if not self._in_doubt:
            self._errands.start(self._look_into_refusals)
        self._in_doubt.append(entry)

    async def _look_into_refusals(self) -> None:
        """Which of the refused had landed after all, and which are others' by now."""
        entries, self._in_doubt = self._in_doubt, []
        for entry in entries:
            if entry.change.state is not State.RUNNING:
                self._writing.pop(entry.job.id, None)
        try:
            found = await self._store.get_many(entry.job.id for entry in entries)
        except SidequestError as error:
            logger.warning("cannot look into %d refused job changes: %s", len(entries), error)
            self._heartbeat.doubt()
            return
        records = {record.id: record for record in found}
        landed: list[Entry] = []
        for entry in entries:
            record = records.get(entry.job.id)
            if record is not None and record.lease == entry.job.lease:
                landed.append(entry)  # an earlier try, whose answer was lost
            elif record is None:
                logger.warning("job %d is no longer there; its %s was not written", entry.job.id, _named(entry))
            else:
                logger.warning(
                    "job %d was taken from engine %s%s; its %s was not written", entry.job.id, self.engine_id,
                    f" by engine {record.engine}" if record.engine else "", _named(entry),
                )  # fmt: skip
        states = {entry.job.id: records[entry.job.id].state for entry in landed}
        self._written([entry for entry in landed if states[entry.job.id] is entry.change.state is not State.RUNNING])
        if State.WAITING in states.values():  # a release that had landed, and was refused as a cancel after that
            self._dispatcher.wake()
        if len(landed) < len(entries):
            self._heartbeat.doubt()

    def _unwritable(self, entry: Entry, error: ValueError) -> None:
        """The database does not take the values of this end: the job ends as failed, and says so."""
        logger.error("the end of job %d (%s) cannot be stored: %s", entry.job.id, entry.job.name, error)
        if entry.change.state is State.FAILED:
            self._writing.pop(entry.job.id, None)  # not even this: it stays held until its engine is gone
            return
        failure = Failed(JobError("result", "NotStorable", f"its end cannot be stored: {error}"))
        change = transitions.finish(entry.job, failure, None, self._store.now(), self._chance)
        self._outbox.put([Entry.of(entry.job, change)])


async def _first_of(within: float, *events: asyncio.Event) -> None:
    """Return when one of the events is set, or `within` seconds have passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _named(entry: Entry) -> str:
    return "start" if entry.change.state is State.RUNNING else f"end ({entry.change.state})"


def _log_end(id: int, name: str, outcome: Outcome, state: State | None) -> None:
    error: JobError | None = getattr(outcome, "error", None)
    if error is None:
        logger.debug("job %d (%s): %s", id, name, type(outcome).__name__.lower())
    elif state in FINAL:
        logger.warning("job %d (%s) failed: %s: %s", id, name, error.type, error.message)
    else:
        logger.info("job %d (%s) will run again: %s: %s", id, name, error.type, error.message)
