"""THE STORE. Wakes those who wait for the end of jobs: one query for all of them.

Whoever knows that jobs have ended (the engine that ran them) hints, and the waiter is woken at
once; without hints the store is asked again and again, less often the longer nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from sidequest.backends.base import Backend
from sidequest.errors import JobNotFound, SidequestError
from sidequest.jobs.record import JobEnd

logger = logging.getLogger(__name__)
SHORTEST, LONGEST = 0.05, 0.5
"""Seconds between two looks when nobody hints."""
HINTED = 2.0
"""Seconds between two looks while an engine hints: only for jobs that another engine runs."""


class EndWatch:
    """Waits for the ends of jobs. `run` does the work and must be owned by somebody's task group."""

    def __init__(self, store: Backend, on_watch: Callable[[list[int]], None] = lambda ids: None) -> None:
        self._store = store
        self._on_watch = on_watch
        self._waiting: dict[int, set[asyncio.Future[JobEnd]]] = {}
        self._look_at: set[int] = set()
        self._wake = asyncio.Event()
        self.hinted = False
        """Whether somebody hints: then looking without a hint is only a safety net."""

    async def wait(self, id: int, timeout: float | None) -> JobEnd:
        """The job's end, once it has ended. Raises TimeoutError, JobNotFound."""
        future: asyncio.Future[JobEnd] = asyncio.get_running_loop().create_future()
        if id not in self._waiting:
            self._waiting[id] = set()
            self._on_watch([id])
        self._waiting[id].add(future)
        self._look_at.add(id)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise TimeoutError(f"job {id} had not ended after {timeout:g} s") from None
        finally:
            waiting = self._waiting.get(id, set())
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(id, None)

    def watched(self) -> list[int]:
        """The jobs that somebody waits for."""
        return list(self._waiting)

    def ended(self, ids: Iterable[int]) -> None:
        """A hint: these jobs have ended."""
        known = [id for id in ids if id in self._waiting]
        if known:
            self._look_at.update(known)
            self._wake.set()

    def close(self) -> None:
        """Nobody will look any more: whoever still waits is told so."""
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(SidequestError("Sidequest was stopped while this waited for the end of a job"))

    async def run(self) -> None:
        pause = SHORTEST
        while True:
            due = await self._due(HINTED if self.hinted else pause)
            pause = SHORTEST if due else min(LONGEST, pause * 1.5)
            due = due or set(self._waiting)
            if not due:
                continue
            try:
                ends, missing = await self._store.ends(due)
                self._settle(ends, missing)
            except SidequestError as error:
                logger.warning("cannot look for ended jobs: %s", error)
                await asyncio.sleep(LONGEST)

    async def _due(self, pause: float) -> set[int]:
        """The jobs to look at now, as soon as there are some; none after `pause` seconds of waiting."""
        try:
            async with asyncio.timeout(pause if self._waiting else None):
                await self._wake.wait()
        except TimeoutError:
            return set()
        self._wake.clear()
        due, self._look_at = self._look_at, set()
        return due

    def _settle(self, ends: Iterable[JobEnd], missing: Iterable[int]) -> None:
        for end in ends:
            for future in self._waiting.get(end.id, ()):
                if not future.done():
                    future.set_result(end)
        for id in missing:
            for future in self._waiting.get(id, ()):
                if not future.done():
                    future.set_exception(JobNotFound(id))
