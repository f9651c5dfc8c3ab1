"""HARNESS. The databases: private servers with durable settings, and eyes that look into them from outside."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import asyncpg
import pymysql
import redis
from pymongo import MongoClient

from benchmarks.databases import FilePlace, Place, ServerPlace
from benchmarks.observers import observer
from benchmarks.peers.redis_server import RedisServer
from tests.servers.mongodb import MongoDB
from tests.servers.mysql import MariaDB, MySQL
from tests.servers.postgres import Postgres
from tests.servers.process import Reaper
from tests.servers.server import Server, ServerFailed, Unavailable

KINDS: Mapping[str, type[Server]] = {kind.name: kind for kind in (Postgres, MariaDB, MySQL, MongoDB, RedisServer)}
Question = str | Callable[[Any], int]


class Eye(ABC):
    """Looks into one database while others use it. Its connection is open before anything is measured."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def count(self, question: Question) -> int:
        """The one number that the question asks for."""

    @abstractmethod
    def close(self) -> None: ...

    def trace(self) -> None:  # noqa: B027 - nothing to do where nobody counts
        """From now on `statements` counts what new connections send."""

    def statements(self) -> int | None:
        """How many the server has been given since `trace`; None where nobody counts them."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class PostgresEye(Eye):
    """Counts statements in the server's log, because the server itself counts transactions only."""

    def __init__(self, url: str, log: Path) -> None:
        super().__init__(url)
        self._log, self._logged = log, 0
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(url))

    def count(self, question: Question) -> int:
        assert isinstance(question, str)
        return int(self._runner.run(self._connection.fetchval(question)))

    def trace(self) -> None:
        name = urlsplit(self.url).path.removeprefix("/")
        self._runner.run(self._connection.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'"))
        self._logged = self._log.stat().st_size

    def statements(self) -> int:
        with self._log.open("rb") as log:
            log.seek(self._logged)
            return sum(b"LOG:  statement:" in line or b"LOG:  execute " in line for line in log)

    def close(self) -> None:
        self._runner.run(self._connection.close(timeout=5))
        self._runner.close()


class MysqlEye(Eye):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        at = urlsplit(url)
        self._connection = pymysql.connect(
            host=at.hostname or "", port=at.port or 3306, user=unquote(at.username or ""),
            password=unquote(at.password or ""), database=at.path.removeprefix("/"), autocommit=True,
        )  # fmt: skip
        self._asked = self._begin = 0

    def count(self, question: Question) -> int:
        assert isinstance(question, str)
        return int(self._ask(question)[0])

    def trace(self) -> None:
        self._begin = self._questions()

    def statements(self) -> int:
        return self._questions() - self._begin

    def _questions(self) -> int:
        return int(self._ask("SHOW GLOBAL STATUS LIKE 'Questions'")[1]) - self._asked

    def _ask(self, statement: str) -> Any:
        self._asked += 1
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()

    def close(self) -> None:
        self._connection.close()


class SqliteEye(Eye):
    """No server counts for it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._file = url.removeprefix("sqlite:///")

    def count(self, question: Question) -> int:
        assert isinstance(question, str)
        connection = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute(question).fetchone()[0])
        finally:
            connection.close()

    def close(self) -> None:
        pass


class MongoEye(Eye):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: MongoClient[dict[str, Any]] = MongoClient(url)
        self._begin = 0

    def count(self, question: Question) -> int:
        assert callable(question)
        return question(self._client.get_default_database())

    def trace(self) -> None:
        self._begin = self._operations()

    def statements(self) -> int:
        return self._operations() - self._begin - 1

    def _operations(self) -> int:
        counters = self._client.admin.command("serverStatus")["opcounters"]
        return sum(count for count in counters.values() if isinstance(count, int))

    def close(self) -> None:
        self._client.close()


class RedisEye(Eye):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = redis.Redis.from_url(url)
        self._client.ping()
        self._begin = 0

    def count(self, question: Question) -> int:
        assert callable(question)
        return question(self._client)

    def trace(self) -> None:
        self._begin = self._commands()

    def statements(self) -> int:
        return self._commands() - self._begin - 1

    def _commands(self) -> int:
        return int(self._client.info("stats")["total_commands_processed"])

    def close(self) -> None:
        self._client.close()


class Store:
    """A place for databases, by name."""

    def __init__(self, name: str, place: Place, server: Server | None) -> None:
        self.name = name
        self.empty = place.empty
        self._server = server

    def eye(self, url: str) -> Eye:
        match self.name:
            case "postgres":
                assert self._server is not None
                return PostgresEye(url, self._server.folder / "log")
            case "mariadb" | "mysql":
                return MysqlEye(url)
            case "mongodb":
                return MongoEye(url)
            case "redis":
                return RedisEye(url)
            case _:
                return SqliteEye(url)

    def facts(self) -> dict[str, str]:
        """Version, and the settings that decide how fast it may be."""
        with self.empty() as url:
            if self.name == "redis":
                with redis.Redis.from_url(url) as client:
                    kept = {name: str(client.config_get(name)[name]) for name in ("save", "appendonly")}
                    return {"version": client.info("server")["redis_version"], **kept}
            return asyncio.run(_observed(url))


async def _observed(url: str) -> dict[str, str]:
    async with observer(url) as seen:
        return await seen.facts()


@contextmanager
def stores(names: Sequence[str], watcher: Reaper, missing: Callable[[str, str], None]) -> Generator[Mapping[str, Store]]:
    """Those that can be had on this machine, by name; `missing` is told of each other one and why."""
    found: dict[str, Store] = {}
    with ExitStack():
        for name in names:
            if name == "sqlite":
                found[name] = Store(name, FilePlace(), None)
                continue
            server = KINDS[name](watcher, durable=True)
            try:
                server.open()
            except (Unavailable, ServerFailed) as error:
                missing(name, str(error))
                continue
            found[name] = Store(name, ServerPlace(name, server), server)
        yield found
