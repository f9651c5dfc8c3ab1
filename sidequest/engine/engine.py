"""ENGINE PROCESS. The engine: its loops, how they hang together, their order of start and stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
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
from sidequest.engine.lane import Held, Lane
from sidequest.engine.lanes import Lanes
from sidequest.engine.outbox import Entry, Outbox, ended
from sidequest.engine.queue_scheduler import QueueScheduler
from sidequest.engine.requests import Requests
from sidequest.engine.rescue import Rescue
from sidequest.engine.wakeups import Wakeups
from sidequest.engine.worker_process import Link
from sidequest.errors import SidequestError
from sidequest.jobs import transitions
from sidequest.jobs.naming import Script
from sidequest.jobs.outcome import Completed, JobError, Outcome, Stopped
from sidequest.jobs.states import FINAL, State
from sidequest.wire.messages import StopReason

logger = logging.getLogger(__name__)
TICK = 0.05
IDLE_TICK = 1.0
RECENT = 10_000
"""Ended jobs that are remembered, for those who ask for them a moment too late."""
SHUTDOWN_GRACE = 1.0
KILL_WAIT = 3.0
CLOSE_WAIT = 3.0
FLUSH_WAIT = 3.0


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
        self._recent: dict[int, None] = {}
        self._writing: dict[int, None] = {}

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

    def learn(self, modules: Sequence[str]) -> None:
        self._lanes.crew.learn(modules, sys.path)

    def recently_ended(self, ids: Sequence[int]) -> list[int]:
        """Those of the jobs that ended here a moment ago."""
        return [id for id in ids if id in self._recent]

    # Life

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until stopped; `ready` is called when the engine claims. The store must be open."""
        self._assemble()
        dispatching: asyncio.Task[None] | None = None
        async with anyio.create_task_group() as tasks:
            await self._heartbeat.register()
            await self._store.save_queues(self._settings.queues.values())
            if self._orders.predecessor is not None:
                await self._rescue.release(self._orders.predecessor, "its engine process died")
            await tasks.start(self._wakeups.run)
            for loop in (self._errands.run, self._outbox.run, self._heartbeat.run, self._rescue.run, self._cancellations.run,
                         self._cleanup.run, self._ends.run, self._announcer.run, self._watch_lanes):  # fmt: skip
                tasks.start_soon(loop)
            self._lanes.crew.warm_up()
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
        self._outbox = Outbox(store, self._written, self._refused)
        self._heartbeat = Heartbeat(self.engine_id, settings, store, self._knows)
        self._dispatcher = Dispatcher(
            self.engine_id, settings, store, self._scheduler, self._lanes,
            lambda: self._outbox.gate_open, self._heartbeat.claim_uncertain,
        )  # fmt: skip
        self._cancellations = Cancellations(self.engine_id, store, self._lanes, lambda: bool(self._lanes.held))
        self._wakeups = Wakeups(self.engine_id, store, self.wake, self.look_for_cancels)
        self._announcer = Announcer(store, self, suffices=settings.serves_all)
        self._rescue = Rescue(self.engine_id, settings, store, self._heartbeat, self._announcer.work)
        self._cleanup = Cleanup(settings, store)
        self._ends = EndWatch(store)
        self._ends.hinted = True
        self._requests = Requests(settings, store, self._ends, self._announcer.work, lambda _: self._announcer.cancels())

    def _greeting(self) -> dict[str, Any]:
        script = self._orders.script
        plain = self._settings.to_json()
        return {
            "modules": list(self._settings.modules),
            "path": sys.path,  # the list itself: it may grow while the engine runs
            "script": {"name": script.name, "path": script.path} if script else None,
            "log_level": self._settings.log_level,
            "job_defaults": plain["job_defaults"],
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
        if flushing.cancelled_caught:
            logger.error("the database did not take the last job changes: those jobs will run again after a lease's life")
        await self._announcer.flush()
        await failpoints.reach("shutdown.before_forget")
        if not flushing.cancelled_caught:  # or else this row is what its jobs are found by
            with suppress(SidequestError):
                await self._heartbeat.leave()
        await _first_of(CLOSE_WAIT, self._lanes.crew.gone)  # what is left after that is killed with its task

    async def _watch_lanes(self) -> None:
        while True:
            if not self._lanes.busy:
                await _first_of(IDLE_TICK, self._lanes.at_work)
            await asyncio.sleep(TICK)
            self._lanes.look()

    # What happens on the floor

    def job_ended(self, held: Held, outcome: Outcome, started_us: int, finished_us: int) -> None:
        job = held.job
        started_at = self._store_time(started_us) if started_us else None
        change = transitions.finish(job, outcome, started_at, self._store_time(finished_us), self._chance)
        if not isinstance(outcome, Completed):
            _log_end(job.id, job.name, outcome, change.state)
        self._writing[job.id] = None
        self._outbox.put(job, change)

    def job_running(self, held: Held) -> None:
        self._outbox.put_start(held.job, transitions.start(held.job, self._store_time(held.started_us)))

    def _store_time(self, host_us: int) -> datetime:
        """An instant that a worker read from this host's clock, as the database's clock had it."""
        return from_epoch_us(host_us) + self._store.ahead()

    def job_progress(self, held: Held, text: str) -> None:
        self._outbox.put_progress(held.job, text)

    def room_freed(self) -> None:
        self._dispatcher.room_freed()

    def workers_changed(self, pids: Sequence[int]) -> None:
        self._listener.workers_changed(pids)

    def worker_request(self, lane: Lane, request: dict[str, Any]) -> None:
        self._errands.start(self._requests.answer, lane, request)

    def _knows(self, id: int) -> bool:
        return id in self._lanes.held or id in self._writing

    def _written(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._writing.pop(entry.job.id, None)
        finals = ended(entries)
        for id in finals:
            self._recent[id] = None
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        if finals:
            self._ends.ended(finals)
            self._listener.jobs_ended(finals)
        if len(finals) < len(entries):  # something went back to waiting, perhaps due at once
            self._announcer.work() if self._stop.is_set() else self._dispatcher.wake()

    def _refused(self, entry: Entry) -> None:
        """The fence held the change off: a cancel came in between, or the job is no longer ours."""
        if entry.change.state is State.WAITING:
            again = transitions.finish(entry.job, Stopped(), None, self._store.now(), self._chance)
            self._outbox.put(entry.job, again)
            return
        self._writing.pop(entry.job.id, None)
        level = logging.DEBUG if entry.change.state is State.CANCELED else logging.WARNING
        logger.log(
            level, "job %d was taken away from this engine; its end (%s) was not written", entry.job.id, entry.change.state
        )


async def _first_of(within: float, *events: asyncio.Event) -> None:
    """Return when one of the events is set, or `within` seconds have passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _log_end(id: int, name: str, outcome: Outcome, state: State | None) -> None:
    error: JobError | None = getattr(outcome, "error", None)
    if error is None:
        logger.debug("job %d (%s): %s", id, name, type(outcome).__name__.lower())
    elif state in FINAL:
        logger.warning("job %d (%s) failed: %s: %s", id, name, error.type, error.message)
    else:
        logger.info("job %d (%s) will run again: %s: %s", id, name, error.type, error.message)
