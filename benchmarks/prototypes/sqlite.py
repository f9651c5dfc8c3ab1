"""The prototype on SQLite: `sqlite3` in one thread that writes, one hop to it for each transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import uuid4

from benchmarks.prototypes.store import ARGS, NAME, QUEUES, RESULT, TABLE, Prototype, waiting_rows
from sidequest.config import DatabaseURL

T = TypeVar("T")

SCHEMA = f"""
CREATE TABLE {TABLE} (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, task TEXT NOT NULL, args TEXT NOT NULL,
    state INTEGER NOT NULL, priority INTEGER NOT NULL, available_at REAL NOT NULL, attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL, timeout_ms INTEGER, unique_key TEXT, meta TEXT, tags TEXT, engine TEXT,
    lease_until REAL, inserted_at REAL NOT NULL, claimed_at REAL, started_at REAL, finished_at REAL,
    progress TEXT, result TEXT, error TEXT
);
CREATE INDEX {TABLE}_claim ON {TABLE} (queue, priority DESC, available_at, id) WHERE state = 0;
"""
INSERT = f"""
INSERT INTO {TABLE} (queue, task, args, state, priority, available_at, attempt, max_attempts, timeout_ms,
    unique_key, meta, tags, inserted_at)
VALUES (?, ?, ?, 0, ?, ?, 0, ?, ?, ?, ?, ?, ?)
"""
FINISHED = f"""
INSERT INTO {TABLE} (queue, task, args, state, priority, available_at, attempt, max_attempts, timeout_ms,
    unique_key, meta, tags, inserted_at, engine, claimed_at, started_at, finished_at, result)
VALUES (?, ?, ?, 4, ?, ?, 1, ?, ?, ?, ?, ?, ?, '', 0, 0, 0, '{RESULT}')
"""
CLAIM = f"""
UPDATE {TABLE} SET state = 1, engine = ?, claimed_at = ?, attempt = attempt + 1
WHERE id IN (
    SELECT id FROM {TABLE} WHERE state = 0 AND queue = ? AND available_at <= ?
    ORDER BY priority DESC, available_at, id LIMIT ?)
RETURNING id, queue, task, args, priority, attempt, max_attempts, timeout_ms, meta
"""
END = f"""
UPDATE {TABLE} SET state = ?, started_at = ?, finished_at = ?, result = ?, error = ?
WHERE id = ? AND attempt = ? AND engine = ?
"""


class SqlitePrototype(Prototype):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._path = f"{DatabaseURL.parse(url).target}.prototype"
        """A file of its own: a checkpoint writes what its own transactions left."""
        self._thread = ThreadPoolExecutor(1)
        self._engine = uuid4().hex

    async def connect(self) -> None:
        await self._hop(self._open)

    def _open(self) -> None:
        self._connection = self._connection_to_file("NORMAL")
        self._promising = self._connection_to_file("FULL")

    async def create(self) -> None:
        await self._hop(lambda: self._connection.executescript(SCHEMA))

    def _connection_to_file(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    async def fill(self, rows: int) -> None:
        for statement in (FINISHED, INSERT):
            for part in waiting_rows(rows):
                values = [_row(queue, priority) for queue, priority in part]
                await self._hop(lambda values=values, statement=statement: self._many(self._connection, statement, values))

    async def take_stock(self, table: str) -> None:
        """Move what is in the log into the file."""
        await self._hop(lambda: self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    async def claim(self, queue: str, room: int) -> Sequence[Any]:
        now = time.time()
        values = (self._engine, now, queue, now, room)
        return await self._hop(lambda: sorted(self._connection.execute(CLAIM, values).fetchall(), key=_claim_order))

    async def end(self, claimed: Sequence[Any]) -> int:
        now = time.time()
        rows = [(4, now, now, RESULT, None, id, attempt, self._engine) for id, _, _, _, _, attempt, *_ in claimed]
        return await self._hop(lambda: self._many(self._connection, END, rows))

    async def insert(self, count: int) -> None:
        if count == 1:
            await self._hop(lambda: self._promising.execute(INSERT, _row(QUEUES[0], 0)).lastrowid)
            return
        rows = [_row(QUEUES[0], 0) for _ in range(count)]
        await self._hop(lambda: self._many(self._promising, INSERT, rows))

    def _many(self, connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
        connection.execute("BEGIN IMMEDIATE")
        changed = connection.executemany(statement, rows).rowcount
        connection.execute("COMMIT")
        return changed

    async def close(self) -> None:
        await self._hop(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        self._promising.close()
        self._connection.close()

    async def _hop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _row(queue: str, priority: int) -> tuple[Any, ...]:
    now = time.time()
    return (queue, NAME, ARGS, priority, now, 5, None, None, None, None, now)


def _claim_order(row: tuple[Any, ...]) -> tuple[int, int]:
    return -row[4], row[0]
