"""THE STORE, on SQLite: a file on this host, by way of aiosqlite.

One connection writes, one transaction at a time; another one reads beside it (WAL). Every
transaction begins IMMEDIATE: one that upgrades from reading fails at once, whatever the timeout.
Time is the host's, because all who share the file are on one host.
"""
# ruff: noqa: S608 -- what is not a parameter comes from this package

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import aiosqlite

from sidequest import clock as clocks
from sidequest.backends.base import Clock
from sidequest.backends.instants import EPOCH, MICROSECOND
from sidequest.backends.shapes import Group
from sidequest.backends.sql.backend import SqlBackend
from sidequest.backends.sql.changes import assignments, columns_of, guard, listed
from sidequest.backends.sql.rows import ALIKE_COLUMNS, ALIKE_VALUES, CLAIMED, INSERTED, claimed_job, new_columns, new_rows
from sidequest.backends.sql.session import Row, Session, Values
from sidequest.backends.sql.sqlalchemy_session import SqlalchemySession, connection_of, engine_session, is_engine
from sidequest.backends.sqlite.session import SqliteSession, connect, translated
from sidequest.backends.sqlite.url import read_url
from sidequest.backends.work import persist, to_the_end
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable, ConfigError
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State

OLDEST = (3, 35)
"""RETURNING came with 3.35."""
HELD = "state IN ('claimed', 'running')"
MISSED = "state IN ('failed', 'canceled')"
"""As the partial indexes have it: SQLite uses one only for statements that say the very same."""
PARTIAL = {HELD: {State.CLAIMED, State.RUNNING}, MISSED: {State.FAILED, State.CANCELED}}
SYNC_LEVELS = ("off", "normal", "full", "extra")
"""What SQLite says of `synchronous` in numbers."""
CACHE = 32_000
"""Kilobytes of pages that the writer may keep: a batch changes more than SQLite's own 2 000, which then spill half-way."""
CHECKPOINT = 4_000
"""Pages in the log (16 MB) at which they are moved into the file: those of a busy table come up again and again."""


