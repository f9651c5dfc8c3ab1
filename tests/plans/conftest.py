"""The plan tests: what each database does for a backend's statements when there are millions of jobs.

    nox -s plans                                       a million waiting and a million completed jobs
    nox -s plans -- --rows 100000 --databases sqlite

`large` is a database with that many, `small` one with a two-hundredth of it; both are filled once,
and worked on by all tests. `see` makes the same call in both, and tells what it took.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

from sidequest.backends import BACKENDS
from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.jobs.queue import QueueRecord
from tests.plans.place import Place
from tests.plans.plan import Seen
from tests.plans.stock import ENGINES, NOW, QUEUES, SMALL_QUEUE, YOUNG_ENGINE, Stock
from tests.servers.plugin import SERVERS, database_of

PLACES = {
    "sqlite": "tests.plans.on_sqlite:SqlitePlace",
    "postgres": "tests.plans.on_postgres:PostgresPlace",
    "mariadb": "tests.plans.on_mysql:MysqlPlace",
    "mysql": "tests.plans.on_mysql:MysqlPlace",
    "mongodb": "tests.plans.on_mongo:MongoPlace",
}
"""A standalone MongoDB plans as a replica set does."""
MILLION = 1_000_000
SMALL = 5_000
TIMEOUT = 900.0
"""Seconds for a test, with the fill of the databases that it may be the first to ask for."""

TABLE = pytest.StashKey[dict[str, list[str]]]()
NewUrl = Callable[[], str]
Open = Callable[[int], Awaitable[Place]]
Call = Callable[[Place], Awaitable[object]]
See = Callable[[Call], Awaitable[Seen]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=int, default=MILLION, help="waiting jobs, and as many completed ones (default: a million)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = {}
    config.addinivalue_line("markers", "only(name): the one database that has what the test is about")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if (mark := item.get_closest_marker("only")) is None or database_of(item) in mark.args]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash[TABLE].items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", params=PLACES)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--rows", MILLION))


@pytest.fixture(scope="session")
def new_url(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewUrl]:
    """Makes an empty database; all are dropped in the end."""
    if database == "sqlite":
        folder = tmp_path_factory.mktemp("plans")
        yield lambda: f"sqlite:///{folder}/{len(list(folder.glob('*.db')))}.db"
        for file in folder.iterdir():  # pytest keeps the folders of three sessions, and a million jobs are half a gigabyte
            file.unlink()
        return
    server = request.config.stash[SERVERS].get(database)
    made: list[str] = []

    def new() -> str:
        made.append(server.create_database())
        return made[-1]

    yield new
    for url in made:
        server.drop_database(url)


@pytest.fixture(scope="session")
async def open_place(database: str, new_url: NewUrl) -> AsyncIterator[Open]:
    """Opens a new database, for so many waiting jobs; it has its tables, and no jobs yet."""
    opened: list[Place] = []

    async def open_place(rows: int) -> Place:
        url = DatabaseURL.parse(new_url())
        driver = BACKENDS[url.scheme]
        backend: Backend = getattr(import_module(driver.module), driver.backend)(url, "engine", clock=lambda: NOW)
        place: Place = resolve_name(PLACES[database])(backend, Stock(rows))
        opened.append(place)
        await backend.open()
        await backend.migrate()
        await backend.save_queues(QueueRecord(name) for name in (*QUEUES, SMALL_QUEUE))
        for engine in (*ENGINES, YOUNG_ENGINE):
            await backend.register_engine(engine, "host", 1, "1.0", "*")
        return place

    yield open_place
    for place in opened:
        await place.close()


@pytest.fixture(scope="session")
async def small(open_place: Open, rows: int) -> Place:
    return await _filled(open_place, SMALL)


@pytest.fixture(scope="session")
async def large(open_place: Open, rows: int) -> Place:
    return await _filled(open_place, rows)


async def _filled(open_place: Open, rows: int) -> Place:
    place = await open_place(rows)
    await place.fill()
    await place.settle()
    return place


@pytest.fixture
def see(small: Place, large: Place) -> See:
    """Makes the call in both databases; its answer and plans."""

    async def see(call: Call) -> Seen:
        async with small.watch() as few:
            await call(small)
        async with large.watch() as plans:
            answer = await call(large)
        return Seen(answer, plans, sum(plan.cost for plan in few))

    return see


@pytest.fixture
def table(request: pytest.FixtureRequest, small: Place, large: Place) -> Callable[[str], None]:
    """Adds a line to what is shown of this database at the end of the session."""
    title = f"{small.stock.total:,} and {large.stock.total:,} jobs, {request.getfixturevalue('database')}"
    return request.config.stash[TABLE].setdefault(title, []).append
