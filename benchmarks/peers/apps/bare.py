"""The prototypes as an app that enqueues."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from benchmarks.prototypes import make_prototype
from benchmarks.prototypes.store import Prototype
from benchmarks.versus import claim_and_end

URL = os.environ["BENCH_URL"]
SHARED = ("sqlite", "mongodb")
CHUNK = 5_000
ROWS, BATCH = 50_000, 500


async def prepare() -> None:
    prototype = make_prototype(URL)
    await prototype.open()
    await prototype.close()


class Client:
    def __init__(self, prototypes: Sequence[Prototype], shared: bool) -> None:
        self._free: asyncio.Queue[Prototype] = asyncio.Queue()
        for prototype in prototypes:
            self._free.put_nowait(prototype)
        self._shared = prototypes[0] if shared else None

    async def enqueue(self, kind: str, number: int) -> None:
        if self._shared is not None:
            await self._shared.insert(1)
            return
        prototype = self._free.get_nowait()
        await prototype.insert(1)
        self._free.put_nowait(prototype)

    async def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        prototype = self._shared or self._free.get_nowait()
        for begin in range(0, len(numbers), CHUNK):
            await prototype.insert(min(CHUNK, len(numbers) - begin))


@asynccontextmanager
async def connect(callers: int) -> AsyncGenerator[Client, None]:
    shared = URL.startswith(SHARED)
    prototypes = [make_prototype(URL) for _ in range(1 if shared else callers)]
    for prototype in prototypes:
        await prototype.connect()
    yield Client(prototypes, shared)
    for prototype in prototypes:
        await prototype.close()


async def pipeline() -> float:
    """Jobs claimed and ended per second, without anything around it."""
    prototype = make_prototype(URL)
    await prototype.connect()
    await prototype.fill(ROWS)
    await prototype.take_stock("bench_prototype")
    await claim_and_end(prototype, BATCH, 2 * BATCH)
    speed = await claim_and_end(prototype, BATCH, ROWS - 4 * BATCH)
    await prototype.close()
    return speed
