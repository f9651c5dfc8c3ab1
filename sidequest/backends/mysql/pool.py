"""THE STORE, on MySQL and MariaDB: connections that are used again and again, our own or the app's.

Ours are not in the driver's own pool: that one holds up everybody while one connects, leaves a
connection behind when its caller is cancelled in the middle of that, and knows no deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomysql  # type: ignore[import-untyped]

from sidequest.backends.mysql.session import DRIVER_ERRORS, GRACE, translated
from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable

LIFE = 1800.0
"""Seconds after which a connection is replaced: firewalls forget it, and a name may mean another server by then."""


@dataclass(slots=True, eq=False)
class Pooled:
    """A connection of the driver's, and when it was made."""

    connection: Any
    since: float = field(default_factory=monotonic)

    @property
    def alive(self) -> bool:
        """Whether it may be used again, as far as one can know without asking the server."""
        if self.connection.closed or self.connection.get_transaction_status():
            return False
        reader = self.connection._reader  # where the driver's own pool looks as well
        return not reader.eof_received and reader.exception() is None


class Pool:
    """Up to `size` connections; the one that was used last is used next."""

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

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any, None]:
        """A connection, ours alone until the block ends. Raises BackendUnavailable."""
        await self._take_turn()
        try:
            taken = await self._take()
            try:
                yield taken.connection
            finally:
                self._give_back(taken)
        finally:
            self._turns.release()

    def expire(self) -> None:
        """Use none of the connections again that there are now."""
        self._made_before = monotonic()
        while self._free:
            self._free.pop().connection.close()

    async def close(self) -> None:
        """Close all connections, those in use as soon as they come back, or after a while."""
        self._closed = True
        try:
            async with asyncio.timeout(GRACE):
                for _ in range(self._size):
                    await self._turns.acquire()
                while self._free:
                    await self._free[-1].connection.ensure_closed()  # says goodbye
                    self._free.pop()
        except DRIVER_ERRORS:
            for pooled in (*self._used, *self._free):
                pooled.connection.close()

    async def _take_turn(self) -> None:
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
        if pooled.alive and pooled.since > self._made_before and monotonic() - pooled.since < LIFE:
            return pooled
        pooled.connection.close()
        return None


@asynccontextmanager
async def borrowed(pool: Any, where: str, patience: float) -> AsyncGenerator[Any, None]:
    """A connection of the app's own aiomysql pool or AsyncEngine, until the block ends; statements commit themselves."""
    async with (_from_pool if isinstance(pool, aiomysql.Pool) else _from_engine)(pool, where, patience) as connection:
        committing = connection.get_autocommit()
        try:
            async with connection.cursor() as cursor:
                await cursor.execute("SET autocommit = 1")
        except DRIVER_ERRORS as error:
            raise translated(error, where) from error
        try:
            yield connection
        finally:
            if not committing and not connection.closed:
                await _stop_committing(connection)


async def _stop_committing(connection: Any) -> None:
    try:
        await connection.autocommit(False)
    except DRIVER_ERRORS:  # what was done on it is done
        connection.close()


@asynccontextmanager
async def _from_pool(pool: Any, where: str, patience: float) -> AsyncGenerator[Any, None]:
    try:
        async with asyncio.timeout(patience):
            connection = await pool.acquire()
    except DRIVER_ERRORS as error:
        raise translated(error, where) from error
    try:
        yield connection
    finally:
        await pool.release(connection)


@asynccontextmanager
async def _from_engine(engine: Any, where: str, patience: float) -> AsyncGenerator[Any, None]:
    """The driver's connection inside: what is done on it is ours to commit, not SQLAlchemy's."""
    try:
        async with asyncio.timeout(patience):
            sqlalchemy = await engine.connect()
    except Exception as error:
        raise translated(getattr(error, "orig", None) or error, where) from error
    try:
        connection = (await sqlalchemy.get_raw_connection()).driver_connection
        try:
            yield connection
        finally:
            if connection.closed:
                await sqlalchemy.invalidate()
    finally:
        await sqlalchemy.close()
