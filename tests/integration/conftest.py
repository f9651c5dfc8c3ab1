"""Real engine and worker processes on a real database; nothing may be left of them after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from sidequest import Sidequest
from sidequest.jobs.definition import registry
from tests.integration.waiting import MARK, eventually, marked_processes

JOBS = "tests.integration.sample_jobs"


class StartSidequest(Protocol):
    async def __call__(self, **settings: Any) -> Sidequest: ...


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture(autouse=True)
def only_the_sample_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the modules of all jobs that the app knows: here, not those of other tests."""
    import tests.integration.sample_jobs

    assert tests.integration.sample_jobs
    known = registry._jobs
    monkeypatch.setattr(registry, "_jobs", {name: job for name, job in known.items() if job.module == JOBS})


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
