"""chancy's app."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from chancy import Chancy, Job, Queue

from benchmarks.peers import bodies

URL = os.environ["BENCH_URL"]
TUNED = os.environ["BENCH_MODE"] == "tuned"
ASYNC_QUEUE, SYNC_QUEUE = ("async", "sync") if TUNED else ("default", "default")

chancy = Chancy(URL)
"""What its command line is pointed at."""


def queues() -> Sequence[Queue]:
    if not TUNED:
        return [Queue("default")]
    eager = {"eager_polling": True, "polling_interval": 1}
    return [
        Queue(ASYNC_QUEUE, executor=Chancy.Executor.Async, concurrency=100, **eager),
        Queue(SYNC_QUEUE, executor=Chancy.Executor.Process, concurrency=2, **eager),
    ]


def call(kind: str, number: int) -> Job:
    if kind in bodies.ASYNC:
        return Job.from_func(bodies.ASYNC[kind], kwargs={"job": number}, queue=ASYNC_QUEUE)
    return Job.from_func(bodies.SYNC[kind], kwargs={"job": number}, queue=SYNC_QUEUE)


async def prepare() -> None:
    async with Chancy(URL) as mine:
        await mine.migrate()
        for queue in queues():
            await mine.declare(queue)


class Client:
    def __init__(self, mine: Chancy) -> None:
        self._chancy = mine

    async def enqueue(self, kind: str, number: int) -> None:
        await self._chancy.push(call(kind, number))

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        async for _ in self._chancy.push_many([call(kind, number) for number in numbers]):
            pass


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    async with Chancy(URL, max_connection_pool_size=max(callers, 2)) as mine:
        yield Client(mine)
