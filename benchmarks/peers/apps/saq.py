"""SAQ's app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue

from benchmarks.peers import bodies

URL = os.environ["BENCH_URL"]
AT_ONCE = 32


def _async(body: Any) -> Any:
    async def run(ctx: Any, *, number: int) -> None:
        await body(number)

    return run


def _sync(body: Any) -> Any:
    def run(ctx: Any, *, number: int) -> None:
        body(number)

    return run


FUNCTIONS = [(kind, _async(body)) for kind, body in bodies.ASYNC.items()]
FUNCTIONS += [(kind, _sync(body)) for kind, body in bodies.SYNC.items()]

settings = {
    "queue": Queue.from_url(URL),
    "functions": FUNCTIONS,
    "concurrency": int(os.environ["BENCH_CONCURRENCY"]),
}
"""What its command line is pointed at."""


async def prepare() -> None:
    async with connect(1):
        """PostgreSQL's tables are made by the first who connects."""


class Client:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def enqueue(self, kind: str, number: int) -> None:
        await self._queue.enqueue(kind, number=number)

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        left = iter(numbers)

        async def some() -> None:
            for number in left:
                await self._queue.enqueue(kind, number=number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    queue = Queue.from_url(URL)
    await queue.connect()
    yield Client(queue)
    await queue.disconnect()
