"""ENGINE PROCESS. Writes what happened to jobs, in batches, and never gives up on a write.

While the database is away, changes are kept and tried again for ever; a full or failing outbox
closes the dispatcher's claim gate, because what cannot be ended need not be begun. So nothing has to
be thrown away at the bound: what is over it are the ends of jobs that were in hand already. With a
spool they are on disk as well, and survive this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.engine.spool import Spool
from sidequest.engine.trouble import Trouble
from sidequest.errors import BackendUnavailable, SidequestError
from sidequest.jobs.record import ClaimedJob
from sidequest.jobs.states import FINAL
from sidequest.jobs.transitions import Change

logger = logging.getLogger(__name__)
LINGER = 0.003
"""Seconds to gather more changes when the last flush was just now."""
BATCH = 500
FULL = 10_000
FULL_BYTES = 64 * 1024 * 1024
"""Letters of results and errors, about as many bytes."""
PATIENCE = 5.0
"""Seconds of failing writes after which nothing new is claimed."""
SPOOL_AFTER = 1.0
"""Seconds that a write may take, with all tries, until what waits is spooled."""
SPOOL_LOOK = 0.25
"""Seconds between two looks whether there is something to spool."""


class Entry(NamedTuple):
    """A change, and the job that it moves."""

    job: ClaimedJob
    change: Change
    size: int
    """Letters of its result and its errors, about as many bytes."""

    @classmethod
    def of(cls, job: ClaimedJob, change: Change) -> Entry:
        result, errors = change.columns.get("result"), change.columns.get("errors")
        size = (len(result) if isinstance(result, str) else 0) + (len(errors) if isinstance(errors, str) else 0)
        return cls(job, change, size)


class _Done(NamedTuple):
    """What the store has answered to a batch."""

    written: Sequence[Entry]
    refused: Sequence[Entry]


class Outbox:
    """Changes on their way into the store. `run` writes them until it is cancelled."""

    def __init__(
        self,
        store: Backend,
        written: Callable[[Sequence[Entry]], None],
        refused: Callable[[Entry], None],
        unwritable: Callable[[Entry, ValueError], None] | None = None,
        spool: Spool | None = None,
    ) -> None:
        """`refused`: the fence did not hold, of a start or an end; `unwritable`: the store does not take its values."""
        self._store = store
        self._written = written
        self._refused = refused
        self._unwritable = unwritable or _drop
        self._spool = spool
        self._starts: dict[int, Entry] = {}
        self._entries: deque[Entry] = deque()
        self._in_flight: Sequence[Entry] = ()
        self._bytes = 0
        self._spooled: set[tuple[int, str]] = set()
        self._progress: dict[int, tuple[str, str]] = {}
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._trouble = Trouble(logger, "write what became of jobs")
        self._writing_since: float | None = None
        self._spool_trouble = Trouble(logger, "spool what became of jobs")
        self._last_flush = 0.0

    def put_start(self, job: ClaimedJob, change: Change) -> None:
        """The job is running. Not written if its end comes first: that carries the start as well."""
        self._starts[job.id] = Entry.of(job, change)
        self._wake.set()

    def put(self, ends: Sequence[Entry]) -> None:
        """These attempts are over; what a job reported last goes with its end, which leaves no lease to report under."""
        for end in ends:
            id = end.job.id
            if self._starts:
                self._starts.pop(id, None)
            entry = _with_progress(end, *self._progress.pop(id)) if id in self._progress else end
            self._entries.append(entry)
            self._bytes += entry.size
        if ends:
            self._empty.clear()
            self._wake.set()

    def put_progress(self, job: ClaimedJob, text: str) -> None:
        """The latest report of a job; an earlier one that was not written yet is replaced."""
        self._progress[job.id] = (job.lease, text)
        self._wake.set()

    @property
    def gate_open(self) -> bool:
        """Whether it makes sense to claim more."""
        since = self._trouble.since
        failing = since is not None and monotonic() - since > PATIENCE
        return not failing and len(self._entries) + len(self._in_flight) < FULL and self._bytes < FULL_BYTES

    @property
    def behind(self) -> bool:
        """Whether more has ended than the next write takes: what is not written would run again after a crash."""
        return len(self._entries) > BATCH

    @property
    def waiting(self) -> int:
        """Changes that the store has not taken."""
        return len(self._entries) + len(self._in_flight)

    async def emptied(self) -> None:
        """Return when everything put so far is written."""
        await self._empty.wait()

    async def spool_rest(self) -> bool:
        """Keep on disk what is not written; whether all of it is."""
        if self._spool is None:
            return not self.waiting
        fresh = [entry for entry in (*self._in_flight, *self._entries) if (entry.job.id, entry.job.lease) not in self._spooled]
        try:
            if fresh:
                await self._spool.keep([entry.change for entry in fresh])
        except OSError as error:
            self._spool_trouble.met(error)
            return False
        self._spool_trouble.over()
        self._spooled.update((entry.job.id, entry.job.lease) for entry in fresh)
        return True

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            if self._spool is not None:
                tasks.start_soon(self._keep_spool)
            while True:
                await self._wake.wait()
                if monotonic() - self._last_flush < LINGER and len(self._entries) < BATCH:
                    await asyncio.sleep(LINGER)
                self._wake.clear()
                await self._flush()
                self._last_flush = monotonic()

    async def _keep_spool(self) -> None:
        while True:
            await asyncio.sleep(SPOOL_LOOK)
            since = self._writing_since
            if since is not None and monotonic() - since >= SPOOL_AFTER:  # it may fail again and again, or hang
                await self.spool_rest()

    async def _flush(self) -> None:
        if self._starts:
            starts, self._starts = list(self._starts.values()), {}
            for entry in (await self._write("running", starts)).refused:
                self._refused(entry)
        while self._entries:
            self._in_flight = [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]
            done = await self._write("end", self._in_flight)
            self._bytes -= sum([entry.size for entry in self._in_flight])
            self._in_flight = ()
            self._written(done.written)
            for entry in done.refused:
                self._refused(entry)
        if self._progress:
            reports, self._progress = self._progress, {}
            await self._store_progress([(id, lease, text) for id, (lease, text) in reports.items()])
        if not self._entries:
            await self._clear_spool()
        if not self._entries:
            self._empty.set()

    async def _write(self, what: str, batch: Sequence[Entry]) -> _Done:
        """Write the batch; returns only when the store has answered."""
        self._writing_since = monotonic()
        while True:
            try:
                await failpoints.reach(f"{what}.before_write")
                refused = await self._store.apply([entry.change for entry in batch])
                await failpoints.reach(f"{what}.after_write")
            except SidequestError as error:
                await asyncio.sleep(self._trouble.met(error, f" ({self.waiting} ends wait)"))
            except ValueError as error:
                return await self._write_without_the_bad(what, batch, error)
            else:
                self._writing_since = None
                self._trouble.over()
                if not refused:
                    return _Done(batch, ())
                return _Done(
                    [entry for entry in batch if entry.change.id not in refused],
                    [entry for entry in batch if entry.change.id in refused],
                )

    async def _write_without_the_bad(self, what: str, batch: Sequence[Entry], error: ValueError) -> _Done:
        """One end that the store does not take must not hold up all others."""
        if len(batch) == 1:
            self._unwritable(batch[0], error)
            return _Done([], [])
        parts = [await self._write(what, [one]) for one in batch]
        return _Done([entry for part in parts for entry in part.written], [entry for part in parts for entry in part.refused])

    async def _clear_spool(self) -> None:
        if self._spool is not None and self._spooled:
            self._spooled.clear()
            try:
                await self._spool.clear()
            except OSError as error:
                self._spool_trouble.met(error)

    async def _store_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        try:
            await self._store.save_progress(reports)
        except BackendUnavailable as error:
            logger.warning("progress of %d jobs was not stored: %s", len(reports), error)


def ended(entries: Sequence[Entry]) -> list[int]:
    """The jobs that have ended for good with these changes."""
    return [entry.job.id for entry in entries if entry.change.state in FINAL]


def _with_progress(entry: Entry, lease: str, progress: str) -> Entry:
    if lease != entry.job.lease:
        return entry
    return Entry.of(entry.job, entry.change._replace(columns={**entry.change.columns, "progress": progress}))


def _drop(entry: Entry, error: ValueError) -> None:
    logger.error("the end of job %d (%s) cannot be stored: %s", entry.job.id, entry.job.name, error)
