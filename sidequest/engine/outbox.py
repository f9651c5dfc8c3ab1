"""ENGINE PROCESS. Writes what happened to jobs, in batches, and never gives up on a write.

While the database is away, changes are kept and tried again for ever; a full or failing outbox
closes the dispatcher's claim gate, because what cannot be ended need not be begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable
from sidequest.jobs.record import ClaimedJob
from sidequest.jobs.states import FINAL
from sidequest.jobs.transitions import Change

logger = logging.getLogger(__name__)
LINGER = 0.003
"""Seconds to gather more changes when the last flush was just now."""
BATCH = 500
FULL = 10_000
PATIENCE = 5.0
"""Seconds of failing writes after which nothing new is claimed."""
WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Entry(NamedTuple):
    """A change, and the job that it moves."""

    job: ClaimedJob
    change: Change


class Outbox:
    """Changes on their way into the store. `run` writes them until `close` and all is written."""

    def __init__(self, store: Backend, written: Callable[[Sequence[Entry]], None], refused: Callable[[Entry], None]) -> None:
        self._store = store
        self._written = written
        self._refused = refused
        self._starts: dict[int, Entry] = {}
        self._entries: deque[Entry] = deque()
        self._progress: dict[int, tuple[str, str]] = {}
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._failing_since: float | None = None
        self._last_flush = 0.0

    def put_start(self, job: ClaimedJob, change: Change) -> None:
        """The job is running. Not written if its end comes first: that carries the start as well."""
        self._starts[job.id] = Entry(job, change)
        self._wake.set()

    def put(self, job: ClaimedJob, change: Change) -> None:
        """The job's attempt is over; what it reported last goes with its end, which leaves no lease to report under."""
        self._starts.pop(job.id, None)
        lease, progress = self._progress.pop(job.id, (None, None))
        if lease == job.lease:
            change = change._replace(columns={**change.columns, "progress": progress})
        self._entries.append(Entry(job, change))
        self._empty.clear()
        self._wake.set()

    def put_progress(self, job: ClaimedJob, text: str) -> None:
        """The latest report of a job; an earlier one that was not written yet is replaced."""
        self._progress[job.id] = (job.lease, text)
        self._wake.set()

    @property
    def gate_open(self) -> bool:
        """Whether it makes sense to claim more."""
        failing = self._failing_since is not None and monotonic() - self._failing_since > PATIENCE
        return not failing and len(self._entries) < FULL

    async def emptied(self) -> None:
        """Return when everything put so far is written."""
        await self._empty.wait()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            if monotonic() - self._last_flush < LINGER and len(self._entries) < BATCH:
                await asyncio.sleep(LINGER)
            self._wake.clear()
            await self._flush()
            self._last_flush = monotonic()

    async def _flush(self) -> None:
        if self._starts:
            starts, self._starts = list(self._starts.values()), {}
            await self._write("running", starts)
        while self._entries:
            batch = [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]
            refused = await self._write("end", batch)
            self._written([entry for entry in batch if entry.change.id not in refused])
            for entry in batch:
                if entry.change.id in refused:
                    self._refused(entry)
        if self._progress:
            reports, self._progress = self._progress, {}
            await self._store_progress([(id, lease, text) for id, (lease, text) in reports.items()])
        if not self._entries:
            self._empty.set()

    async def _write(self, what: str, batch: Sequence[Entry]) -> frozenset[int]:
        """The ids refused; returns only when the store has answered."""
        for tries in count():
            try:
                await failpoints.reach(f"{what}.before_write")
                refused = await self._store.apply([entry.change for entry in batch])
                await failpoints.reach(f"{what}.after_write")
            except BackendUnavailable as error:
                self._failing_since = self._failing_since or monotonic()
                logger.warning("cannot write %d job changes, trying again: %s", len(batch), error)
                await asyncio.sleep(WAITS[min(tries, len(WAITS) - 1)])
            else:
                self._failing_since = None
                return refused
        raise AssertionError("unreachable")

    async def _store_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        try:
            await self._store.save_progress(reports)
        except BackendUnavailable as error:
            logger.warning("progress of %d jobs was not stored: %s", len(reports), error)


def ended(entries: Sequence[Entry]) -> list[int]:
    """The jobs that have ended for good with these changes."""
    return [entry.job.id for entry in entries if entry.change.state in FINAL]
