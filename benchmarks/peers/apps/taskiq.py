"""taskiq's app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from taskiq_redis import RedisStreamBroker

from benchmarks.peers import bodies

AT_ONCE = 32

broker = RedisStreamBroker(url=os.environ["BENCH_URL"])
"""What its command line is pointed at."""
TASKS: dict[str, Any] = {kind: broker.task(task_name=kind)(body) for kind, body in {**bodies.ASYNC, **bodies.SYNC}.items()}
for kind in bodies.SYNC:
    globals()[kind] = TASKS[kind]  # a pool of processes finds them by the name of the module


async def prepare() -> None:
    """The consumer group: it gets nothing that is older than itself."""
    await broker.startup()
    await broker.shutdown()


class Client:
    async def enqueue(self, kind: str, number: int) -> None:
        await TASKS[kind].kiq(number)

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        left = iter(numbers)

        async def some() -> None:
            for number in left:
                await TASKS[kind].kiq(number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    await broker.startup()
    yield Client()
    await broker.shutdown()
