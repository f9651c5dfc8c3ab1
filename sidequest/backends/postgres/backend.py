"""THE STORE, on PostgreSQL 12 or newer, by way of asyncpg.

Connections come from a small pool, and an engine's beats have one of their own. A claim skips rows
that another engine has locked, so none waits for another; ends are written one statement per shape, and
are heap-only updates, because no index names what they change. Waking engines is LISTEN and NOTIFY, and
only a hint.
"""
# ruff: noqa: S608 -- what is not a parameter comes from this package

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from operator import itemgetter
from types import TracebackType
from typing import Any, ClassVar
from weakref import WeakSet

import asyncpg  # type: ignore[import-untyped]
from asyncpg.pool import PoolConnectionProxy  # type: ignore[import-untyped]

from sidequest.backends.base import Clock
from sidequest.backends.postgres.pool import PostgresPool, borrowed, connect, listen
from sidequest.backends.postgres.session import PostgresSession, as_numbered, at_open, read_only, translated
from sidequest.backends.postgres.url import read_url
from sidequest.backends.server_time import ServerTime
from sidequest.backends.shapes import Group
from sidequest.backends.sql.backend import SqlBackend
from sidequest.backends.sql.changes import assignments, columns_of, guard, listed
from sidequest.backends.sql.rows import ALIKE_COLUMNS, ALIKE_VALUES, CLAIMED, INSERTED, claimed_job, new_columns, new_rows
from sidequest.backends.sql.session import Session, Values
from sidequest.backends.sql.sqlalchemy_session import SqlalchemySession, connection_of, is_engine
from sidequest.backends.work import to_the_end
from sidequest.clock import monotonic
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable, ConfigError
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State

OLDEST = 12
"""Generated columns came with 12."""
MIGRATION_TIMEOUT = 3600.0
"""Seconds for one statement of a schema step, or for the turn to apply it: an index on a big table takes its time."""
TROUBLE = frozenset({State.FAILED, State.CANCELED})
"""The states that the column `trouble` tells."""
TYPES = {
    "the_id": "bigint", "the_lease": "text", "name": "text", "queue": "text", "args": "text", "state": "text",
    "ready": "boolean", "priority": "integer", "available_at": "timestamptz", "attempt": "integer",
    "max_attempts": "integer", "timeout_ms": "bigint", "kill_grace_ms": "bigint", "backoff": "text",
    "retry_delay_ms": "bigint", "isolated": "boolean", "tags": "text", "meta": "text", "engine": "text", "lease": "text",
    "inserted_at": "timestamptz", "claimed_at": "timestamptz", "started_at": "timestamptz", "finished_at": "timestamptz",
    "result": "text", "errors": "text", "progress": "text", "cancel_requested_at": "timestamptz", "interrupts": "integer",
    "crashes": "integer", "snoozes": "integer",
}  # fmt: skip
"""What arrays that are sent hold."""
FACTS = (
    "server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_wal_size",
)  # fmt: skip
QUEUE, RANK = 3, itemgetter(19, 20, 0)
"""Of a claimed row: its queue's place, and what says which one of its queue starts first."""


