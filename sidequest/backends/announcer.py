"""THE STORE. Tells engines that there is something for them, wherever they are.

Three roads, the nearest first: the caller's own engine, the sockets of the engines on this host,
and the database, where it can tell those on other hosts. A call that is lost costs one poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Literal, Protocol

import anyio

from sidequest.backends.base import Backend
from sidequest.errors import SidequestError
from sidequest.wire.wake_socket import LocalEngines, LookFor

logger = logging.getLogger(__name__)
APART = 0.05
"""Seconds between two announcements: on PostgreSQL one for each of many enqueues costs three quarters of them."""
AGAIN = (0.01, 0.02, 0.04, *[0.08] * 24)
"""Seconds between calls for work in a transaction whose commit nobody tells us of: two seconds in all."""
LAST_WORD = 1.0
"""Seconds that an announcement may take when everything stops."""


Road = Literal["pipe", "socket", "database", "poll"]


class OwnEngine(Protocol):
    """The engine that belongs to the caller, and hears of everything first."""

    @property
    def engine_id(self) -> str | None: ...

    def wake(self) -> None: ...

    def look_for_cancels(self) -> None: ...


class Announcer:
    """What is called from anywhere in the loop neither waits nor fails; `run` must be owned by somebody's task group."""

    def __init__(self, store: Backend, own: OwnEngine | None = None, *, suffices: bool = False) -> None:
        """`suffices`: an own engine serves all queues, so the others need not know at once."""
        self._store = store
        self._local = LocalEngines(store.url.identity)
        self.own = own
        self._suffices = suffices
        self._news = asyncio.Event()
        self._uncommitted = asyncio.Event()
        self._pauses: Iterator[float] = iter(())

    def work(self) -> None:
        """There is work, or a queue has changed."""
        if self.own is not None:
            self.own.wake()
        if not self._own_will_do:
            self._wake_local(LookFor.WORK)
        self._news.set()

    def uncommitted_work(self) -> None:
        """There is work as soon as somebody's transaction is committed, probably in a moment."""
        self.work()
        self._pauses = iter(AGAIN)
        self._uncommitted.set()

    def cancels(self) -> None:
        """Somebody asked to cancel a running job. Engines on other hosts look by themselves, once a second."""
        if self.own is not None:
            self.own.look_for_cancels()
        self._wake_local(LookFor.CANCELS)

    def teach(self, engine: str, lesson: bytes) -> None:
        """Tell one engine of this host what it must know before it hears of work."""
        self._local.teach(engine, lesson)

    @property
    def road(self) -> Road:
        """The nearest road that leads to an engine now; `poll` when there is none."""
        if self.own is not None:
            return "pipe"
        if self._local.reachable:
            return "socket"
        return "database" if self._store.tells else "poll"

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._spread)
            tasks.start_soon(self._remind)

    async def flush(self) -> None:
        """Tell now what was to be told later: nobody will."""
        if self._uncommitted.is_set():
            self.work()
        if self._news.is_set():
            with anyio.move_on_after(LAST_WORD):
                await self._tell_all()

    async def _spread(self) -> None:
        """Tell those who are further away: the first news at once, what follows in one go."""
        while True:
            await self._news.wait()
            await self._tell_all()
            await asyncio.sleep(APART)

    async def _tell_all(self) -> None:
        self._news.clear()
        if self._own_will_do:
            self._wake_local(LookFor.WORK)
        try:
            await self._store.announce()
        except SidequestError as error:
            logger.debug("cannot tell the engines of other hosts that there is work: %s", error)

    async def _remind(self) -> None:
        """Tell of uncommitted work again and again; it is found by the first call after its commit."""
        while True:
            await self._uncommitted.wait()
            pause = next(self._pauses, None)
            if pause is None:
                self._uncommitted.clear()
            else:
                await asyncio.sleep(pause)
                self.work()

    @property
    def _own_will_do(self) -> bool:
        return self.own is not None and self._suffices

    def _wake_local(self, look_for: LookFor) -> None:
        self._local.wake(look_for, but=None if self.own is None else self.own.engine_id)