class SqliteBackend(SqlBackend):
    """`sqlite:///file.db`, with `?busy_timeout=` (seconds) and `?synchronous=full|normal`."""

    dialect: ClassVar[str] = "sqlite"
    READY: ClassVar[str] = "ready = 1"
    NOT_YET: ClassVar[str] = "ready = 0"
    WHOLE_GROUPS: ClassVar[bool] = True
    DRIVER_KEEPS_TIME: ClassVar[bool] = True
    LOCK_ROWS: ClassVar[str] = ""
    LOCK_FREE_ROWS: ClassVar[str] = ""
    STEPS_TABLE: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS {prefix}migrations "
        "(name TEXT NOT NULL PRIMARY KEY, needs TEXT NOT NULL, applied_at INTEGER NOT NULL)"
    )
    STEP_APPLIED: ClassVar[str] = (
        "INSERT INTO {prefix}migrations (name, needs, applied_at) "
        "VALUES ('{step}', '{needs}', CAST(strftime('%s', 'now') AS INTEGER) * 1000000)"
    )

    def __init__(self, url: DatabaseURL, role: str = "app", *, pool: object | None = None, clock: Clock | None = None) -> None:
        self._access = read_url(url, role)
        if pool is not None and not is_engine(pool, "aiosqlite"):
            raise TypeError(f"pool must be an SQLAlchemy AsyncEngine of sqlite+aiosqlite, not {pool!r}")
        super().__init__(url, role, pool=pool, clock=clock, patience=self._access.busy_timeout)
        self._turn = asyncio.Lock()
        self._writer: SqliteSession | None = None
        self._reader: SqliteSession | None = None
        self._beater: SqliteSession | None = None
        self._beat_turn = asyncio.Lock()
        self._insert = f"INSERT INTO {self.jobs} ({', '.join(INSERTED)}, {ALIKE_COLUMNS})"
        signs = ", ".join(f":{name}" for name in INSERTED)
        self._insert_one = f"{self._insert} VALUES ({signs}, {ALIKE_VALUES}) RETURNING id"

    # Opening

    async def open(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise ConfigError(f"SQLite 3.35 or newer is needed; this Python has {sqlite3.sqlite_version}")
        if self.pool is not None:
            return
        try:
            await to_the_end(self._open())
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        path, timeout = self._access.path, self.patience.total_seconds()
        async with self._turn:
            if self._writer is None:
                self._writer = await connect(path, timeout)
                await persist(self._prepare_writer, self.patience)
            if self._reader is None:
                self._reader = await connect(path, timeout)
                await persist(self._prepare_reader, self.patience)
            if self._beater is None and self.role == "engine":
                self._beater = await connect(path, timeout)
                await persist(partial(self._set_pace, self._beater), self.patience)

    async def _prepare_writer(self) -> None:
        assert self._writer is not None
        ((mode,),) = await self._writer.opening("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise ConfigError(f"{self.url.shown}: SQLite cannot keep a write-ahead log there (journal mode is {mode!r})")
        await self._set_pace(self._writer)
        await self._writer.opening(f"PRAGMA cache_size = {-CACHE}")
        await self._writer.opening("PRAGMA temp_store = memory")  # what undoes half a statement needs no file
        await self._writer.probe()

    async def _set_pace(self, session: SqliteSession) -> None:
        """How often what is written is synced to disk, and the log moved into the file."""
        await session.opening(f"PRAGMA synchronous = {self._access.synchronous}")
        await session.opening(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")

    async def _prepare_reader(self) -> None:
        assert self._reader is not None
        await self._reader.opening("PRAGMA query_only = 1")

    async def close(self) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        async with self._turn:
            sessions = [session for session in (self._reader, self._beater, self._writer) if session is not None]
            self._reader = self._beater = self._writer = None
            async with AsyncExitStack() as closing:
                for session in reversed(sessions):
                    closing.push_async_callback(session.close)

    def now(self) -> datetime:
        return self.clock() if self.clock is not None else clocks.utc_now()

    def ahead(self) -> timedelta:
        return timedelta(0)

    # Telling engines that there is work: all who share the file are on this host, where a socket tells

    @property
    def tells(self) -> bool:
        return False

    async def announce(self) -> None:
        pass

    async def listen(self, heard: Callable[[], None]) -> None:
        pass

    # What each dialect says in its own way

    def writer(self) -> AbstractAsyncContextManager[Session]:
        if self.pool is not None:
            return engine_session(self.pool, _as_they_are, self._translated)
        return self._writing()

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[Session, None]:
        async with self._turn:
            yield self._opened(self._writer)

    def reader(self) -> AbstractAsyncContextManager[Session]:
        if self.pool is not None:
            return self.writer()
        return self._reading()

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[Session, None]:
        yield self._opened(self._reader)

    def beating(self, within: timedelta | None) -> AbstractAsyncContextManager[Session]:
        return self.writer() if self._beater is None else self._beating(self.patience if within is None else within)

    @asynccontextmanager
    async def _beating(self, within: timedelta) -> AsyncGenerator[Session, None]:
        async with self._beat_turn:
            session = self._opened(self._beater)
            await session.fetch(f"PRAGMA busy_timeout = {round(within.total_seconds() * 1000)}")
            yield session

    def _opened(self, session: SqliteSession | None) -> SqliteSession:
        if session is None:
            raise BackendUnavailable(f"{self.url.shown} is not open")
        return session

    async def session_on(self, connection: object) -> Session:
        if isinstance(connection, aiosqlite.Connection):
            if connection.isolation_level is None and not connection.in_transaction:
                raise ValueError("connection has no open transaction: begin one, or leave connection= out")
            return SqliteSession(connection, self._access.path)
        if (sqlalchemy := await connection_of(connection, "aiosqlite")) is not None:
            return SqlalchemySession(sqlalchemy, _as_they_are, self._translated)
        raise TypeError(
            "connection must be an open aiosqlite connection, or an SQLAlchemy AsyncSession or AsyncConnection, "
            f"not {connection!r}"
        )

    def _translated(self, error: BaseException) -> Exception:
        return translated(error, self._access.path)

    def to_column(self, instant: datetime) -> int:
        return (instant - EPOCH) // MICROSECOND

    def from_column(self, value: Any) -> datetime:
        return EPOCH + int(value) * MICROSECOND

    def schema_lock(self, session: Session) -> AbstractAsyncContextManager[None]:
        return nullcontext()  # BEGIN IMMEDIATE has locked everybody out

    async def table_exists(self, session: Session, table: str) -> bool:
        found = await session.fetch("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name", {"name": table})
        return bool(found)

    async def table_names(self, beginning: str) -> Sequence[str]:
        rows = await self.fetch(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, length(:beginning)) = :beginning "
            "ORDER BY name",
            {"beginning": beginning},
        )
        return [name for (name,) in rows]

    async def facts(self) -> Mapping[str, str]:
        async with self.writer() as session:  # how it syncs is up to each connection
            found = {name: await session.fetch(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "page_size")}
        (((mode,),), ((level,),), ((size,),)) = found.values()
        return {
            "version": sqlite3.sqlite_version,
            "journal_mode": str(mode),
            "synchronous": SYNC_LEVELS[int(level)],
            "page_size": str(size),
        }

    async def insert_jobs(self, session: Session, jobs: Sequence[NewJob], now: datetime) -> Sequence[int]:
        if len(jobs) == 1:
            values = dict(zip(INSERTED, new_rows(jobs, now, self.to_column)[0], strict=True))
            ((id,),) = await session.fetch(self._insert_one, values)
            return (id,)
        shared, several = new_columns(jobs, now, self.to_column)
        places = {name: f"json_extract(value, '$[{number}]')" for number, name in enumerate(several)}
        new = ", ".join(f":{name}" if name in shared else places[name] for name in INSERTED)
        statement = f"{self._insert} SELECT {new}, {ALIKE_VALUES} FROM json_each(:rows) ORDER BY key RETURNING id"
        rows = json.dumps(list(zip(*several.values(), strict=True)), ensure_ascii=False)
        found = await session.fetch(statement, {**shared, "rows": rows})
        return sorted(id for (id,) in found)  # RETURNING keeps no order; they were given in that of the rows

    async def insert_queue(self, session: Session, row: Values) -> bool:
        columns = ", ".join(row)
        parameters = ", ".join(f":{column}" for column in row)
        statement = f"INSERT INTO {self.queues} ({columns}) VALUES ({parameters}) ON CONFLICT (name) DO NOTHING"
        return await session.execute(statement, row) == 1

    async def promote(self, limit: int) -> int:
        return await self.execute(
            f"UPDATE {self.jobs} SET ready = 1 WHERE id IN (SELECT id FROM {self.jobs} "
            f"WHERE ready = 0 AND available_at <= :now ORDER BY available_at, id LIMIT :limit)",
            {"now": self.to_column(self.now()), "limit": limit},
        )

    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        now = self.to_column(self.now())
        orders = [
            {"engine": engine, "lease": lease, "now": now, "queue": queue, "room": room}
            for queue, room in rooms.items()
            if room > 0
        ]
        if not orders:
            return ()
        run = self.autocommit if len(orders) == 1 else self.transact
        rows = await run(lambda session: self._claim_all(session, orders))
        return [claimed_job(row, self.from_column) for row in rows]

    async def _claim_all(self, session: Session, orders: Iterable[Values]) -> Sequence[Row]:
        statement = (
            f"UPDATE {self.jobs} SET state = 'claimed', ready = NULL, attempt = attempt + 1, engine = :engine, "
            f"lease = :lease, claimed_at = :now, started_at = NULL, progress = NULL WHERE id IN "
            f"(SELECT id FROM {self.jobs} WHERE ready = 1 AND queue = :queue "
            f"ORDER BY priority DESC, available_at, id LIMIT :room) RETURNING {CLAIMED}, priority, available_at"
        )
        claimed: list[Row] = []
        for order in orders:
            claimed += sorted(await session.fetch(statement, order), key=_claim_order)  # RETURNING keeps no order
        return claimed

    async def write_group(self, session: Session, group: Group, now: datetime) -> Iterable[int]:
        shape, members = group
        shared, several = columns_of(members, now, self.to_column)
        places = {name: f"json_extract(r.value, '$[{number}]')" for number, name in enumerate(several)}

        def new(name: str) -> str:
            return f":{name}" if name in shared else places[name]

        statement = (
            f"UPDATE {self.jobs} AS j SET {assignments(shape, new)} FROM json_each(:rows) r "
            f"WHERE j.id = {new('the_id')} AND j.lease IS {new('the_lease')} AND {guard(shape)} RETURNING id"
        )
        rows = json.dumps(list(zip(*several.values(), strict=True)), ensure_ascii=False)
        written = {id for (id,) in await session.fetch(statement, {**shared, "rows": rows})}
        return [change.id for change in members if change.id not in written]

    def among(self, ids: Sequence[int]) -> tuple[str, Values]:
        return "id IN (SELECT value FROM json_each(:ids))", {"ids": json.dumps(ids)}

    def in_states(self, states: Collection[State]) -> str:
        indexed = [condition for condition, all_of_it in PARTIAL.items() if all_of_it.issuperset(states)]
        return " AND ".join((*indexed, f"state IN ({listed(states)})"))

    def counts(self, clause: str) -> str:
        if clause:
            return f"SELECT state, count(*) FROM {self.jobs} {clause} GROUP BY state"

        def count(where: str) -> str:
            return f"(SELECT count(*) FROM {self.jobs} {where})"

        counts = {State.WAITING: f"{count(f'WHERE {self.READY}')} + {count(f'WHERE {self.NOT_YET}')}"}
        for state in (State.CLAIMED, State.RUNNING, State.FAILED, State.CANCELED):
            counts[state] = count(f"WHERE {self.in_states({state})}")
        # Each from an index; the completed ones are all that are nothing else.
        others = " UNION ALL ".join(f"SELECT '{state.value}' AS state, {number} AS number" for state, number in counts.items())
        return (
            f"WITH others AS MATERIALIZED ({others}) SELECT state, number FROM others UNION ALL "
            f"SELECT 'completed', {count('')} - (SELECT sum(number) FROM others)"
        )

    def contains(self, column: str, parameter: str) -> str:
        return f"instr(lower({column}), lower(:{parameter})) > 0"  # LIKE refuses patterns of more than 50 000 bytes

    def has_tag(self) -> str:
        return "EXISTS(SELECT 1 FROM json_each(tags) WHERE value = :tag)"

    def bucket(self, column: str) -> str:
        return f"({column} - :start_us) / :width_us"


def _as_they_are(statement: str, values: Values) -> tuple[str, Values]:
    return statement, values


def _claim_order(row: Row) -> tuple[int, int, int]:
    *_, priority, available_at = row
    return -priority, available_at, row[0]
