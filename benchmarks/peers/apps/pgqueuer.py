"""pgqueuer's app."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer
import uvloop
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries

from benchmarks.peers import bodies

URL = os.environ["BENCH_URL"]


@asynccontextmanager
async def create() -> AsyncGenerator[PgQueuer, None]:
    """What it makes its worker from; one connection, as in its documentation."""
    connection = await asyncpg.connect(URL)
    try:
        queue = PgQueuer.from_asyncpg_connection(connection)
        for kind, body in bodies.ASYNC.items():

            async def run(job: Job, body=body) -> None:
                await body(int(job.payload or b"0"))

            queue.entrypoint(kind)(run)

        @queue.entrypoint("sync_noop")
        async def run_sync(job: Job) -> None:
            await asyncio.to_thread(bodies.sync_noop, int(job.payload or b"0"))

        yield queue
    finally:
        await connection.close()


async def prepare() -> None:
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


class Client:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def enqueue(self, kind: str, number: int) -> None:
        await self._queries.enqueue(kind, b"%d" % number)

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        many = len(numbers)
        await self._queries.enqueue([kind] * many, [b"%d" % number for number in numbers], [0] * many)


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    """A pool for many callers: its one-connection driver lets one call through at a time."""
    if callers == 1:
        connection = await asyncpg.connect(URL)
        yield Client(Queries(AsyncpgDriver(connection)))
        await connection.close()
        return
    async with asyncpg.create_pool(URL, min_size=callers, max_size=callers) as pool:
        yield Client(Queries(AsyncpgPoolDriver(pool)))


if __name__ == "__main__":
    logging.basicConfig(level=sys.argv[2])
    uvloop.run(pgqueuer.run(create, batch_size=int(sys.argv[1])))
