"""The servers, seen from outside: which they are, how safely they store, how many statements they get."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiomysql
import asyncpg
from pymongo import AsyncMongoClient

from sidequest.config import DatabaseURL


class Observer(ABC):
    """Looks at the server of a URL, on a connection to another database of it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *error: object) -> None: ...

    @abstractmethod
    async def facts(self) -> dict[str, str]:
        """Its version, and the settings that decide how fast it may be."""

    @abstractmethod
    async def statements(self) -> int:
        """How many it has been given since it started, without those from here."""


class PostgresObserver(Observer):
    """Counts transactions: of what an idle engine sends, each statement is one."""

    async def __aenter__(self) -> Self:
        at = urlsplit(self.url)
        self._database = at.path.removeprefix("/")
        self._connection = await asyncpg.connect(at._replace(path="/postgres").geturl())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connection.close()

    async def facts(self) -> dict[str, str]:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
        rows = await self._connection.fetch("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)", names)
        found = dict(rows)
        return {name: found[name] for name in names}

    async def statements(self) -> int:
        counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
        found: int = await self._connection.fetchval(counted, self._database)
        return found


class MysqlObserver(Observer):
    async def __aenter__(self) -> Self:
        at = urlsplit(self.url)
        self._connection = await aiomysql.connect(
            host=at.hostname, port=at.port or 3306, user=unquote(at.username or ""), password=unquote(at.password or "")
        )
        self._asked = 0
        return self

    async def __aexit__(self, *error: object) -> None:
        self._connection.close()

    async def facts(self) -> dict[str, str]:
        names = (
            "version", "innodb_flush_log_at_trx_commit", "innodb_doublewrite", "log_bin", "sync_binlog",
            "innodb_buffer_pool_size", "innodb_redo_log_capacity", "innodb_log_file_size",
        )  # fmt: skip
        found = dict(await self._ask("SHOW GLOBAL VARIABLES"))
        return {name: found[name] for name in names if name in found}

    async def statements(self) -> int:
        ((_, count),) = await self._ask("SHOW GLOBAL STATUS LIKE 'Questions'")
        return int(count) - self._asked

    async def _ask(self, question: str) -> Any:
        self._asked += 1
        async with self._connection.cursor() as cursor:
            await cursor.execute(question)
            return await cursor.fetchall()


class MongoObserver(Observer):
    """Counts operations of all kinds; among them what members and drivers ask one another to know who lives."""

    async def __aenter__(self) -> Self:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.url)
        self._asked = 0
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def facts(self) -> dict[str, str]:
        status = await self._ask()
        return {
            "version": status["version"],
            "replica_set": status.get("repl", {}).get("setName", "none"),
            "cache_mb": str(status["wiredTiger"]["cache"]["maximum bytes configured"] >> 20),
        }

    async def statements(self) -> int:
        status = await self._ask()
        return sum(count for kind, count in status["opcounters"].items() if isinstance(count, int)) - self._asked

    async def _ask(self) -> dict[str, Any]:
        self._asked += 1
        return await self._client.admin.command("serverStatus")


class SqliteObserver(Observer):
    """There is no server that counts: `idle` does it in the process itself."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def facts(self) -> dict[str, str]:
        return {"version": sqlite3.sqlite_version}

    async def statements(self) -> int:
        raise NotImplementedError("SQLite has no server")


OBSERVERS: dict[str, type[Observer]] = {
    "sqlite": SqliteObserver,
    "postgresql": PostgresObserver,
    "mysql": MysqlObserver,
    "mongodb": MongoObserver,
}


def observer(url: str) -> Observer:
    return OBSERVERS[DatabaseURL.parse(url).scheme](url)
