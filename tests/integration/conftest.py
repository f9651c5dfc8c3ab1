"""Real engine and worker processes on a real database; nothing may be left of them after a test.

A test with a `url` runs on every database. A file whose tests would prove nothing more there is
marked `database("sqlite")`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from sidequest import Sidequest
from sidequest.jobs.definition import registry
from tests.integration.place import Place
from tests.integration.waiting import MARK, eventually, marked_processes
from tests.servers.plugin import DATABASES

JOBS = "tests.integration.sample_jobs"
# what a standalone MongoDB lacks is the backend's business alone: the conformance suite covers it
EVERYWHERE = [name for name in DATABASES if name != "mongodb-standalone"]


class StartSidequest(Protocol):
    async def __call__(self, **settings: Any) -> Sidequest: ...


@pytest.fixture(params=EVERYWHERE)
def database(request: pytest.FixtureRequest) -> str:
    """The name of the database that this test runs on."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def only_the_sample_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the modules of all jobs that the app knows: here, not those of other tests."""
    import tests.integration.sample_jobs

    assert tests.integration.sample_jobs
    known = registry._jobs
    monkeypatch.setattr(registry, "_jobs", {name: job for name, job in known.items() if job.module == JOBS})


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's runtime directory: with a short name, because a socket's path must not be long."""
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the environment of every process that this test starts."""
    word = uuid4().hex
    monkeypatch.setenv(MARK, word)
    return word


@pytest.fixture(autouse=True)
async def nothing_left_behind(mark: str) -> AsyncIterator[None]:
    yield
    await eventually(lambda: not marked_processes(mark), within=10)


@pytest.fixture
def place(tmp_path: Path, mark: str) -> Iterator[Place]:
    made = Place(tmp_path, mark)
    yield made
    made.reap()


@pytest.fixture
async def start(url: str, mark: str, nothing_left_behind: None) -> AsyncIterator[StartSidequest]:
    """Start a Sidequest with these settings; stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start_one(**settings: Any) -> Sidequest:
            return await stack.enter_async_context(Sidequest(url, **settings))

        yield start_one


@pytest.fixture
async def sq(start: StartSidequest) -> Sidequest:
    """A running Sidequest with an engine process and enough workers for all kinds of trouble."""
    return await start(max_workers=4, kill_grace=0.5)
