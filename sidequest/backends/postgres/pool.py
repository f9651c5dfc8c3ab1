"""THE STORE, on PostgreSQL: connections that are used again and again, our own or the app's, and the one that listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from sidequest.backends.pool import Pool
from sidequest.backends.postgres.session import DRIVER_ERRORS, GRACE, read_only, translated
from sidequest.backends.postgres.url import Access
from sidequest.errors import BackendUnavailable

PING = 15.0
"""Seconds between two questions of a listener whether its server still lives: a dead host does not say goodbye."""

driver: Any = asyncpg
"""It has no type information."""
Meaning = Callable[[BaseException, str], Exception]


class PostgresPool(Pool):
    """Connections of our own."""

    def _alive(self, connection: Any) -> bool:
        return not connection.is_closed() and not connection.is_in_transaction()

    def _cut(self, connection: Any) -> None:
        connection.terminate()

    async def _leave(self, connection: Any) -> None:
        await connection.close()

    async def _settle(self, connection: Any) -> None:
        if connection.is_closed():
            return
        try:
            await connection.execute("SELECT 1", timeout=GRACE)  # the driver asks when the last statement is cancelled
        except DRIVER_ERRORS:
            connection.terminate()


async def connect(access: Access, where: str, within: float, meaning: Meaning = translated) -> Any:
    """A connection of our own, within so many seconds. Raises what `meaning` says of the driver's error."""
    try:
        async with asyncio.timeout(within):
            return await driver.connect(**access.connect)
    except DRIVER_ERRORS as error:
        raise meaning(error, where) from error


@asynccontextmanager
async def borrowed(pool: Any, where: str, patience: float) -> AsyncGenerator[Any, None]:
    """A connection of the app's own asyncpg pool or AsyncEngine, until the block ends.

    `patience`: seconds that a caller waits for it.
    """
    async with (_from_pool if isinstance(pool, asyncpg.Pool) else _from_engine)(pool, where, patience) as connection:
        yield connection


@asynccontextmanager
async def _from_pool(pool: Any, where: str, patience: float) -> AsyncGenerator[Any, None]:
    try:
        async with asyncio.timeout(patience):
            connection = await pool.acquire()
    except DRIVER_ERRORS as error:
        raise translated(error, where) from error
    try:
        yield connection
    except BackendUnavailable as error:
        if read_only(error):
            await pool.expire_connections()
        raise
    finally:
        await _release(pool, connection)


async def _release(pool: Any, connection: Any) -> None:
    try:
        if connection.is_closed():
            connection.terminate()  # before 0.32 a pool forgets some of the connections that it lost
        async with asyncio.timeout(GRACE):
            await pool.release(connection)
    except DRIVER_ERRORS:  # it is in no state to be used again, and what was done on it is done
        with suppress(asyncpg.InterfaceError):
            connection.terminate()


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
        except BackendUnavailable as error:
            if read_only(error) or connection.is_closed():
                await sqlalchemy.invalidate()
            raise
    finally:
        await sqlalchemy.close()


async def listen(access: Access, where: str, channel: str, heard: Callable[[], None]) -> None:
    """Call `heard` now and at each notification, until cancelled. Raises BackendUnavailable when the connection is lost."""
    try:
        connection = await driver.connect(**access.connect)
        try:
            await _listen_on(connection, channel, heard)
        finally:
            connection.terminate()
    except DRIVER_ERRORS as error:
        raise translated(error, where) from error


async def _listen_on(connection: Any, channel: str, heard: Callable[[], None]) -> None:
    def lost(_: Any) -> None:
        gone.set()

    def notified(*_: Any) -> None:
        heard()

    gone = asyncio.Event()
    connection.add_termination_listener(lost)
    await connection.add_listener(channel, notified)
    heard()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(PING):
                await gone.wait()
        await connection.execute("SELECT 1", timeout=GRACE)
