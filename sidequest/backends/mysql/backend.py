"""THE STORE, on MySQL (8.0.13 or newer) and MariaDB (10.6 or newer), by way of aiomysql.

Nothing here returns what it wrote: a claim reads and locks its rows first, skipping those that
others have locked, and then marks them. Rows are changed by their primary key only, lowest first,
so that writers of the same rows wait for one another instead of meeting in a deadlock.
"""
# ruff: noqa: S608 -- what is not a parameter comes from this package

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

import aiomysql  # type: ignore[import-untyped]
from pymysql.constants import CLIENT  # type: ignore[import-untyped]

from sidequest.backends.base import Clock
from sidequest.backends.mysql.pool import MysqlPool, borrowed
from sidequest.backends.mysql.session import (
    BEGIN,
    BEGIN_ANYWHERE,
    PACKET,
    MysqlSession,
    Several,
    as_positional,
    connect,
    limits,
    parts,
    read_only,
    size,
    translated,
)
from sidequest.backends.mysql.url import read_url
from sidequest.backends.server_time import ServerTime
from sidequest.backends.shapes import Group, Shape
from sidequest.backends.sql.backend import SqlBackend
from sidequest.backends.sql.changes import assignments, guard, listed, row_values, rows_of
from sidequest.backends.sql.rows import ALIKE_COLUMNS, ALIKE_VALUES, CLAIMED, INSERTED, claimed_job, new_columns
from sidequest.backends.sql.session import Row, Session, Values
from sidequest.backends.sql.sqlalchemy_session import SqlalchemySession, connection_of, is_engine
from sidequest.backends.work import to_the_end
from sidequest.clock import monotonic
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable, ConfigError
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

OLDEST = {"MySQL": (8, 0, 13), "MariaDB": (10, 6, 0)}
"""SKIP LOCKED, and columns whose defaults are expressions, came with these."""
VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
MIGRATION_TIMEOUT = 3600.0
"""Seconds for one statement of a schema step, or for the turn to apply it: an index on a big table takes its time."""
CASES = 250
"""Changes in one statement: the server walks along them for each value of each row."""
FACTS = (
    "version", "innodb_flush_log_at_trx_commit", "innodb_flush_method", "innodb_doublewrite", "log_bin", "sync_binlog",
    "innodb_buffer_pool_size", "innodb_redo_log_capacity", "innodb_log_file_size",
)  # fmt: skip
"""Not every server has them all."""
AS_CLAIMED = CLAIMED.replace("id, lease,", "id, %s,", 1).replace(" attempt,", " attempt + 1,", 1)
"""The columns of a claimed job as they are after the claim, with the lease as a parameter."""

FIRST_ID = "SELECT LAST_INSERT_ID(), @@auto_increment_increment"


