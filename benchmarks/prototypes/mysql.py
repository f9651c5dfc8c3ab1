"""The prototype on MySQL and MariaDB: aiomysql, SKIP LOCKED, ends of a batch as one JSON_TABLE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import aiomysql

from benchmarks.prototypes.store import ARGS, NAME, QUEUES, RESULT, TABLE, Prototype, WaitingRow, waiting_rows

SCHEMA = f"""
CREATE TABLE {TABLE} (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, queue varchar(64) CHARACTER SET ascii NOT NULL,
    task varchar(100) NOT NULL, args json NOT NULL, state tinyint NOT NULL, priority smallint NOT NULL,
    available_at datetime(6) NOT NULL, attempt smallint NOT NULL, max_attempts smallint NOT NULL, timeout_ms int,
    unique_key varchar(100), meta json, tags json, engine char(32), lease_until datetime(6),
    inserted_at datetime(6) NOT NULL, claimed_at datetime(6), started_at datetime(6), finished_at datetime(6),
    progress json, result json, error text,
    KEY {TABLE}_claim (state, queue, priority DESC, available_at, id), UNIQUE KEY {TABLE}_unique (unique_key)
) CHARACTER SET utf8mb4
"""
INSERT = f"""
INSERT INTO {TABLE} (queue, task, args, state, priority, available_at, attempt, max_attempts, timeout_ms, unique_key,
    meta, tags, inserted_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""  # with anything but %s among the values, `executemany` would send row by row
FINISH = f"""
UPDATE {TABLE} SET state = 4, attempt = 1, claimed_at = now(6), started_at = now(6), finished_at = now(6), result = '{RESULT}'
WHERE id > %s AND id <= %s
"""
CANDIDATES = f"""
SELECT id, queue, task, args, priority, attempt, max_attempts, timeout_ms, meta FROM {TABLE} FORCE INDEX ({TABLE}_claim)
WHERE state = 0 AND queue = %s AND available_at <= now(6)
ORDER BY priority DESC, available_at, id LIMIT %s FOR UPDATE SKIP LOCKED
"""
CLAIM = f"""
UPDATE {TABLE} SET state = 1, engine = %s, claimed_at = now(6), attempt = attempt + 1 WHERE id IN ({{ids}})
"""
END = f"""
UPDATE {TABLE} j JOIN JSON_TABLE(%s, '$[*]' COLUMNS (
    id bigint PATH '$[0]', attempt smallint PATH '$[1]', state tinyint PATH '$[2]', s datetime(6) PATH '$[3]',
    f datetime(6) PATH '$[4]', r longtext PATH '$[5]')) x ON j.id = x.id AND j.attempt = x.attempt
SET j.state = x.state, j.started_at = x.s, j.finished_at = x.f, j.result = x.r
WHERE j.engine = %s
"""
CHUNK = 10_000


class MysqlPrototype(Prototype):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._engine = uuid4().hex

    async def connect(self) -> None:
        self._claimer = await _connect(self.url)
        self._finisher = await _connect(self.url)

    async def create(self) -> None:
        async with self._claimer.cursor() as cursor:
            await cursor.execute(SCHEMA)

    async def fill(self, rows: int) -> None:
        async with self._claimer.cursor() as cursor:
            for part in waiting_rows(rows):
                await cursor.executemany(INSERT, _rows(part))
            await cursor.execute(f"SELECT max(id) FROM {TABLE}")
            ((last,),) = await cursor.fetchall()
            for begin in range(0, last, CHUNK):
                await cursor.execute(FINISH, (begin, min(begin + CHUNK, last)))
            for part in waiting_rows(rows):
                await cursor.executemany(INSERT, _rows(part))

    async def take_stock(self, table: str) -> None:
        async with self._claimer.cursor() as cursor:
            await cursor.execute(f"ANALYZE TABLE {table}")

    async def claim(self, queue: str, room: int) -> Sequence[Any]:
        async with self._claimer.cursor() as cursor:
            await self._claimer.begin()
            await cursor.execute(CANDIDATES, (queue, room))
            rows = await cursor.fetchall()
            if rows:
                ids = ", ".join(str(id) for id in sorted(row[0] for row in rows))
                await cursor.execute(CLAIM.format(ids=ids), (self._engine,))
            await self._claimer.commit()
            return [(*row[:5], row[5] + 1, *row[6:]) for row in rows]

    async def end(self, claimed: Sequence[Any]) -> int:
        now = _now()
        rows = [(id, attempt, 4, now, now, RESULT) for id, _, _, _, _, attempt, *_ in claimed]
        async with self._finisher.cursor() as cursor:
            changed: int = await cursor.execute(END, (json.dumps(rows), self._engine))
            return changed

    async def insert(self, count: int) -> None:
        async with self._finisher.cursor() as cursor:
            rows = _rows([WaitingRow(QUEUES[0], 0)] * count)
            if count == 1:
                await cursor.execute(INSERT, rows[0])
            else:
                await cursor.executemany(INSERT, rows)

    async def close(self) -> None:
        self._claimer.close()
        self._finisher.close()


async def _connect(url: str) -> Any:
    at = urlsplit(url)
    connection = await aiomysql.connect(
        host=at.hostname, port=at.port or 3306, user=unquote(at.username or ""), password=unquote(at.password or ""),
        db=at.path.removeprefix("/"), autocommit=True, charset="utf8mb4", init_command="SET time_zone = '+00:00'",
    )  # fmt: skip
    async with connection.cursor() as cursor:
        await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


def _rows(rows: Sequence[WaitingRow]) -> list[tuple[Any, ...]]:
    now = _now()
    return [(row.queue, NAME, ARGS, 0, row.priority, now, 0, 5, None, None, None, None, now) for row in rows]


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
