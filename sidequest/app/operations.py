"""APP PROCESS. What people may ask and do: `sq.jobs`, `sq.queues` and `sq.engines`.

The CLI and the dashboard go through here, so a button cannot invent a state. Every function checks
its arguments before anything is written.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Unpack

from sidequest.backends import moves
from sidequest.backends.base import Backend, Bucket, EngineRecord, JobFilter
from sidequest.clock import monotonic
from sidequest.config import QueueSettings, queue_record
from sidequest.errors import EngineUnreachable, JobNotFound, JobStateError, QueueNotFound
from sidequest.jobs import checks, transitions
from sidequest.jobs.checks import Seconds
from sidequest.jobs.client import CancelAnswer
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord
from sidequest.jobs.states import HELD, State
from sidequest.wire import inquiry

MOST_LISTED = 1_000
MOST_BUCKETS = 1_000
WATCH_INTERVAL = 0.25
MOST_WATCHED = 10_000
MOST_GAPS = 10_000
GAP_LIFE = 3.0
"""Seconds from the look that showed a gap between ids until nobody can fill it any more."""


class JobsOperations:
    """`sq.jobs`: look at jobs, and move them by hand."""

    def __init__(self, store: Callable[[], Backend], enqueued: Callable[[], None], canceled: Callable[[], None]) -> None:
        self._store = store
        self._enqueued = enqueued
        self._canceled = canceled

    async def get(self, id: int) -> JobRecord:
        """The job as it stands. Raises JobNotFound."""
        return await moves.find(self._store(), checks.job_id("id", id))

    async def list(
        self,
        *,
        state: State | str | Sequence[State | str] | None = None,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> Sequence[JobRecord]:
        """The newest jobs first; `before` the id of the last one gives the next page.

        All conditions must hold. `text` is found literally in name, arguments or errors; `since`
        (inclusive) and `until` (exclusive) are about when a job was enqueued.
        """
        which = _filter(state, queue, name, tag, text, since, until)
        checks.integer("limit", limit, 1, MOST_LISTED)
        if before is not None:
            checks.job_id("before", before)
        return await self._store().list_jobs(which, limit, before)

    async def count(
        self,
        *,
        queue: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Mapping[State, int]:
        """How many jobs are in each of the six states."""
        return await self._store().count(_filter(None, queue, name, tag, None, since, until))

    async def count_over_time(self, width: Seconds, buckets: int = 12, *, queue: str | None = None) -> Sequence[Bucket]:
        """Jobs enqueued and ended in the latest `buckets` stretches of `width` seconds, oldest first.

        Stretches are aligned to the epoch; the last one is the one that is under way.
        """
        span = checks.duration("width", width)
        if span < timedelta(seconds=1):
            raise ValueError(f"width must be at least 1 second, not {span.total_seconds():g}")
        checks.integer("buckets", buckets, 1, MOST_BUCKETS)
        if span.total_seconds() * buckets > checks.LONGEST.total_seconds() / 2:
            raise ValueError(f"width times buckets must be at most 50 years, not {span.days} days times {buckets}")
        if queue is not None:
            checks.name("queue", queue)
        store = self._store()
        now = store.now()
        epoch = datetime(1970, 1, 1, tzinfo=now.tzinfo)
        current = epoch + (now - epoch) // span * span
        return await store.count_over_time(current - (buckets - 1) * span, span, buckets, queue)

    async def cancel(self, id: int) -> CancelAnswer:
        """`canceled` if it was waiting, `requested` if an engine has to stop it, or `too_late`.

        A requested cancel reaches the job within a second. Raises JobNotFound.
        """
        answer = await moves.cancel(self._store(), checks.job_id("id", id))
        if answer == "requested":
            self._canceled()
        return answer

    async def retry(self, id: int) -> JobRecord:
        """Run a job that has ended once more, with at least one attempt.

        Raises JobNotFound; JobStateError unless it is completed, failed or canceled.
        """
        record = await moves.move(self._store(), checks.job_id("id", id), transitions.retry)
        self._enqueued()
        return record

    async def run_now(self, id: int) -> JobRecord:
        """Make a waiting job due at once. Raises JobNotFound; JobStateError unless it is waiting."""
        record = await moves.move(self._store(), checks.job_id("id", id), transitions.run_now)
        self._enqueued()
        return record

    async def snooze(self, id: int, delay: Seconds) -> JobRecord:
        """Make a waiting job due `delay` seconds from now. Raises JobNotFound, JobStateError."""
        checks.job_id("id", id)
        span = checks.duration("delay", delay)
        record = await moves.move(self._store(), id, lambda record, now: transitions.snooze(record, span, now))
        self._enqueued()  # its engine has a new due time to wait for
        return record

    async def delete(self, id: int) -> None:
        """Delete a job that no engine holds. Raises JobNotFound; JobStateError while it is held."""
        checks.job_id("id", id)
        if id in await self._store().delete([id]):
            return
        record = await self._store().get(id)
        if record is None:
            raise JobNotFound(id)
        raise JobStateError(f"job {id} is {record.state}: cancel it first, an engine has it in hand")

    async def stack(self, id: int) -> str:
        """Where a running job is now, as text for people: its own stack, and all threads of its worker.

        The job goes on as if nothing had happened. Answered by the job's engine, so only on its host.
        Raises JobNotFound; JobStateError unless the job runs; EngineUnreachable naming host and engine.
        """
        record = await self.get(id)
        if record.state not in HELD or record.engine is None:
            raise JobStateError(f"job {id} is {record.state}: only a running job is somewhere")
        answer = await inquiry.ask(self._store().url.identity, record.engine, {"stack": id})
        if answer is None:
            raise EngineUnreachable(await self._whereabouts(id, record.engine))
        if "stack" not in answer:
            raise JobStateError(str(answer.get("error")))
        return str(answer["stack"])

    async def _whereabouts(self, id: int, engine_id: str) -> str:
        """Why nobody here could tell where the job is, and who could."""
        engine = next((each for each in await self._store().list_engines() if each.id == engine_id), None)
        if engine is None:
            return f"job {id} was with engine {engine_id}, which has gone"
        if engine.host != socket.gethostname():
            return f"job {id} runs in engine {engine_id} on host {engine.host}: ask there, with `sidequest jobs stack {id}`"
        return (
            f"engine {engine_id} of job {id} (pid {engine.pid}, on this host) gives no answer here: "
            f"ask as the user that it runs as, with `sidequest jobs stack {id}`"
        )

    async def watch(self, *, queue: str | None = None) -> AsyncIterator[JobRecord]:
        """Follow the jobs enqueued from now on: each one when it appears and whenever it changes.

        Changes that follow each other within a quarter of a second may show as one. A job is
        followed until it ends; of more than 10,000 unfinished ones the oldest are dropped.
        """
        if queue is not None:
            checks.name("queue", queue)
        news = _News(self._store())
        shown: dict[int, JobRecord] = {}
        await news.skip()
        while True:
            changed = [record for record in await self._store().get_many(shown) if record != shown[record.id]]
            fresh = await news.fetch()
            for record in (*changed, *(record for record in fresh if queue in (None, record.queue))):
                yield record
                shown[record.id] = record
                if record.state.final:
                    del shown[record.id]
            while len(shown) > MOST_WATCHED:
                del shown[next(iter(shown))]
            if len(fresh) < MOST_LISTED:
                await asyncio.sleep(WATCH_INTERVAL)


class _News:
    """Finds each new job once, also those that appear after jobs with higher ids.

    Databases hand out ids before the commit, and some in blocks: a gap may be filled for a while.
    """

    def __init__(self, store: Backend) -> None:
        self._store = store
        self._last = 0
        self._gaps: dict[int, float] = {}
        """Ids that nobody has seen, and until when they may still come."""

    async def skip(self) -> None:
        """Whatever is there already is not new."""
        self._last = max(0, await self._store.last_id() - MOST_LISTED)
        while len(await self.fetch()) >= MOST_LISTED:
            pass

    async def fetch(self) -> Sequence[JobRecord]:
        """The jobs that have appeared, by id; `MOST_LISTED` or more when there may be others."""
        late = await self._store.get_many(self._gaps)
        fresh = await self._store.list_after(self._last, None, MOST_LISTED)
        now = monotonic()
        for record in late:
            del self._gaps[record.id]
        for record in fresh:
            gap = range(max(self._last + 1, record.id - MOST_GAPS), record.id)
            self._gaps |= dict.fromkeys(gap, now + GAP_LIFE)
            self._last = record.id
        while self._gaps and (len(self._gaps) > MOST_GAPS or self._gaps[next(iter(self._gaps))] < now):
            del self._gaps[next(iter(self._gaps))]
        return (*late, *fresh)


class QueuesOperations:
    """`sq.queues`: look at queues and change their settings; engines follow within a second."""

    def __init__(self, store: Callable[[], Backend], changed: Callable[[], None], defaults: QueueRecord) -> None:
        self._store = store
        self._changed = changed
        self._defaults = defaults

    async def get(self, name: str) -> QueueRecord:
        """One queue. Raises QueueNotFound."""
        return self._found(name, await self._store().get_queue(checks.name("name", name)))

    async def list(self) -> Sequence[QueueRecord]:
        """All queues: highest priority first, then by name."""
        return await self._store().list_queues()

    async def create(self, name: str, **settings: Unpack[QueueSettings]) -> QueueRecord:
        """Create a queue with `concurrency`, `priority`, `paused`; ValueError when it exists."""
        queue = queue_record("name", name, settings, self._defaults)
        if not await self._store().create_queue(queue):
            raise ValueError(f"name: queue {name!r} exists already; use set() to change it")
        return queue

    async def pause(self, name: str) -> QueueRecord:
        """Start no more of its jobs; running ones go on, new ones are accepted. Raises QueueNotFound."""
        return await self._update(name, paused=True)

    async def resume(self, name: str) -> QueueRecord:
        """Start its jobs again. Raises QueueNotFound."""
        return await self._update(name, paused=False)

    async def set(self, name: str, *, concurrency: int | None = None, priority: int | None = None) -> QueueRecord:
        """Change what is given. Raises QueueNotFound, TypeError, ValueError."""
        if concurrency is None and priority is None:
            raise TypeError("set() needs concurrency or priority: nothing to change")
        if concurrency is not None:
            checks.integer("concurrency", concurrency, 1, 100_000)
        if priority is not None:
            checks.integer("priority", priority, -checks.INT32, checks.INT32)
        return await self._update(name, concurrency=concurrency, priority=priority)

    async def purge(self, name: str) -> int:
        """Delete the queue's waiting jobs; how many. Raises QueueNotFound."""
        await self.get(name)
        return await self._store().purge_queue(name)

    async def _update(
        self, name: str, *, concurrency: int | None = None, priority: int | None = None, paused: bool | None = None
    ) -> QueueRecord:
        checks.name("name", name)
        queue = await self._store().update_queue(name, concurrency=concurrency, priority=priority, paused=paused)
        self._changed()
        return self._found(name, queue)

    def _found(self, name: str, queue: QueueRecord | None) -> QueueRecord:
        if queue is None:
            raise QueueNotFound(name)
        return queue


