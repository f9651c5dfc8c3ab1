"""The chaos suite: faults on purpose, while jobs run, on real processes and real databases.

`sq` is a client without an engine; `host` starts hosts; `truth` is the log that the jobs write. A test
ends with the checker's report, which says in numbers what happened. `--chaos-scale 0.2` takes a fifth of
the jobs, kills and repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from sidequest import Sidequest
from sidequest.jobs.definition import registry
from sidequest.jobs.record import JobRecord
from tests.chaos.hosts import Host, kill_all
from tests.chaos.truth import VARIABLE, TruthLog
from tests.integration.waiting import MARK, eventually, marked_processes
from tests.servers.plugin import DATABASES

JOBS = "tests.chaos.chaos_jobs"
# what a standalone MongoDB lacks is the backend's business alone: the conformance suite covers it
EVERYWHERE = [name for name in DATABASES if name != "mongodb-standalone"]
QUICK: dict[str, Any] = {"heartbeat_interval": 0.5, "lease_life": 3, "rescue_interval": 0.5, "shutdown_timeout": 5}
"""Settings that make a lease's life short enough to wait for."""


class StartHost(Protocol):
    async def __call__(self, **settings: Any) -> Host: ...


class StartSidequest(Protocol):
    async def __call__(self, **settings: Any) -> Sidequest: ...


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """That many, or as many as `--chaos-scale` makes of it."""
    factor: float = request.config.getoption("--chaos-scale")
    return lambda count: max(1, round(count * factor))


@pytest.fixture(params=EVERYWHERE)
def database(request: pytest.FixtureRequest) -> str:
    """The name of the database that this test runs on."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def only_the_chaos_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the modules of all jobs that the app knows: here, not those of other tests."""
    import tests.chaos.chaos_jobs

    assert tests.chaos.chaos_jobs
    known = registry._jobs
    monkeypatch.setattr(registry, "_jobs", {name: job for name, job in known.items() if job.module == JOBS})


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the environment of every process that this test starts."""
    word = uuid4().hex
    monkeypatch.setenv(MARK, word)
    return word


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TruthLog:
    """The log of this test, named in the environment."""
    log = TruthLog(tmp_path / "truth")
    monkeypatch.setenv(VARIABLE, str(log.path))
    return log


@pytest.fixture(autouse=True)
async def nothing_left_behind(mark: str) -> AsyncIterator[None]:
    """Within ten seconds after a test nothing of what it started is there; what is there all the same is killed."""
    yield
    try:
        await eventually(lambda: not marked_processes(mark), within=10)
    finally:
        kill_all(marked_processes(mark))


@pytest.fixture
async def sq(url: str, truth: TruthLog, nothing_left_behind: None) -> AsyncIterator[Sidequest]:
    """A client without an engine, which makes the tables."""
    async with Sidequest(url, engine="off") as sq:
        yield sq


@pytest.fixture
async def host(sq: Sidequest, url: str, mark: str, truth: TruthLog, tmp_path: Path) -> AsyncIterator[StartHost]:
    """Start a host with these settings; it is ready, and dies with the test."""
    hosts: list[Host] = []

    async def start(**settings: Any) -> Host:
        where = settings.pop("url", url)
        one = Host(f"host{len(hosts)}", where, mark, tmp_path, truth.path, **{**QUICK, "migrate": False, **settings})
        hosts.append(one)
        one.start()
        await eventually(lambda: one.ready or one.exit_code is not None, within=30)
        return one

    yield start
    for one in hosts:
        one.die()


@pytest.fixture
async def start(url: str, truth: TruthLog, sq: Sidequest) -> AsyncIterator[StartSidequest]:
    """Start a Sidequest in this process, with leases so long that no rescue hides what it does; stopped after the test."""
    started: list[Sidequest] = []

    async def start_one(**settings: Any) -> Sidequest:
        one = Sidequest(url, **{"engine": "process", "shutdown_timeout": 5, "migrate": False, **settings})
        started.append(one)
        return await one.start()

    yield start_one
    for one in started:
        await one.stop()


async def all_records(sq: Sidequest) -> list[JobRecord]:
    """Every job there is."""
    found: list[JobRecord] = []
    before = None
    while page := await sq.jobs.list(limit=1_000, before=before):
        found += page
        before = page[-1].id
    return found


async def unfinished(sq: Sidequest) -> int:
    counts = await sq.jobs.count()
    return sum(count for state, count in counts.items() if state.value in ("waiting", "claimed", "running"))


async def all_ended(sq: Sidequest, within: float = 40.0) -> None:
    """Return when no job is unfinished."""

    async def none_left() -> bool:
        return not await unfinished(sq)

    await eventually(none_left, within)


def own_descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def settled(work: Awaitable[object], within: float) -> None:
    """Await it, but not for ever."""
    async with asyncio.timeout(within):
        await work
