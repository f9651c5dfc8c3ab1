"""The pytest plugin: on which databases the tests run, and an empty one for each test.

A test that asks for `url` has a database of its own, and runs once on each name that the fixture
`database` has; a suite or a module may define that anew. A test that is about one database without
asking for a `url` is marked `database(name)`. `--databases sqlite,postgres` leaves out the others.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.servers.mongodb import MongoDB, MongoDBStandalone
from tests.servers.mysql import MariaDB, MySQL
from tests.servers.postgres import Postgres
from tests.servers.process import Reaper
from tests.servers.server import NotOurs, Server, ServerFailed, Unavailable

KINDS: Sequence[type[Server]] = (Postgres, MariaDB, MySQL, MongoDB, MongoDBStandalone)
DATABASES = ("sqlite", *(kind.name for kind in KINDS))
VARIABLE = "SIDEQUEST_TEST_DATABASES"


class Servers:
    """The servers of a test session, each one opened for the first test that needs it."""

    def __init__(self) -> None:
        self._opened: dict[str, Server | Unavailable | ServerFailed] = {}
        self._reaper: Reaper | None = None

    def get(self, name: str) -> Server:
        """The open server. Fails the test when it does not work; skips it when there is none here, but fails it in CI."""
        if name not in self._opened:
            self._opened[name] = self._open(name)
        match self._opened[name]:
            case Unavailable() as unavailable if os.environ.get("CI") != "true":
                pytest.skip(str(unavailable))
            case Unavailable() | ServerFailed() as error:
                pytest.fail(str(error), pytrace=False)
            case server:
                return server

    def _open(self, name: str) -> Server | Unavailable | ServerFailed:
        [kind] = [kind for kind in KINDS if kind.name == name]
        self._reaper = self._reaper or Reaper()
        server = kind(self._reaper)
        try:
            server.open()
        except (Unavailable, ServerFailed) as error:
            return error
        return server

    def close(self) -> None:
        if self._reaper is not None:
            self._reaper.close()


SERVERS = pytest.StashKey[Servers]()
CHOSEN = pytest.StashKey[frozenset[str]]()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """The name of the database that this test runs on."""
    name: str = request.param
    return name


@pytest.fixture
def server(database: str, request: pytest.FixtureRequest) -> Server:
    """The server that this test runs on, for tests that stop, kill or freeze it."""
    return request.config.stash[SERVERS].get(database)


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own."""
    if database == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    server = request.config.stash[SERVERS].get(database)
    created = server.create_database()
    yield created
    server.drop_database(created)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--databases",
        metavar="NAMES",
        help=f"run on these databases only, of {', '.join(DATABASES)} (default: {VARIABLE} in the environment, else all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--databases") or os.environ.get(VARIABLE) or ",".join(DATABASES)
    chosen = frozenset(name.strip() for name in given.split(",") if name.strip())
    if unknown := chosen - {*DATABASES}:
        raise pytest.UsageError(f"--databases: there is no {', '.join(sorted(unknown))}; there are {', '.join(DATABASES)}")
    config.stash[CHOSEN] = chosen
    config.stash[SERVERS] = Servers()
    config.addinivalue_line("markers", "database(name): the database that a test without a `url` runs on")


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.stash[CHOSEN]
    left_out = [item for item in items if database_of(item) not in (*chosen, None)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if database_of(item) in (*chosen, None)]
    if config.pluginmanager.has_plugin("xdist"):
        for item in items:
            if (name := database_of(item)) not in ("sqlite", None):
                # one worker has all tests of a server: it is started once, and may be stopped by a test
                item.add_marker(pytest.mark.xdist_group(name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        return (yield)
    except NotOurs as refused:
        pytest.skip(str(refused))


def database_of(item: pytest.Item) -> str | None:
    """The database that the test runs on; None when it needs none."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "database" in callspec.params:
        return str(callspec.params["database"])
    mark = item.get_closest_marker("database")
    return mark.args[0] if mark is not None else None