class EnginesOperations:
    """`sq.engines`: look at the engines of this database, on all hosts."""

    def __init__(self, store: Callable[[], Backend]) -> None:
        self._store = store

    async def list(self) -> Sequence[EngineRecord]:
        """All of them, oldest first. One that was killed is listed until another one has taken over its jobs."""
        store = self._store()
        engines, held = await store.list_engines(), await store.count_held()
        return [replace(engine, running=held.get(engine.id, 0)) for engine in engines]


def _filter(
    state: State | str | Sequence[State | str] | None,
    queue: str | None,
    name: str | None,
    tag: str | None,
    text: str | None,
    since: datetime | None,
    until: datetime | None,
) -> JobFilter:
    return JobFilter(
        states=_states(state),
        queue=None if queue is None else checks.name("queue", queue),
        name=None if name is None else checks.name("name", name, longest=200),
        tag=None if tag is None else checks.name("tag", tag),
        text=None if text is None else checks.text("text", text, 1_000, empty=False),
        since=None if since is None else checks.instant("since", since),
        until=None if until is None else checks.instant("until", until),
    )


def _states(given: State | str | Sequence[State | str] | None) -> tuple[State, ...]:
    if given is None:
        return ()
    if not isinstance(given, str | Sequence):
        raise TypeError(f"state must be a state or a sequence of states, not {given!r}")
    words = [given] if isinstance(given, str) else list(given)
    if not words:
        raise ValueError("state must name at least one state; leave it out for all of them")
    return tuple(State(checks.choice("state", word, [state.value for state in State])) for word in words)
