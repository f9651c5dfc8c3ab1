"""Sidequest's app."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers import bodies
from sidequest import Sidequest, job
from sidequest.config import QueueSettings
from sidequest.jobs.job import JobDef

JOBS: dict[str, JobDef[[int], None]] = {
    kind: job(name=kind)(body) for kind, body in {**bodies.ASYNC, **bodies.SYNC}.items()  # type: ignore[arg-type]
}


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
