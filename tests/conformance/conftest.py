"""The conformance suite: what `backends/base.py` promises, proved for each database.

`backend` is an opened and migrated store; `connect` opens further ones on the same database, as
other processes would; `clock` is the time that all of them see, and it moves only when told to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from sidequest.backends.base import Backend
from sidequest.backends.sqlite import SqliteBackend
from sidequest.config import DatabaseURL
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob

START = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


class Clock:
    """A database's clock that stands still between moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **span: float) -> datetime:
        self.time += timedelta(**span)
        return self.time


def make_sqlite(url: str, role: str, clock: Clock) -> Backend:
    return SqliteBackend(DatabaseURL.parse(url), role, clock=clock)


MAKERS: dict[str, Callable[[str, str, Clock], Backend]] = {"sqlite": make_sqlite}

Connect = Callable[..., Awaitable[Backend]]
Insert = Callable[..., Awaitable[Sequence[int]]]
Claim = Callable[..., Awaitable[Sequence[ClaimedJob]]]


@pytest.fixture(params=MAKERS)
def database(request: pytest.FixtureRequest) -> str:
    """Which database this test runs on."""
    return str(request.param)


@pytest.fixture
def url(database: str, tmp_path: Path) -> str:
    """An empty database of the test's own."""
    return {"sqlite": f"sqlite:///{tmp_path}/jobs.db"}[database]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def connect(database: str, url: str, clock: Clock) -> AsyncIterator[Connect]:
    """Opens one more backend on the database; all are closed when the test is over."""
    opened: list[Backend] = []

    async def connect(role: str = "engine") -> Backend:
        backend = MAKERS[database](url, role, clock)
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
