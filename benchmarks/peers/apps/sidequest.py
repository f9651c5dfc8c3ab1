"""Sidequest's app."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks import history
from benchmarks.peers import bodies, marks
from benchmarks.peers.client import pace
from benchmarks.prototypes import make_prototype
from sidequest import Sidequest, job
from sidequest.backends import make_backend
from sidequest.config import QueueSettings
from sidequest.jobs.job import JobDef

JOBS: dict[str, JobDef[[int], None]] = {
    kind: job(name=kind)(body)
    for kind, body in {**bodies.ASYNC, **bodies.SYNC}.items()  # type: ignore[arg-type]
}
MODULE = "benchmarks.peers.apps.sidequest"
"""What workers import: the functions themselves are from another module."""
REST = 1.0
"""Seconds after the first job, for the workers to come to rest."""
WEEK = 7 * 24 * 3600
LATER = 5_000
"""Future jobs that are stored at a time."""


def app() -> Sidequest:
    """The first enqueue creates the queue with the concurrency of this mode."""
    concurrency = os.environ.get("BENCH_CONCURRENCY")
    defaults: QueueSettings = {"concurrency": int(concurrency)} if concurrency else {}
    return Sidequest(os.environ["BENCH_URL"], engine="off", queue_defaults=defaults)


async def prepare() -> None:
    """The tables."""
    async with app():
        pass


class Client:
    def __init__(self, sq: Sidequest) -> None:
        self._sq = sq

    async def enqueue(self, kind: str, number: int) -> None:
        await self._sq.enqueue(JOBS[kind].call(number))

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        definition = JOBS[kind]
        await self._sq.enqueue_many([definition.call(number) for number in numbers])


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    async with app() as sq:
        yield Client(sq)


async def start_up() -> float:
    """Seconds from `async with` in an app, engine included, to the first line of its first job."""
    skip = marks.count(os.environ[marks.VARIABLE])
    began = time.monotonic_ns()
    async with Sidequest(os.environ["BENCH_URL"], modules=[MODULE]) as sq:
        await (await sq.enqueue(JOBS["noop"].call(0))).wait()
    [mark] = marks.read(os.environ[marks.VARIABLE], skip)
    return (mark.began - began) / 1e9


async def paced_in_app(kind: str, first: str, count: str, pause: str) -> Sequence[tuple[int, int, int]]:
    """As `paced` of any client, by an app that has its engine with it."""
    file = os.environ[marks.VARIABLE]
    ready = marks.count(file) + 1
    async with Sidequest(os.environ["BENCH_URL"], modules=[MODULE]) as sq:
        await (await sq.enqueue(JOBS[kind].call(-1))).wait()
        await asyncio.sleep(REST)
        calls = await pace(Client(sq), kind, range(int(first), int(first) + int(count)), float(pause))
        while marks.count(file) < ready + len(calls):  # noqa: ASYNC110 - a file; and the harness does not wait for ever
            await asyncio.sleep(0.01)
        return calls


async def past(finished: str, later: str) -> None:
    """A database that has run so many jobs, and has so many that are due in a week."""
    url = os.environ["BENCH_URL"]
    backend, prototype = make_backend(url, "engine"), make_prototype(url)
    await backend.open()
    await history.insert(backend, int(finished))
    await history.run_all(backend)
    await backend.close()
    async with app() as sq:
        for begin in range(0, int(later), LATER):
            calls = [JOBS["noop"].options(delay=WEEK + n).call(n) for n in range(min(LATER, int(later) - begin))]
            await sq.enqueue_many(calls)
    await prototype.connect()
    await prototype.take_stock("sidequest_jobs")
    await prototype.close()
