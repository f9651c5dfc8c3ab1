"""Users' own connections, in each way that a user may have one: opened, with a transaction begun."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

DIALECTS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql"}


@dataclass
class Caller:
    """A user with an open transaction."""

    connection: Any
    commit: Callable[[], Awaitable[Any]]
    rollback: Callable[[], Awaitable[Any]]


Open = Callable[[str], AbstractAsyncContextManager[Caller]]


@asynccontextmanager
async def aiosqlite_connection(url: str) -> AsyncIterator[Caller]:
    import aiosqlite

    async with aiosqlite.connect(urlsplit(url).path.removeprefix("/")) as connection:
        yield Caller(connection, connection.commit, connection.rollback)


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Caller]:
    import asyncpg

    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield Caller(connection, transaction.commit, transaction.rollback)
    await connection.close()


@asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncIterator[Caller]:
    import asyncpg

    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield Caller(connection, transaction.commit, transaction.rollback)


@asynccontextmanager
async def aiomysql_connection(url: str) -> AsyncIterator[Caller]:
    import aiomysql

    parts = urlsplit(url)
    connection = await aiomysql.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password or "", db=parts.path[1:]
    )
    await connection.begin()
    yield Caller(connection, connection.commit, connection.rollback)
    connection.close()


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[Caller]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(_for_sqlalchemy(url))
    async with AsyncSession(engine) as session:
        yield Caller(session, session.commit, session.rollback)
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_connection(url: str) -> AsyncIterator[Caller]:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(_for_sqlalchemy(url))
    async with engine.connect() as connection:
        yield Caller(connection, connection.commit, connection.rollback)
    await engine.dispose()


@asynccontextmanager
async def motor_session(url: str) -> AsyncIterator[Caller]:
    from motor.motor_asyncio import AsyncIOMotorClient

    client: Any = AsyncIOMotorClient(url)
    async with await client.start_session() as session:
        session.start_transaction()
        yield Caller(session, session.commit_transaction, session.abort_transaction)
        if session.in_transaction:
            await session.abort_transaction()
    client.close()


@asynccontextmanager
async def pymongo_session(url: str) -> AsyncIterator[Caller]:
    from pymongo import AsyncMongoClient

    async with AsyncMongoClient[Any](url) as client, client.start_session() as session:
        await session.start_transaction()
        yield Caller(session, session.commit_transaction, session.abort_transaction)


def _for_sqlalchemy(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{DIALECTS[scheme]}://{rest.partition('?')[0]}"


SQL: dict[str, Open] = {"sqlalchemy-session": sqlalchemy_session, "sqlalchemy-connection": sqlalchemy_connection}
WAYS: dict[str, dict[str, Open]] = {
    "sqlite": {"aiosqlite": aiosqlite_connection, **SQL},
    "postgres": {"asyncpg": asyncpg_connection, "asyncpg-pool": asyncpg_pool, **SQL},
    "mariadb": {"aiomysql": aiomysql_connection, **SQL},
    "mysql": {"aiomysql": aiomysql_connection, **SQL},
    "mongodb": {"motor": motor_session, "pymongo": pymongo_session},
}
"""Database → the ways in which its users hold a transaction. (A standalone MongoDB has none.)"""
