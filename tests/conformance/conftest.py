"""The conformance suite: what `backends/base.py` promises, proved for each database.

`backend` is an opened and migrated store; `connect` opens further ones on the same database, as
other processes would; `clock` is the time that all of them see, and it moves only when told to;
`tick` is the shortest time that the database can tell apart. `url` and `database` come from
`tests.servers.plugin`: every test runs on every database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pkgutil import resolve_name
from random import Random
from typing import NamedTuple

import pytest

from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob

BACKENDS = {
    "sqlite": "sidequest.backends.sqlite.backend:SqliteBackend",
    "postgres": "sidequest.backends.postgres.backend:PostgresBackend",
    "mariadb": "sidequest.backends.mysql.backend:MysqlBackend",
    "mysql": "sidequest.backends.mysql.backend:MysqlBackend",
    "mongodb": "sidequest.backends.mongo.backend:MongoBackend",
    "mongodb-standalone": "sidequest.backends.mongo.backend:MongoBackend",
}
"""Imported for the tests on that database only."""
TICKS = {"mongo": timedelta(milliseconds=1)}
"""By dialect, where it is not a microsecond."""
START = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


class Clock:
    """A database's clock that stands still between moves."""

    def __init__(self, tick: timedelta) -> None:
        self.time = START - timedelta(microseconds=START.microsecond) % tick

    def __call__(self) -> datetime:
        return self.time

    def advance(self, by: timedelta = timedelta(0), **span: float) -> datetime:
        self.time += by + timedelta(**span)
        return self.time


class SchemaWords(NamedTuple):
    """What a further step of the schema can say, in one dialect: statements about a table `two`."""

    create: str
    """Makes it; may be said again after a step that failed."""
    extend: str
    widen: str
    """What a later version may do to the jobs, such that this one can still work with them."""
    fail: str


SQL = SchemaWords(
    create="CREATE TABLE {schema}{prefix}two (id INTEGER);\n",
    extend="ALTER TABLE {schema}{prefix}two ADD COLUMN more INTEGER;\n",
    widen="ALTER TABLE {schema}{prefix}jobs ADD COLUMN more INTEGER;\n",
    fail="INSERT INTO {schema}{prefix}nowhere VALUES (1);\n",
)
SCHEMA_WORDS = {
    "sqlite": SQL,
    "postgres": SQL,
    "mysql": SQL._replace(create="CREATE TABLE IF NOT EXISTS {prefix}two (id INTEGER);\n"),  # no transaction takes it back
    "mongo": SchemaWords(
        create='{"createIndexes": "{prefix}two", "indexes": [{"key": {"id": 1}, "name": "id"}]};\n',
        extend='{"createIndexes": "{prefix}two", "indexes": [{"key": {"more": 1}, "name": "more"}]};\n',
        widen='{"createIndexes": "{prefix}jobs", "indexes": [{"key": {"more": 1}, "name": "more", "sparse": true}]};\n',
        fail='{"collMod": "{prefix}nowhere"};\n',
    ),
}

Connect = Callable[..., Awaitable[Backend]]
Insert = Callable[..., Awaitable[Sequence[int]]]
Claim = Callable[..., Awaitable[Sequence[ClaimedJob]]]


@pytest.fixture
def backend_class(database: str) -> type[Backend]:
    found: type[Backend] = resolve_name(BACKENDS[database])
    return found


@pytest.fixture
def dialect(backend_class: type[Backend]) -> str:
    return backend_class.dialect


@pytest.fixture
def tick(dialect: str) -> timedelta:
    """The shortest time that the database can tell apart."""
    return TICKS.get(dialect, timedelta(microseconds=1))


@pytest.fixture
def clock(tick: timedelta) -> Clock:
    return Clock(tick)


@pytest.fixture
def schema_words(dialect: str) -> SchemaWords:
    return SCHEMA_WORDS[dialect]


@pytest.fixture
async def connect(backend_class: type[Backend], url: str, clock: Clock) -> AsyncIterator[Connect]:
    """Opens one more backend on the database; all are closed when the test is over."""
    opened: list[Backend] = []

    async def connect(role: str = "engine") -> Backend:
        backend = backend_class(DatabaseURL.parse(url), role, clock=clock)
        opened.append(backend)
        await backend.open()
        return backend

    yield connect
    for backend in opened:
        await backend.close()


@pytest.fixture
async def empty(connect: Connect) -> Backend:
    """An opened backend on a database without tables."""
    return await connect()


@pytest.fixture
async def backend(empty: Backend) -> Backend:
    await empty.migrate()
    return empty


@pytest.fixture
def insert(backend: Backend) -> Insert:
    """Inserts the given jobs, or one with the given options; the ids."""

    async def insert(*jobs: NewJob, **options: object) -> Sequence[int]:
        found = jobs or (NewJob("shop:pay", **options),)  # type: ignore[arg-type]
        return await backend.insert(found, QueueRecord("*"))

    return insert


@pytest.fixture
def claim(backend: Backend) -> Claim:
    """Claims from one queue as engine e1 under lease l1, unless said otherwise."""

    async def claim(
        room: int = 1, *, queue: str = "default", engine: str = "e1", lease: str = "l1", by: Backend = backend
    ) -> Sequence[ClaimedJob]:
        return await by.claim(engine, lease, {queue: room})

    return claim


@pytest.fixture
def chance() -> Random:
    """What jitters are drawn from."""
    return Random(7)
