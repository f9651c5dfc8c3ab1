"""oban's app."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers import bodies

CHUNK = 5_000
"""Jobs in one of its inserts."""


def _worker(kind: str, body: Any) -> Any:
    async def process(self: Any, job: Any) -> None:
        await body(job.args["job"])

    return worker(queue="default")(type(kind, (), {"process": process, "__module__": __name__}))


WORKERS: dict[str, Any] = {kind: _worker(kind, body) for kind, body in bodies.ASYNC.items()}


@asynccontextmanager
async def opened(size: int) -> AsyncGenerator[AsyncConnectionPool, None]:
    async with AsyncConnectionPool(os.environ["BENCH_URL"], min_size=size, max_size=size, open=False) as pool:
        yield pool


async def prepare() -> None:
    async with opened(1) as pool:
        await install(pool)


class Client:
    def __init__(self, oban: Oban) -> None:
        self._oban = oban

    async def enqueue(self, kind: str, number: int) -> None:
        await self._oban.enqueue(WORKERS[kind].new({"job": number}))

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        new = WORKERS[kind].new
        for begin in range(0, len(numbers), CHUNK):
            await self._oban.enqueue_many([new({"job": number}) for number in numbers[begin : begin + CHUNK]])


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    async with opened(callers + 1) as pool, Oban(pool=pool) as oban:
        yield Client(oban)