class MysqlBackend(SqlBackend):
    """`mysql://user:password@host:3306/database` or `mariadb://…`, with the options of `mysql_url`."""

    dialect: ClassVar[str] = "mysql"
    READY: ClassVar[str] = "ready = 1"
    NOT_YET: ClassVar[str] = "later = 1"
    CLAIM_ORDER: ClassVar[str] = "urgency, available_at, id"
    SOME_ROWS: ClassVar[str] = " LIMIT 20000"
    LOCK_ROWS: ClassVar[str] = " FOR UPDATE"
    LOCK_FREE_ROWS: ClassVar[str] = " FOR UPDATE SKIP LOCKED"
    STEPS_TABLE: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS {prefix}migrations "
        "(name VARCHAR(100) NOT NULL PRIMARY KEY, needs VARCHAR(100) NOT NULL, applied_at DATETIME(6) NOT NULL) "
        "ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )
    STEP_APPLIED: ClassVar[str] = (
        "INSERT INTO {prefix}migrations (name, needs, applied_at) VALUES ('{step}', '{needs}', UTC_TIMESTAMP(6))"
    )

    def __init__(self, url: DatabaseURL, role: str = "app", *, pool: object | None = None, clock: Clock | None = None) -> None:
        self._access = read_url(url, role)
        if pool is not None and not isinstance(pool, aiomysql.Pool) and not is_engine(pool, "aiomysql"):
            raise TypeError(f"pool must be an aiomysql Pool or an SQLAlchemy AsyncEngine of mysql+aiomysql, not {pool!r}")
        super().__init__(url, role, pool=pool, clock=clock)
        self._time = ServerTime(clock)
        self._turn = asyncio.Lock()
        self._own: MysqlPool | None = None
        self._beats: MysqlPool | None = None
        self._connection: Callable[[], AbstractAsyncContextManager[Any]] | None = None
        self._packet = PACKET
        # Said, not left to the servers: with few jobs, or with old statistics, they would take the index on the
        # state for it, and then lock, and wait for, rows that are none of this statement's business.
        self._jobs_by_id = f"{self.jobs} FORCE INDEX (PRIMARY)"

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
        if self.pool is not None:
            self._connection = partial(borrowed, self.pool, where, patience)
        else:
            connecting = partial(connect, self._access, self._access.tls_context(), where)
            first = await connecting(opening=True)
            self._own = MysqlPool(connecting, self._access.pool_size, patience, where, first)
            if self.role == "engine":
                self._beats = MysqlPool(connecting, 1, patience, where)
            self._connection = self._own.connection
        async with self.reader() as session:
            _check_connection(session)
            ((version,),) = await session.fetch("SELECT VERSION()")
            _check_version(version, where)
            await self._measure(session)
        if self._packet < PACKET:
            raise ConfigError(
                f"{where} accepts statements of {self._packet} bytes only; set its max_allowed_packet to {PACKET} or more"
            )

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
        ((said, self._packet),) = await session.fetch("SELECT UTC_TIMESTAMP(6), @@max_allowed_packet")
        self._time.measured(self.from_column(said), asked_at)

    # Telling engines that there is work: these databases cannot; engines on other hosts find it when they look

    @property
    def tells(self) -> bool:
        return False

    async def announce(self) -> None:
        pass

    async def listen(self, heard: Callable[[], None]) -> None:
        pass

    # What each dialect says in its own way

    def writer(self) -> AbstractAsyncContextManager[Session]:
        return self._working(measuring=True)

    def reader(self) -> AbstractAsyncContextManager[MysqlSession]:
        return self._working(measuring=False)

    @asynccontextmanager
    async def _working(self, *, measuring: bool) -> AsyncGenerator[MysqlSession, None]:
        if self._connection is None:
            raise BackendUnavailable(f"{self.url.shown} is not open")
        timeout, begin = self._access.command_timeout, BEGIN if self.pool is None else BEGIN_ANYWHERE
        try:
            async with self._connection() as connection:
                session = MysqlSession(connection, self.shown, timeout, packet=self._packet, begin=begin)
                if measuring and self._time.stale:
                    await self._measure(session)
                yield session
        except BackendUnavailable as error:
            if self._own is not None and read_only(error):
                self._own.expire()
            raise

    @asynccontextmanager
    async def beating(self, within: timedelta | None) -> AsyncGenerator[Session, None]:
        if self._beats is None:
            async with self.reader() as session:
                session.timeout = session.timeout if within is None else within.total_seconds()
                yield session
            return
        patience = self._access.command_timeout if within is None else within.total_seconds()
        try:
            async with asyncio.timeout(2 * patience) as connecting, self._beats.connection() as connection:
                connecting.reschedule(None)  # from here on the session keeps the time, and says what has happened
                yield MysqlSession(connection, self.url.shown, patience, packet=self._packet)
        except TimeoutError as error:
            raise translated(error, self.url.shown) from error
        except BackendUnavailable as error:
            if read_only(error):
                self._beats.expire()
            raise

    async def session_on(self, connection: object) -> Session:
        if isinstance(connection, aiomysql.Connection):
            self._check_transaction(connection)
            return MysqlSession(connection, self.url.shown, packet=self._packet, ours=False)
        if (sqlalchemy := await connection_of(connection, "aiomysql")) is not None:
            if sqlalchemy.closed:
                raise ValueError("connection is closed")
            self._check_transaction((await sqlalchemy.get_raw_connection()).driver_connection)
            return SqlalchemySession(sqlalchemy, as_positional, self._translated)
        raise TypeError(
            f"connection must be an aiomysql connection or an SQLAlchemy AsyncSession or AsyncConnection, not {connection!r}"
        )

    def _check_transaction(self, connection: Any) -> None:
        """Raise ValueError unless jobs can become part of what this connection of the driver does."""
        if connection.closed:
            raise ValueError("connection is closed")
        if connection.get_autocommit() and not connection.get_transaction_status():
            raise ValueError("connection has no open transaction: begin one, or leave connection= out")
        if connection.db != self._access.connect["db"]:
            raise ValueError(f"connection is to the database {connection.db!r}; the jobs are in {self.url.shown}")

    def _translated(self, error: BaseException) -> Exception:
        return translated(error, self.url.shown)

    def to_column(self, instant: datetime) -> str:
        return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")

    def from_column(self, value: Any) -> datetime:
        found: datetime = value.replace(tzinfo=UTC)
        return found

    @asynccontextmanager
    async def schema_lock(self, session: Session) -> AsyncGenerator[None, None]:
        assert isinstance(session, MysqlSession)
        if self._own is not None:
            await session.execute(f"SET {limits(MIGRATION_TIMEOUT)}")
        session.timeout = MIGRATION_TIMEOUT
        try:
            async with self._named_lock(session):
                yield
        finally:
            session.timeout = self._access.command_timeout
            if self._own is not None and not session.closed:
                await session.execute(f"SET {limits(self._access.command_timeout)}")

    @asynccontextmanager
    async def _named_lock(self, session: MysqlSession) -> AsyncGenerator[None, None]:
        """Of the session, not of a transaction: what changes the schema ends that, and what follows commits itself."""
        tables = f"{self._access.connect['db']}/{self.url.prefix}"
        lock = {"name": f"sidequest:{hashlib.sha256(tables.encode()).hexdigest()[:32]}", "seconds": MIGRATION_TIMEOUT - 1}
        ((locked,),) = await session.fetch("SELECT GET_LOCK(:name, :seconds)", lock)
        if not locked:
            raise BackendUnavailable(f"{self.url.shown}: another process has been changing the tables for an hour")
        try:
            yield
        finally:
            if not session.closed:  # else the server has released it
                await session.fetch("SELECT RELEASE_LOCK(:name)", lock)

    async def table_exists(self, session: Session, table: str) -> bool:
        found = await session.fetch(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name", {"name": table}
        )
        return bool(found)

    async def table_names(self, beginning: str) -> Sequence[str]:
        rows = await self.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND left(table_name, char_length(:beginning)) = :beginning ORDER BY 1",
            {"beginning": beginning},
        )
        return [name for (name,) in rows]

    async def facts(self) -> Mapping[str, str]:
        names = ", ".join(f"'{name}'" for name in FACTS)
        rows = await self.fetch(f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({names})")
        found: dict[str, str] = dict(rows)
        return {name: found[name] for name in FACTS if name in found}

    async def insert_jobs(self, session: Session, jobs: Sequence[NewJob], now: datetime) -> Sequence[int]:
        shared, several = new_columns(jobs, now, self.to_column)
        if isinstance(session, MysqlSession):  # a value costs the driver a microsecond: once is enough for what all share
            written = {name: session.literal(value) for name, value in shared.items()}
        else:
            written, several = {}, {**several, **{name: (value,) * len(jobs) for name, value in shared.items()}}
        sign = ", ".join(written.get(name, "%s") for name in INSERTED)
        rows = list(zip(*(several[name] for name in INSERTED if name not in written), strict=True))
        insert = f"INSERT INTO {self.jobs} ({', '.join(INSERTED)}, {ALIKE_COLUMNS}) VALUES :rows"
        return await _ids_given(session, insert, {"rows": Several(f"({sign}, {ALIKE_VALUES})", rows)}, len(jobs))

    async def insert_queue(self, session: Session, row: Values) -> bool:
        # Looked for first: an INSERT that meets the row keeps a lock on it until the transaction ends.
        if await session.fetch(f"SELECT 1 FROM {self.queues} WHERE name = :name", row):
            return False
        columns = ", ".join(row)
        parameters = ", ".join(f":{column}" for column in row)
        return await session.execute(f"INSERT IGNORE INTO {self.queues} ({columns}) VALUES ({parameters})", row) == 1

    async def promote(self, limit: int) -> int:
        asked = {"now": self.to_column(self.now()), "limit": limit}
        return await self.transact(partial(self._promote, asked=asked))

    async def _promote(self, session: Session, asked: Values) -> int:
        found = await session.fetch(
            f"SELECT id FROM {self.jobs} FORCE INDEX ({self.url.prefix}jobs_due) WHERE later = 1 AND available_at <= :now "
            f"ORDER BY available_at, id LIMIT :limit FOR UPDATE SKIP LOCKED",
            asked,
        )
        return await self._update_by_id(session, "ready = 1", [id for (id,) in found], {})

    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        orders = [(lease, queue, room) for queue, room in rooms.items() if room > 0]
        if not orders:
            return ()
        asked = {"engine": engine, "lease": lease, "now": self.to_column(self.now())}
        rows = await self.transact(partial(self._claim_all, orders=orders, asked=asked))
        places = {queue: place for place, (_, queue, _) in enumerate(orders)}
        ordered = sorted(rows, key=lambda row: (places[row[3]], row[19], row[20], row[0]))  # UNION promises no order
        return [claimed_job(row, self.from_column) for row in ordered]

    async def _claim_all(self, session: Session, orders: Sequence[Row], asked: Values) -> Sequence[Row]:
        select = (
            f"(SELECT {AS_CLAIMED}, urgency, available_at FROM {self.jobs} FORCE INDEX ({self.url.prefix}jobs_claim) "
            f"WHERE ready = 1 AND queue = %s ORDER BY urgency, available_at, id LIMIT %s FOR UPDATE SKIP LOCKED)"
        )
        rows = await session.fetch(":selects", {"selects": Several(select, orders, " UNION ALL ")})
        sets = (
            "state = 'claimed', ready = NULL, attempt = attempt + 1, engine = :engine, lease = :lease, "
            "claimed_at = :now, started_at = NULL, progress = NULL"
        )
        await self._update_by_id(session, sets, [row[0] for row in rows], asked)
        return rows

    async def _update_by_id(self, session: Session, sets: str, ids: Iterable[int], asked: Values) -> int:
        changed = 0
        for part in parts(sorted(ids)):
            condition, found = self.among(part)
            changed += await session.execute(f"UPDATE {self._jobs_by_id} SET {sets} WHERE {condition}", {**asked, **found})
        return changed

    async def write_group(self, session: Session, group: Group, now: datetime) -> Iterable[int]:
        """As if all their fences held, as nearly all do: an UPDATE tells how many rows it found, and not which.

        Was it too few, that is undone, and those are written whose fence holds.
        """
        shape, members = group
        ordered = sorted(members, key=attrgetter("id"))
        if len(ordered) == 1:
            return () if await self._write(session, shape, ordered, now) else (ordered[0].id,)
        await session.savepoint()
        if await self._write(session, shape, ordered, now) == len(ordered):
            return ()
        await session.rollback_to_savepoint()
        found = await self._holding(session, group)
        if found:
            await self._write(session, shape, [change for change in ordered if change.id in found], now)
        return [change.id for change in ordered if change.id not in found]

    async def _write(self, session: Session, shape: Shape, changes: Sequence[Change], now: datetime) -> int:
        changed = 0
        for part in parts(rows_of(changes, now, self.to_column), lambda row: sum(map(size, row.values())), CASES):
            changed += await session.execute(*self._update(shape, part))
        return changed

    def _update(self, shape: Shape, rows: Sequence[Values]) -> tuple[str, Values]:
        fence, found = self._fence(shape, rows)
        found["now"] = rows[0]["now"]
        signs: dict[str, str] = {}
        for name in row_values(shape):
            signs[name], found[name] = _each(name, rows)
        return f"UPDATE {self._jobs_by_id} SET {assignments(shape, signs.__getitem__)} WHERE {fence}", found

    async def _holding(self, session: Session, group: Group) -> frozenset[int]:
        """The ids whose fence holds; their rows are locked."""
        shape, members = group
        holding: set[int] = set()
        for part in parts(sorted((change.id, change.lease) for change in members), most=CASES):
            fence, found = self._fence(shape, [{"the_id": id, "the_lease": lease} for id, lease in part])
            rows = await session.fetch(f"SELECT id FROM {self._jobs_by_id} WHERE {fence} ORDER BY id FOR UPDATE", found)
            holding.update(id for (id,) in rows)
        return frozenset(holding)

    def _fence(self, shape: Shape, rows: Sequence[Values]) -> tuple[str, dict[str, Any]]:
        among, ids = self.among([row["the_id"] for row in rows])
        sign, lease = _each("the_lease", rows)
        return f"{among} AND lease <=> {sign} AND {guard(shape)}", {**ids, "the_lease": lease}

    def among(self, ids: Sequence[int]) -> tuple[str, Values]:
        return ("id IN (:ids)", {"ids": Several("%s", list(zip(ids, strict=True)))}) if ids else ("FALSE", {})

    def in_states(self, states: Collection[State]) -> str:
        return f"state IN ({listed(states)})"

    def counts(self, clause: str) -> str:
        # Grouping by the index on the state, and looking each row up for the rest, is slower than reading all.
        without = f" IGNORE INDEX FOR GROUP BY ({self.url.prefix}jobs_state)" if clause else ""
        return f"SELECT state, count(*) FROM {self.jobs}{without} {clause} GROUP BY state"

    def contains(self, column: str, parameter: str) -> str:
        # Only ASCII letters are to be the same in both cases. LOWER knows all letters there are; so it is made to
        # believe that the bytes are Hebrew, which has no cases of its own.
        found, text = (f"lower(convert(cast({value} AS binary) USING hebrew))" for value in (column, f":{parameter}"))
        return f"instr({found}, {text} COLLATE hebrew_bin) > 0"

    def has_tag(self) -> str:
        return "json_contains(tags, json_quote(:tag))"

    def bucket(self, column: str) -> str:
        return f"(timestampdiff(MICROSECOND, '1970-01-01', {column}) - :start_us) DIV :width_us"


async def _ids_given(session: Session, insert: str, values: Values, count: int) -> Sequence[int]:
    """Insert so many rows by one statement; their ids.

    The servers give the rows of one statement, when it says how many there are, ids without gaps,
    whatever `innodb_autoinc_lock_mode` is; in a cluster they go in steps, so that the members'
    do not meet.
    """
    if not isinstance(session, MysqlSession):
        await session.execute(insert, values)
        ((first, step),) = await session.fetch(FIRST_ID)
    elif count == 1:
        await session.execute(insert, values)
        return (session.last_id,)
    else:
        ((first, step),) = await session.fetch_after(insert, values, FIRST_ID)
    return range(first, first + count * step, step)


def _each(name: str, rows: Sequence[Values]) -> tuple[str, Any]:
    """How a statement says this value of each of the rows, and the parameter for it."""
    first = rows[0][name]
    if all(row[name] == first for row in rows):
        return f":{name}", first
    return f"CASE id :{name} END", Several("WHEN %s THEN %s", [(row["the_id"], row[name]) for row in rows], " ")


def _check_connection(session: MysqlSession) -> None:
    if not session.flags & CLIENT.FOUND_ROWS or session.charset != "utf8mb4":
        raise ConfigError(
            "pool must make its connections with charset='utf8mb4', and with client_flag=CLIENT.FOUND_ROWS "
            "(from pymysql.constants) so that an update counts the rows that it finds"
        )


def _check_version(version: str, where: str) -> None:
    product = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    numbers = VERSION.match(version)
    if numbers is None or tuple(int(number or 0) for number in numbers.groups()) < OLDEST[product]:
        oldest = ".".join(map(str, OLDEST[product]))
        raise ConfigError(f"{product} {oldest} or newer is needed; {where} is {version}")
