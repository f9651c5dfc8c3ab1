"""THE STORE. Connections to a server that are used again and again, the one that was used last first.

Ours are not in the drivers' own pools. To take one that is free, and to give it back, is no wait, no
task and no round trip here: with asyncpg's pool that was a third of what an enqueue took. aiomysql's
holds up everybody while one connects, leaves a connection behind when its caller is cancelled in the
middle of that, and knows no deadline.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sidequest.backends.work import to_the_end
from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable

LIFE = 1800.0
"""Seconds after which a connection is replaced: firewalls forget it, and a name may mean another server by then."""
GRACE = 5.0
"""Seconds for connections to come to rest when all are to be closed; then they are cut off."""


@dataclass(slots=True, eq=False)
class Pooled:
    """A connection of the driver's, and when it was made."""

    connection: Any
    since: float = field(default_factory=monotonic)


class Loan(AbstractAsyncContextManager[Any]):
    """A connection for the time of a block. (As a generator it would take three times as long.)"""

    __slots__ = ("_lent", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Any:
        self._lent = await self._pool.lend()
        return self._lent.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.take_back(self._lent, error)


class Pool(ABC):
    """Up to `size` connections. What differs between the drivers is said by the pool of each."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], size: int, patience: float, where: str, first: Any = None
    ) -> None:
        """`patience`: seconds that a caller waits for its turn; `first`: a connection that is open already."""
        self._connect = connect
        self._size = size
        self._patience = patience
        self._where = where
        self._turns = asyncio.Semaphore(size)
        self._free = [] if first is None else [Pooled(first)]
        self._used: set[Pooled] = set()
        self._made_before = 0.0
        self._closed = False

    @abstractmethod
    def _alive(self, connection: Any) -> bool:
        """Whether it may be used again, as far as one can know without asking the server."""

    @abstractmethod
    def _cut(self, connection: Any) -> None:
        """Close it, now and without a word."""

    @abstractmethod
    async def _leave(self, connection: Any) -> None:
        """Say goodbye, and close it."""

    @abstractmethod
    async def _settle(self, connection: Any) -> None:
        """Bring to rest what was asked on it when its user gave up, or cut it off."""

    def connection(self) -> Loan:
        """A connection, the caller's alone until the block ends. Raises BackendUnavailable."""
        return Loan(self)

    def expire(self) -> None:
        """Use none of the connections again that there are now."""
        self._made_before = monotonic()
        while self._free:
            self._cut(self._free.pop().connection)

    async def close(self) -> None:
        """Close all connections, those in use as soon as they come back, or after a while."""
        self._closed = True
        try:
            async with asyncio.timeout(GRACE):
                for _ in range(self._size):
                    await self._turns.acquire()
                while self._free:
                    await self._leave(self._free[-1].connection)
                    self._free.pop()
        except Exception:  # it takes too long, or the driver has an objection
            for pooled in (*self._used, *self._free):
                self._cut(pooled.connection)

    async def lend(self) -> Pooled:
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()  # at once
        try:
            return await self._take()
        except BaseException:
            self._turns.release()
            raise

    async def take_back(self, lent: Pooled, error: BaseException | None) -> None:
        """What was lent, and what went wrong while it was."""
        try:
            if isinstance(error, BackendUnavailable | asyncio.CancelledError):
                await to_the_end(self._settle(lent.connection))
        finally:
            self._give_back(lent)
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError:
            raise BackendUnavailable(
                f"{self._where}: all {self._size} connections were in use for {self._patience:g} s"
            ) from None

    async def _take(self) -> Pooled:
        if self._closed:
            raise BackendUnavailable(f"{self._where} is not open")
        taken = None
        while taken is None and self._free:
            taken = self._usable(self._free.pop())
        taken = taken or Pooled(await self._connect())
        self._used.add(taken)
        return taken

    def _give_back(self, pooled: Pooled) -> None:
        self._used.discard(pooled)
        if self._usable(pooled):
            self._free.append(pooled)

    def _usable(self, pooled: Pooled) -> Pooled | None:
        """It, if it can be used once more; else it is closed."""
        if self._alive(pooled.connection) and pooled.since > self._made_before and monotonic() - pooled.since < LIFE:
            return pooled
        self._cut(pooled.connection)
        return None
