"""Enqueueing through a `Sidequest` against what the driver alone can do, on the same table, taking turns.

The driver's turn is a loop of nothing but its own insert, prepared before: no codec, no handle, nobody
told. Each turn lasts so long that others who are busy on this machine are in several of them.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomysql
import aiosqlite
import asyncpg
from pymongo import AsyncMongoClient

from benchmarks import jobs
from benchmarks.figures import Figures
from sidequest import Sidequest
from sidequest.backends.mongo.documents import new_documents
from sidequest.backends.sql.rows import ALIKE, INSERTED
from sidequest.config import DatabaseURL
from sidequest.jobs.client import JobCall
from sidequest.jobs.record import NewJob

CLIENTS = (1, 32)
TURN = 1.0
"""Seconds."""
MANY = 20_000
"""Jobs of one bulk."""
ARGS = '{"kwargs":{"user":48213,"template":"welcome","language":"en"}}'
WRITTEN = (*INSERTED, *ALIKE)
COLUMNS = ", ".join(WRITTEN)
TABLE = "sidequest_jobs"


class Driver(ABC):
    """The rows that an enqueue writes, by the shortest way that the driver has."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def open(self, clients: int) -> None:
        """Connect, once for each client where that is of use."""

    @abstractmethod
    async def insert(self, client: int) -> object:
        """One row, committed; its id."""

    @abstractmethod
    async def insert_many(self, count: int) -> None:
        """So many rows in one transaction, whatever their ids."""

    @abstractmethod
    async def close(self) -> None: ...


class PostgresDriver(Driver):
    async def open(self, clients: int) -> None:
        self._connections = [await asyncpg.connect(self.url, server_settings={"jit": "off"}) for _ in range(clients)]
        signs = ", ".join(f"${number}" for number in range(1, len(WRITTEN) + 1))
        text = f"INSERT INTO {TABLE} ({COLUMNS}) VALUES ({signs}) RETURNING id"
        self._statements = [await connection.prepare(text) for connection in self._connections]

    async def insert(self, client: int) -> object:
        return await self._statements[client].fetchval(*_row(lambda instant: instant))

    async def insert_many(self, count: int) -> None:
        rows = [_row(lambda instant: instant) for _ in range(count)]
        await self._connections[0].copy_records_to_table(TABLE, records=rows, columns=WRITTEN)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


class MysqlDriver(Driver):
    TEXT = f"INSERT INTO {TABLE} ({COLUMNS}) VALUES ({', '.join(['%s'] * len(WRITTEN))})"

    async def open(self, clients: int) -> None:
        at = urlsplit(self.url)
        self._connections = [
            await aiomysql.connect(
                host=at.hostname, port=at.port or 3306, user=unquote(at.username or ""),
                password=unquote(at.password or ""), db=at.path.removeprefix("/"), autocommit=True, charset="utf8mb4",
            )
            for _ in range(clients)
        ]  # fmt: skip

    async def insert(self, client: int) -> object:
        cursor = await self._connections[client].cursor()
        await cursor.execute(self.TEXT, _row(_mysql_instant))
        return cursor.lastrowid

    async def insert_many(self, count: int) -> None:
        connection = self._connections[0]
        cursor = await connection.cursor()
        await connection.begin()
        await cursor.executemany(self.TEXT, [_row(_mysql_instant) for _ in range(count)])
        await connection.commit()

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()


class SqliteDriver(Driver):
    TEXT = f"INSERT INTO {TABLE} ({COLUMNS}) VALUES ({', '.join('?' * len(WRITTEN))})"

    async def open(self, clients: int) -> None:
        """One connection: more of them would only wait for one another's locks."""
        self._connection = await aiosqlite.connect(DatabaseURL.parse(self.url).target, isolation_level=None)
        await self._connection.execute("PRAGMA synchronous = FULL")

    async def insert(self, client: int) -> object:
        return await self._connection.execute_insert(self.TEXT, _row(_sqlite_instant))

    async def insert_many(self, count: int) -> None:
        await self._connection.execute("BEGIN IMMEDIATE")
        await self._connection.executemany(self.TEXT, [_row(_sqlite_instant) for _ in range(count)])
        await self._connection.commit()

    async def close(self) -> None:
        await self._connection.close()


