"""procrastinate's app."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.peers import bodies

CHUNK = 1_000
"""Jobs in one of its batches."""


def make(**pool: int) -> App:
    made = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_URL"], **pool))
    for kind, body in {**bodies.ASYNC, **bodies.SYNC}.items():
        made.task(name=kind)(body)
    return made


app = make(**({"max_size": int(os.environ["BENCH_POOL"])} if "BENCH_POOL" in os.environ else {}))


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


class Client:
    def __init__(self, mine: App) -> None:
        self._tasks: dict[str, Any] = mine.tasks

    async def enqueue(self, kind: str, number: int) -> None:
        await self._tasks[kind].defer_async(job=number)

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        for begin in range(0, len(numbers), CHUNK):
            await self._tasks[kind].batch_defer_async(*({"job": number} for number in numbers[begin : begin + CHUNK]))


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    mine = make(min_size=1, max_size=max(callers, 2))
    async with mine.open_async():
        yield Client(mine)
