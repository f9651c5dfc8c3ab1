"""THE STORE, on MySQL and MariaDB: connections of our own, or out of what the app has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql  # type: ignore[import-untyped]

from sidequest.backends.mysql.session import DRIVER_ERRORS, translated
from sidequest.backends.pool import Pool


class MysqlPool(Pool):
    """Connections of our own."""

    def _alive(self, connection: Any) -> bool:
        if connection.closed or connection.get_transaction_status():
            return False
        reader = connection._reader  # where the driver's own pool looks as well
        return not reader.eof_received and reader.exception() is None

    def _cut(self, connection: Any) -> None:
        connection.close()

    async def _leave(self, connection: Any) -> None:
        await connection.ensure_closed()

    async def _settle(self, connection: Any) -> None:
        """The driver itself has closed what was cancelled, and the session what broke."""


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
