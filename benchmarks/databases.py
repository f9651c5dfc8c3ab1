"""Where it is measured: servers that the URLs name, or private ones; each time in an empty database.

A private server is set up as an administrator would: whatever it has acknowledged survives a power
cut, and it has memory enough to keep what is in use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol
from urllib.parse import urlsplit

from sidequest.config import DatabaseURL
from tests.servers.mongodb import MongoDB
from tests.servers.mysql import MariaDB, MySQL
from tests.servers.postgres import Postgres
from tests.servers.process import Reaper
from tests.servers.server import Server

KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (Postgres, MariaDB, MySQL, MongoDB)}
NAMES = ("sqlite", *KINDS)
SCHEMES: dict[str, type[Server]] = {"postgresql": Postgres, "mysql": MySQL, "mongodb": MongoDB}


class Place(Protocol):
    """A server, or a file system."""

    name: str

    def empty(self) -> AbstractContextManager[str]:
        """The URL of a new and empty database, which is gone afterwards."""
        ...


class FilePlace:
    name = "sqlite"

    @contextmanager
    def empty(self) -> Generator[str]:
        with tempfile.TemporaryDirectory(prefix="sidequest-bench-") as folder:
            yield f"sqlite:///{folder}/jobs.db"


class ServerPlace:
    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self._server = server

    @contextmanager
    def empty(self) -> Generator[str]:
        url = self._server.create_database()
        try:
            yield url
        finally:
            self._server.drop_database(url)


@contextmanager
def places(names: Sequence[str], urls: Sequence[str]) -> Generator[Sequence[Place]]:
    """All of them, ready. Private servers end with the block. Raises Unavailable, ServerFailed."""
    with ExitStack() as opened:
        reaper = Reaper()
        opened.callback(reaper.close)
        servers = [(name, KINDS[name](reaper, durable=True)) for name in names if name != "sqlite"]
        servers += [(_shown(url), SCHEMES[DatabaseURL.parse(url).scheme](reaper, url)) for url in urls]
        for _, server in servers:
            server.open()
        files = [FilePlace()] if "sqlite" in names else []
        yield [*files, *(ServerPlace(name, server) for name, server in servers)]


def _shown(url: str) -> str:
    at = urlsplit(url)
    return f"{at.scheme}://{at.netloc.rpartition('@')[2]}"
