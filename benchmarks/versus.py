"""The product against the prototype: the same work on the same server, taking turns.

Both have a table of finished jobs and as many waiting ones, of random queues and priorities. Ratios
are of neighbouring turns, in percent: 100 is the prototype's speed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

from benchmarks.figures import Figures
from benchmarks.product import Product
from benchmarks.prototypes import make_prototype
from benchmarks.prototypes.store import QUEUES, TABLE, JobStore

BATCHES = (200, 500)
AHEAD = 2
"""Batches that may be claimed and not yet ended."""
TURNS = 3
"""Turns in a round: many short ones, because others may be busy on this machine."""
LONGEST_TURN = 4.0
"""Seconds."""
SINGLES = 200
"""Jobs that are claimed, ended and inserted one at a time in a round."""
MANY = ((100, 20), (1_000, 5))
"""Jobs in an insert, and inserts in a turn."""


class Rivals(NamedTuple):
    prototype: JobStore
    product: JobStore


@asynccontextmanager
async def rivals(url: str, rows: int) -> AsyncGenerator[Rivals, None]:
    """Both, with their tables filled."""
    prototype, product = make_prototype(url), Product(url)
    try:
        for store, table in ((prototype, TABLE), (product, "sidequest_jobs")):
            await store.open()
            await store.fill(rows)
            await prototype.take_stock(table)
        yield Rivals(prototype, product)
    finally:
        await product.close()
        await prototype.close()


async def pipeline(url: str, rows: int, rounds: int) -> Figures:
    """Claims, and ends beside them on another connection; jobs per second."""
    turn = rows // (rounds * TURNS * len(BATCHES) + 1)
    figures: dict[str, list[float]] = {}
    async with rivals(url, rows) as both:
        for store in both:
            await claim_and_end(store, BATCHES[0], 2 * BATCHES[0])  # statements are prepared, pages are in memory
        for _ in range(rounds * TURNS):
            for batch in BATCHES:
                await _compare(figures, f"by_{batch}", both, lambda store, batch=batch: claim_and_end(store, batch, turn))
    return figures


async def claim_and_end(store: JobStore, batch: int, count: int) -> float:
    """Jobs per second; it is over after `count` of them, or after `LONGEST_TURN`."""
    claimed: asyncio.Queue[Sequence[Any]] = asyncio.Queue(AHEAD - 1)
    deadline = time.perf_counter() + LONGEST_TURN
    done = 0

    async def claim() -> None:
        left = count
        for queue in cycle(QUEUES):
            jobs = await store.claim(queue, batch) if left > 0 and time.perf_counter() < deadline else ()
            await claimed.put(jobs)
            if not jobs:
                return
            left -= len(jobs)

    async def end() -> None:
        nonlocal done
        while jobs := await claimed.get():
            ended = await store.end(jobs)
            assert ended == len(jobs), "nobody else is here: every fence must hold"
            done += ended

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(claim())
        tasks.create_task(end())
    return done / (time.perf_counter() - began)


async def one_at_a_time(url: str, rows: int, rounds: int) -> Figures:
    """A claim of one job, its end, and an insert of one, in turns of one call; milliseconds."""
    figures: dict[str, list[float]] = {}
    async with rivals(url, rows) as both:
        for _ in range(rounds):
            took = [await _singles(both) for _ in range(SINGLES)]
            for what in ("claim", "end", "insert"):
                theirs, ours = (median(rival[what] for rival in rivals_) for rivals_ in zip(*took, strict=True))
                _note(figures, what, "ms", theirs, ours)
    return figures


async def _singles(both: Rivals) -> tuple[Mapping[str, float], ...]:
    """How long each of them took for each of the three."""
    took: tuple[dict[str, float], ...] = ({}, {})
    claimed: list[Sequence[Any]] = []
    for store, mine in zip(both, took, strict=True):
        with _timed(mine, "claim"):
            claimed.append(await store.claim(QUEUES[0], 1))
    for store, mine, jobs in zip(both, took, claimed, strict=True):
        with _timed(mine, "end"):
            await store.end(jobs)
    for store, mine in zip(both, took, strict=True):
        with _timed(mine, "insert"):
            await store.insert(1)
    return took


async def inserts(url: str, rounds: int) -> Figures:
    """Jobs stored per second, many in one call."""
    figures: dict[str, list[float]] = {}
    async with rivals(url, rows=1_000) as both:
        for _ in range(rounds * TURNS):
            for many, times in MANY:

                async def insert(store: JobStore, many: int = many, times: int = times) -> float:
                    began = time.perf_counter()
                    for _ in range(times):
                        await store.insert(many)
                    return many * times / (time.perf_counter() - began)

                await _compare(figures, f"of_{many}", both, insert)
    return figures


async def _compare(
    figures: dict[str, list[float]], what: str, both: Rivals, speed: Callable[[JobStore], Awaitable[float]]
) -> None:
    """One turn each."""
    theirs, ours = await speed(both.prototype), await speed(both.product)
    _note(figures, what, "per_s", theirs, ours)


def _note(figures: dict[str, list[float]], what: str, unit: str, theirs: float, ours: float) -> None:
    """The ratio is of speeds, whatever the unit."""
    ratio = theirs / ours if unit == "ms" else ours / theirs
    found = {f"{what}_ratio_percent": 100 * ratio, f"{what}_prototype_{unit}": theirs, f"{what}_product_{unit}": ours}
    for name, value in found.items():
        figures.setdefault(name, []).append(value)


@contextmanager
def _timed(figures: dict[str, float], what: str) -> Generator[None]:
    began = time.perf_counter()
    yield
    figures[what] = (time.perf_counter() - began) * 1000
