"""HARNESS. A private Redis, as `redis-server` runs without a configuration file, except that it stores nothing on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import ClassVar

import redis

from tests.servers.server import Command, Server


class RedisServer(Server):
    """Its databases are one: a measurement has all of it, and it is emptied afterwards."""

    name: ClassVar[str] = "redis"
    variable: ClassVar[str] = "SIDEQUEST_BENCH_REDIS_URL"
    driver: ClassVar[str] = "redis"
    users: ClassVar[Sequence[str]] = ("redis", "nobody")

    def find(self) -> None:
        server = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
        if server is None:
            raise self.missing("there is no redis-server on this machine")
        self._server = server  # not resolved: Debian's is a link, and the program does what it is called

    def private_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def setup(self) -> Command:
        return ()

    def command(self) -> Command:
        # no snapshots: a fork in the middle of a measurement would be blamed on whoever is measured
        return [
            self._server, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--appendonly", "no",
        ]  # fmt: skip

    def ping(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.ping()

    def create_database(self) -> str:
        self._flush()
        return self.url

    def drop_database(self, url: str) -> None:
        self._flush()

    def create(self, database: str) -> None:
        raise NotImplementedError("a Redis has no named databases")

    def drop(self, database: str) -> None:
        raise NotImplementedError("a Redis has no named databases")

    def _flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