class MongoDriver(Driver):
    async def open(self, clients: int) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.url)
        self._jobs = self._client.get_default_database()[TABLE]
        self._last = 2**62  # far from those that the product gives

    async def insert(self, client: int) -> object:
        return (await self._jobs.insert_one(self._documents(1)[0])).inserted_id

    async def insert_many(self, count: int) -> None:
        await self._jobs.insert_many(self._documents(count), ordered=False)

    def _documents(self, count: int) -> Sequence[dict[str, Any]]:
        first, self._last = self._last, self._last + count
        return new_documents(range(first, self._last), [_job()] * count, datetime.now(UTC))

    async def close(self) -> None:
        await self._client.close()


DRIVERS: dict[str, type[Driver]] = {
    "sqlite": SqliteDriver,
    "postgresql": PostgresDriver,
    "mysql": MysqlDriver,
    "mongodb": MongoDriver,
}


def _call() -> JobCall[None]:
    return jobs.mail.call(user=48213, template="welcome", language="en")


def _job() -> NewJob:
    return NewJob(jobs.mail.name, ARGS)


def _row(to_column: Callable[[datetime], Any]) -> tuple[Any, ...]:
    now = to_column(datetime.now(UTC))
    return (
        jobs.mail.name, ARGS, "default", True, 0, now, 5, None, None, "exponential", 1000, False, None, None, now,
        *ALIKE.values(),
    )  # fmt: skip


def _mysql_instant(instant: datetime) -> str:
    return instant.replace(tzinfo=None).isoformat(" ", "microseconds")


def _sqlite_instant(instant: datetime) -> int:
    return int(instant.timestamp() * 1_000_000)


async def enqueues(url: str, rounds: int) -> Figures:
    """Awaited enqueues per second of one client and of many, and jobs per second in bulk; ratios in percent."""
    figures: dict[str, list[float]] = {}
    async with _both(url) as (driver, sq):

        async def enqueue(_: int) -> None:
            await sq.enqueue(_call())

        async def enqueue_many(count: int) -> None:
            await sq.enqueue_many(_call() for _ in range(count))

        for insert in (driver.insert, enqueue):
            await _turn(insert, max(CLIENTS), TURN / 4)  # all are connected, and their statements prepared
        for _ in range(rounds):
            for clients in CLIENTS:
                theirs, ours = await _turn(driver.insert, clients, TURN), await _turn(enqueue, clients, TURN)
                _note(figures, f"clients_{clients}", len(theirs) / TURN, len(ours) / TURN)
                figures.setdefault(f"clients_{clients}_driver_p50_ms", []).append(1000 * median(theirs))
                figures.setdefault(f"clients_{clients}_p50_ms", []).append(1000 * median(ours))
            _note(figures, "bulk", await _bulk(driver.insert_many), await _bulk(enqueue_many))
    return figures


@asynccontextmanager
async def _both(url: str) -> AsyncGenerator[tuple[Driver, Sidequest], None]:
    """The driver, and a client without an engine: nobody else works in the database."""
    async with Sidequest(url, engine="off") as sq:
        driver = DRIVERS[DatabaseURL.parse(url).scheme](url)
        await driver.open(max(CLIENTS))
        try:
            yield driver, sq
        finally:
            await driver.close()


async def _turn(insert: Callable[[int], Awaitable[object]], clients: int, seconds: float) -> Sequence[float]:
    """How long each insert took, of so many clients that insert one after the other."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await insert(number)
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(client(number))
    return took


async def _bulk(insert_many: Callable[[int], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await insert_many(MANY)
    return MANY / (time.perf_counter() - began)


def _note(figures: dict[str, list[float]], what: str, theirs: float, ours: float) -> None:
    found = {f"{what}_ratio_percent": 100 * ours / theirs, f"{what}_driver_per_s": theirs, f"{what}_per_s": ours}
    for name, value in found.items():
        figures.setdefault(name, []).append(value)