class PostgresBackend(SqlBackend):
    """`postgresql://user:password@host:5432/database`, with the options of `postgres_url`."""

    dialect: ClassVar[str] = "postgres"
    READY: ClassVar[str] = "ready"
    NOT_YET: ClassVar[str] = "NOT ready"
    WHOLE_GROUPS: ClassVar[bool] = True
    DRIVER_KEEPS_TIME: ClassVar[bool] = True
    LOCK_ROWS: ClassVar[str] = " FOR UPDATE"
    LOCK_FREE_ROWS: ClassVar[str] = " FOR NO KEY UPDATE SKIP LOCKED"
    STEPS_TABLE: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS {schema}{prefix}migrations "
        '(name text COLLATE "C" PRIMARY KEY, needs text NOT NULL, applied_at timestamptz NOT NULL)'
    )
    STEP_APPLIED: ClassVar[str] = (
        "INSERT INTO {schema}{prefix}migrations (name, needs, applied_at) VALUES ('{step}', '{needs}', now())"
    )

    def __init__(self, url: DatabaseURL, role: str = "app", *, pool: object | None = None, clock: Clock | None = None) -> None:
        self._access = read_url(url, role)
        if pool is not None and not isinstance(pool, asyncpg.Pool) and not is_engine(pool, "asyncpg"):
            raise TypeError(f"pool must be an asyncpg Pool or an SQLAlchemy AsyncEngine of postgresql+asyncpg, not {pool!r}")
        schema = f'"{self._access.schema}".' if self._access.schema is not None else ""
        super().__init__(url, role, pool=pool, clock=clock, schema=schema)
        self._time = ServerTime(clock)
        self._turn = asyncio.Lock()
        self._own: PostgresPool | None = None
        self._beats: PostgresPool | None = None
        self._connection: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._database: str | None = None
        self._insert = f"INSERT INTO {self.jobs} ({', '.join(INSERTED)}, {ALIKE_COLUMNS})"
        signs = ", ".join(f":{name}" for name in INSERTED)
        self._insert_one = f"{self._insert} VALUES ({signs}, {ALIKE_VALUES}) RETURNING id"
        self._checked: WeakSet[Any] = WeakSet()

    # Opening

    async def open(self) -> None:
        try:
            async with self._turn:
                if self._connection is None:
                    await self._open()
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        where, patience = self.url.shown, self._access.command_timeout
        self._access.check_files()
        if self.pool is not None:
            self._connection = partial(borrowed, self.pool, where, patience)
        else:
            connecting = partial(connect, self._access, where, patience)
            first = await connecting(at_open)  # who cannot log in is told at once
            self._own = PostgresPool(connecting, self._access.pool_size, patience, where, first)
            if self.role == "engine":
                self._beats = PostgresPool(connecting, 1, patience, where)
            self._connection = self._own.connection
        async with self.reader() as session:
            await self._check_server(session)
            await self._measure(session)

    async def _check_server(self, session: Session) -> None:
        statement = "SELECT current_setting('server_version_num')::integer / 10000, current_database()"
        ((version, self._database),) = await session.fetch(statement)
        if version < OLDEST:
            raise ConfigError(f"PostgreSQL {OLDEST} or newer is needed; {self.url.shown} is {version}")

    async def close(self) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        async with self._turn:
            pools = [pool for pool in (self._own, self._beats) if pool is not None]
            self._own = self._beats = self._connection = None
        for pool in pools:
            await pool.close()

    def now(self) -> datetime:
        return self._time.now()

    def ahead(self) -> timedelta:
        return self._time.ahead()

    async def _measure(self, session: Session) -> None:
        asked_at = monotonic()
        ((said,),) = await session.fetch("SELECT clock_timestamp()")
        self._time.measured(said, asked_at)

    # Telling engines that there is work

    @property
    def tells(self) -> bool:
        return True

    async def announce(self) -> None:
        # as if it were read: whoever stops meanwhile need not wait for the end of it, as of a write
        await self.fetch("SELECT pg_notify(:channel, '')", {"channel": self._channel})

    async def listen(self, heard: Callable[[], None]) -> None:
        if self.pool is None and self._access.prepared_statements:  # else there is no connection that stays ours
            await listen(self._access, self.url.shown, self._channel, heard)

    @property
    def _channel(self) -> str:
        """The name of the jobs' table, so that nobody hears of other tables; names have at most 63 bytes."""
        name = self.jobs.replace('"', "")
        return name if len(name) < 64 else f"sidequest_{hashlib.sha256(name.encode()).hexdigest()[:32]}"

    # What each dialect says in its own way

    def writer(self) -> AbstractAsyncContextManager[Session]:
        return _Working(self, measuring=True)

    def reader(self) -> AbstractAsyncContextManager[Session]:
        return _Working(self, measuring=False)

    async def session_for(self, connection: Any, *, measuring: bool) -> Session:
        session = PostgresSession(connection, self.shown, self._access.command_timeout)
        if measuring and self._time.stale:
            await self._measure(session)
        return session

    def met(self, error: BaseException | None) -> None:
        """That went wrong with a connection, if anything did."""
        if self._own is not None and isinstance(error, BackendUnavailable) and read_only(error):
            self._own.expire()

    def connections(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        if self._connection is None:
            raise BackendUnavailable(f"{self.url.shown} is not open")
        return self._connection

    @asynccontextmanager
    async def beating(self, within: timedelta | None) -> AsyncGenerator[Session, None]:
        patience = self._access.command_timeout if within is None else within.total_seconds()
        kept = self.connections() if self._beats is None else self._beats.connection
        try:
            async with asyncio.timeout(2 * patience) as connecting, kept() as connection:
                connecting.reschedule(None)  # from here on the session keeps the time, and says what has happened
                try:
                    yield PostgresSession(connection, self.url.shown, patience)
                except BackendUnavailable:
                    connection.terminate()  # the next beat must not wait until this one has come to rest
                    raise
        except TimeoutError as error:
            raise translated(error, self.url.shown) from error
        except BackendUnavailable as error:
            if self._beats is not None and read_only(error):
                self._beats.expire()
            raise

    async def session_on(self, connection: object) -> Session:
        if isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
            inside: Any = _in_transaction(connection)
            session: Session = PostgresSession(inside, self.url.shown)
        elif (sqlalchemy := await connection_of(connection, "asyncpg")) is not None:
            if sqlalchemy.closed:
                raise ValueError("connection is closed")
            inside = (await sqlalchemy.get_raw_connection()).driver_connection
            session = SqlalchemySession(sqlalchemy, as_numbered, self._translated)
        else:
            raise TypeError(
                f"connection must be an asyncpg connection or an SQLAlchemy AsyncSession or AsyncConnection, not {connection!r}"
            )
        await self._check_database(session, getattr(inside, "_con", inside))
        return session

    async def _check_database(self, session: Session, inside: Any) -> None:
        """Raise ValueError for a connection to another database; asked once for each connection of the driver."""
        if inside in self._checked:
            return
        ((database,),) = await session.fetch("SELECT current_database()")
        if self._database not in (None, database):
            raise ValueError(f"connection is to the database {database!r}; the jobs are in {self.url.shown}")
        self._checked.add(inside)

    def _translated(self, error: BaseException) -> Exception:
        return translated(error, self.url.shown)

    def to_column(self, instant: datetime) -> datetime:
        return instant

    def from_column(self, value: Any) -> datetime:
        found: datetime = value
        return found

    @asynccontextmanager
    async def schema_lock(self, session: Session) -> AsyncGenerator[None, None]:
        if isinstance(session, PostgresSession):
            session.timeout = MIGRATION_TIMEOUT
        await session.fetch("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", {"name": self.steps})
        if self._access.schema is not None:
            await self._create_schema(session, self._access.schema)
        yield

    async def _create_schema(self, session: Session, name: str) -> None:
        """Asked for first: CREATE SCHEMA IF NOT EXISTS needs the right to create one even when it is there."""
        if not await session.fetch("SELECT 1 FROM pg_namespace WHERE nspname = :name", {"name": name}):
            await session.execute(f'CREATE SCHEMA "{name}"')

    async def table_exists(self, session: Session, table: str) -> bool:
        ((found,),) = await session.fetch("SELECT to_regclass(:name) IS NOT NULL", {"name": table})
        return bool(found)

    async def table_names(self, beginning: str) -> Sequence[str]:
        rows = await self.fetch(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = coalesce(:schema::text, current_schema()) "
            "AND left(tablename::text, length(:beginning::text)) = :beginning::text ORDER BY 1",
            {"schema": self._access.schema, "beginning": beginning},
        )
        return [name for (name,) in rows]

    async def facts(self) -> Mapping[str, str]:
        statement = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(:names)"
        found: dict[str, str] = dict(await self.fetch(statement, {"names": FACTS}))
        return {name.removeprefix("server_"): found[name] for name in FACTS if name in found}

    async def insert_jobs(self, session: Session, jobs: Sequence[NewJob], now: datetime) -> Sequence[int]:
        if len(jobs) == 1:
            values = dict(zip(INSERTED, new_rows(jobs, now, self.to_column)[0], strict=True))
            ((id,),) = await session.fetch(self._insert_one, values)
            return (id,)
        # Faster than COPY, which has to send every column, and to take the ids before. The columns in which jobs
        # differ are few, and nearly always the same few: so this is not many statements to prepare.
        shared, several = new_columns(jobs, now, self.to_column)
        new = ", ".join(f":{name}::{TYPES[name]}" if name in shared else f"new_{name}" for name in INSERTED)
        rows = _rows_of(tuple(several), "number")
        statement = f"{self._insert} SELECT {new}, {ALIKE_VALUES} FROM {rows} ORDER BY number RETURNING id"
        return [id for (id,) in await session.fetch(statement, {**shared, **several})]

    async def insert_queue(self, session: Session, row: Values) -> bool:
        columns = ", ".join(row)
        parameters = ", ".join(f":{column}" for column in row)
        statement = f"INSERT INTO {self.queues} ({columns}) VALUES ({parameters}) ON CONFLICT (name) DO NOTHING"
        return await session.execute(statement, row) == 1

    async def promote(self, limit: int) -> int:
        return await self.execute(
            f"UPDATE {self.jobs} SET ready = TRUE WHERE id = ANY(ARRAY(SELECT id FROM {self.jobs} WHERE NOT ready "
            f"AND available_at <= :now ORDER BY available_at, id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED))",
            {"now": self.now(), "limit": limit},
        )

    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        wanted = {queue: room for queue, room in rooms.items() if room > 0}
        if not wanted:
            return ()
        most = _power_of_ten(max(wanted.values()))
        statement = (
            f"UPDATE {self.jobs} SET state = 'claimed', ready = NULL, attempt = attempt + 1, engine = :engine, "
            f"lease = :lease, claimed_at = :now, started_at = NULL, progress = NULL WHERE id = ANY(ARRAY("
            f"SELECT c.id FROM unnest(:queues::text[], :rooms::integer[]) AS q(name, room) CROSS JOIN LATERAL "
            # The inner limit, which the planner can read, keeps it from taking this for a big query.
            f"(SELECT id FROM (SELECT id FROM {self.jobs} WHERE ready AND queue = q.name "
            f"ORDER BY priority DESC, available_at, id LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED) f LIMIT q.room) c)) "
            f"RETURNING {CLAIMED}, -priority::bigint, available_at"
        )
        asked = {"engine": engine, "lease": lease, "now": self.now(), "queues": list(wanted), "rooms": list(wanted.values())}
        rows = await self.autocommit(lambda session: session.fetch(statement, asked))
        ordered = sorted(rows, key=RANK)  # RETURNING keeps no order
        if len(wanted) > 1:
            places = {queue: place for place, queue in enumerate(wanted)}
            ordered.sort(key=lambda row: places[row[QUEUE]])
        return [claimed_job(row, self.from_column) for row in ordered]

    async def write_group(self, session: Session, group: Group, now: datetime) -> Iterable[int]:
        shape, members = group
        ordered = sorted(members, key=lambda change: change.id)  # two writers of the same jobs do not deadlock
        # What is the same for all travels once: an element of an array costs the driver half a microsecond.
        shared, several = columns_of(ordered, now, self.to_column)

        def new(name: str) -> str:
            return f":{name}::{TYPES[name]}" if name in shared else f"r.new_{name}"

        # Behind OFFSET 0, and with a comparison that no index serves, the lease is no way into the table: with
        # stale statistics the planner took it for one, and read the engine's whole past for each row. Nor may it
        # see how many rows there are: for some hundreds it reads a table of tens of thousands from end to end.
        statement = (
            f"UPDATE {self.jobs} j SET {assignments(shape, new)} "
            f"FROM (SELECT * FROM {_rows_of(tuple(several), uncounted=True)} OFFSET 0) r "
            f"WHERE j.id = r.new_the_id AND j.lease IS NOT DISTINCT FROM {new('the_lease')} AND {guard(shape)} RETURNING j.id"
        )
        written = {id for (id,) in await session.fetch(statement, {**shared, **several})}
        return [change.id for change in members if change.id not in written]

    def among(self, ids: Sequence[int]) -> tuple[str, Values]:
        return "id = ANY(:ids::bigint[])", {"ids": ids}

    def in_states(self, states: Collection[State]) -> str:
        if TROUBLE.issuperset(states):
            return f"trouble IN ({listed(states)})"
        if set(states) == {State.WAITING}:
            return "ready IN (TRUE, FALSE)"  # as the index has it
        return f"state IN ({listed(states)})"

    def counts(self, clause: str) -> str:
        return f"SELECT state, count(*) FROM {self.jobs} {clause} GROUP BY state"

    def contains(self, column: str, parameter: str) -> str:
        return f'strpos(lower({column} COLLATE "C"), lower(:{parameter} COLLATE "C")) > 0'  # "C" knows ASCII case only

    def has_tag(self) -> str:
        return "tags::jsonb ? :tag"

    def bucket(self, column: str) -> str:
        # Floating-point and rounded: what EXTRACT gives is three times slower.
        return f"round(date_part('epoch', {column} - :start::timestamptz) * 1000000)::bigint / :width_us"


class _Working(AbstractAsyncContextManager[Session]):
    """A session on a connection that is ours until the block ends. (As a generator it would take three times as long.)"""

    __slots__ = ("_backend", "_loan", "_measuring")

    def __init__(self, backend: PostgresBackend, *, measuring: bool) -> None:
        self._backend = backend
        self._measuring = measuring

    async def __aenter__(self) -> Session:
        self._loan = self._backend.connections()()
        connection = await self._loan.__aenter__()
        try:
            return await self._backend.session_for(connection, measuring=self._measuring)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._loan.__aexit__(kind, error, trace)
        finally:
            self._backend.met(error)


def _in_transaction(connection: Any) -> Any:
    """The user's connection, if jobs can become part of its transaction. Raises ValueError."""
    try:
        closed = connection.is_closed()
    except asyncpg.InterfaceError:  # it has gone back to its pool
        closed = True
    if closed:
        raise ValueError("connection is closed")
    if not connection.is_in_transaction():
        raise ValueError("connection has no open transaction: enqueue inside `async with connection.transaction():`")
    return connection


def _rows_of(names: Sequence[str], number: str | None = None, *, uncounted: bool = False) -> str:
    """What stands after FROM, so that parallel arrays become rows of `new_…` columns.

    `number` counts them; of those that are `uncounted` the planner knows no better than that they are a few.
    """
    arrays = (f":{name}::{TYPES[name]}[]" for name in names)
    given = ", ".join(f"(SELECT {array})" if uncounted else array for array in arrays)
    columns = ", ".join(f"new_{name}" for name in names)
    if number:
        return f"unnest({given}) WITH ORDINALITY AS u({columns}, {number})"
    return f"unnest({given}) AS u({columns})"


def _power_of_ten(number: int) -> int:
    """The first that is not less, and at least a thousand: few limits make few statements to prepare."""
    power = 1_000
    while power < number:
        power *= 10
    return power
