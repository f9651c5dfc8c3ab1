"""CLI. Where `sidequest bench` works: in tables of its own, never in the user's, and gone when it has ended.

A run has a name that says when it began. On a server, its tables have the name as their prefix; SQLite
has a file of that name beside the user's, so that no other writer of that file ever waits, and it does
not grow. A run notes itself among the engines of its tables, and beats; what a killed one has left is
told by that from what a running one needs.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from os import getpid
from pathlib import Path
from urllib.parse import quote

from sidequest import __version__
from sidequest.backends.base import Backend
from sidequest.backends.work import to_the_end
from sidequest.cli import connection
from sidequest.cli.failures import WrongUse
from sidequest.clock import utc_now
from sidequest.config import DatabaseURL
from sidequest.engine import host
from sidequest.errors import ConfigError, SchemaMismatch, SidequestError

BEGINNING = "sidequest_bench_"
NAME = re.compile(rf"{BEGINNING}(\d{{12}})_[0-9a-f]{{6}}")
"""What a run's name looks like: when it began (UTC), and chance. Nothing else is ever dropped."""
LOOKING = f"{BEGINNING}look"
"""Of no run: for a look at what there is, without one at the user's tables."""
PARTS = ("jobs", "queues", "engines", "migrations", "counters", "locks", "signals")
"""What the tables (collections) of a run are called after its prefix."""
RUNNER = "sidequest-bench"
"""The engine by whose row a run is known."""
BEAT = 10.0
SILENT = timedelta(seconds=90)
"""A run that has not beaten for so long is dead, wherever it ran."""
UNBORN = timedelta(minutes=10)
"""The same for one that has no row: it is made right after the tables."""


def new_name(now: datetime) -> str:
    return f"{BEGINNING}{now.astimezone(UTC):%y%m%d%H%M%S}_{secrets.token_hex(3)}"


def begun(name: str) -> datetime:
    """When the run of this name began. Raises ValueError for what is no such name."""
    found = NAME.fullmatch(name)
    try:
        return datetime.strptime(found[1] if found else "", "%y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{name!r} is no name of a run") from None


def is_run(name: str) -> bool:
    try:
        begun(name)
    except ValueError:
        return False
    return True


class Ground(ABC):
    """The places of runs in one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def url_of(self, name: str) -> str:
        """The URL of that run's tables."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """What the run makes, for people."""

    @abstractmethod
    async def names(self) -> Sequence[str]:
        """The runs of which there is anything; raises where the database cannot be used."""

    async def remove(self, name: str) -> None:
        """Remove all that the run of this name has made. Raises ValueError for what is no run's name."""
        begun(name)
        await to_the_end(self._remove(name))

    @abstractmethod
    async def _remove(self, name: str) -> None: ...

    async def is_over(self, name: str) -> bool:
        """Whether that run has died, and its engine too, and left what it had made."""
        try:
            async with connection.opened(self.url_of(name)) as store:
                engines = {engine.id: engine for engine in await store.list_engines()}
                if RUNNER in engines:
                    here, now = host.home(), store.now()
                    return all(host.has_died(engine, here) or now - engine.heartbeat_at > SILENT for engine in engines.values())
        except (SchemaMismatch, ConfigError):
            pass  # its tables are not all there
        return abs(utc_now() - begun(name)) > UNBORN


class Prefixed(Ground):
    """On a server: tables, or collections, with a prefix of their own."""

    def url_of(self, name: str) -> str:
        where, _, query = self.url.partition("?")
        options = [option for option in query.split("&") if option and not option.startswith("prefix=")]
        return f"{where}?{'&'.join([*options, f'prefix={name}_'])}"

    def describe(self, name: str) -> str:
        tables = "collections" if DatabaseURL.parse(self.url).scheme.startswith("mongodb") else "tables"
        return f"{tables} of its own ({name}_…)"

    async def names(self) -> Sequence[str]:
        async with connection.opened(self.url_of(LOOKING)) as store:
            tables = await store.table_names(BEGINNING)
        split = (table.rpartition("_") for table in tables)
        return sorted({name for name, _, part in split if part in PARTS and is_run(name)})

    async def _remove(self, name: str) -> None:
        async with connection.opened(self.url_of(name)) as store:
            await store.drop_tables()


class Beside(Ground):
    """On SQLite: a file of its own in the same directory, so on the same disk."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._file = Path(DatabaseURL.parse(url).target)

    def url_of(self, name: str) -> str:
        _, mark, query = self.url.partition("?")
        return f"sqlite:///{quote(str(self._path(name)))}{mark}{query}"

    def describe(self, name: str) -> str:
        return f"a file of its own ({self._path(name)})"

    async def names(self) -> Sequence[str]:
        beginning = f"{self._file.name}."
        with suppress(FileNotFoundError):  # to open it says so in better words
            found = (entry.name for entry in self._file.parent.iterdir() if entry.name.startswith(f"{beginning}{BEGINNING}"))
            names = (file.removeprefix(beginning).removesuffix("-wal").removesuffix("-shm") for file in found)
            return sorted({name for name in names if is_run(name)})
        return []

    async def _remove(self, name: str) -> None:
        path = self._path(name)
        for ending in ("-wal", "-shm", ""):  # the file last: as long as it is there, the rest is found
            path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._file.with_name(f"{self._file.name}.{name}")


def ground(url: str) -> Ground:
    """The places of runs in the database of this URL. Raises WrongUse for tables that a run would take for its own."""
    parsed = DatabaseURL.parse(url)
    if is_run(parsed.prefix.removesuffix("_")):
        raise WrongUse(
            f"url: the prefix {parsed.prefix} is one of bench's own, and its tables would be dropped; choose another"
        )
    return Beside(url) if parsed.scheme == "sqlite" else Prefixed(url)


@asynccontextmanager
async def tables(where: Ground, name: str) -> AsyncGenerator[Backend, None]:
    """Tables for the run of this name; they are removed when the block ends, however it ends."""
    try:
        async with connection.opened(where.url_of(name)) as store:
            await store.migrate()
            await store.register_engine(RUNNER, socket.gethostname(), getpid(), __version__, "", host.home())
            beating = asyncio.create_task(_beat(store))
            try:
                yield store
            finally:
                beating.cancel()
                await asyncio.wait([beating])
    finally:
        await where.remove(name)


async def _beat(store: Backend) -> None:
    while True:
        await asyncio.sleep(BEAT)
        with suppress(SidequestError):  # a beat that fails is made up for by the next
            await store.beat(RUNNER)
