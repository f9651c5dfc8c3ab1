"""CLI. What `sidequest bench` measures, each for a few seconds at most, by the ways that an app has.

Everything is bounded in time and in number: a database that is slow, or that hangs, ends a measurement
early or fails it, and never holds it up for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sidequest.app.sidequest import Sidequest
from sidequest.backends.base import Backend
from sidequest.cli import bench_jobs, connection
from sidequest.cli.bench_figures import Figures, rate, spread
from sidequest.cli.failures import Failed
from sidequest.clock import monotonic
from sidequest.jobs.client import JobHandle
from sidequest.jobs.job import JobDef
from sidequest.jobs.states import State

CLIENTS = 32
BATCH = 1_000
"""Jobs in one `enqueue_many`."""
PINGS = 2_000
STARTS = 500
START_UPS = 3
PAUSE = 0.005
"""Seconds between two jobs at low load: the engine has come to rest."""
REST = 0.1
"""Seconds after which an engine looks at its queues as soon as it is woken."""
WARM_UP = 200
PATIENCE = 30.0
"""Seconds in which a job must end that nothing stands before."""
OWN_SETTINGS: Mapping[str, Any] = {"migrate": False, "queues": ["*"], "modules": [], "spool": None}
"""All others are as the environment has them: measured is what an app of this environment would get."""


class Site(NamedTuple):
    """Where measurements are taken, and how much."""

    url: str
    store: Backend
    jobs: int
    """At most so many jobs in one measurement."""
    seconds: float
    """For so long, about."""

    def sidequest(self, engine: str) -> Sidequest:
        return connection.make(self.url, engine=engine, **OWN_SETTINGS)


async def round_trip(site: Site) -> Figures:
    """A statement that asks for nothing, one after the other."""
    for _ in range(10):
        await site.store.ping()
    took: list[float] = []
    deadline = monotonic() + site.seconds
    while len(took) < PINGS and monotonic() < deadline:
        took.append(await _timed(site.store.ping))
    return spread(took)


async def enqueue(site: Site, clients: int) -> Figures:
    """Single enqueues, one after the other by each client; no engine runs."""
    async with site.sidequest("off") as sq:
        queue = f"enqueue-{clients}"
        await sq.queues.create(queue, paused=True)
        call = bench_jobs.async_noop.options(queue=queue).call()
        for _ in range(clients):
            await sq.enqueue(call)
        took: list[float] = []
        began = monotonic()

        async def client(share: int) -> None:
            for _ in range(share):
                if monotonic() - began > site.seconds:
                    break
                took.append(await _timed(lambda: sq.enqueue(call)))

        await asyncio.gather(*(client(max(1, site.jobs // clients)) for _ in range(clients)))
        return {**spread(took), **rate(len(took), monotonic() - began)}


async def enqueue_many(site: Site) -> Figures:
    async with site.sidequest("off") as sq:
        await sq.queues.create("enqueue-many", paused=True)
        began = monotonic()
        stored = await _fill(sq, "enqueue-many", bench_jobs.async_noop, site)
        return rate(stored, monotonic() - began)


async def drain(site: Site, queue: str, definition: JobDef[[], Any]) -> Figures:
    """Jobs that do nothing, all of them queued before, through an engine that is warm."""
    async with site.sidequest("process") as sq:
        warm_up = await sq.enqueue_many([definition.options(queue="warm-up").call()] * WARM_UP)
        await _within(PATIENCE, *(handle.wait() for handle in warm_up))
        await sq.queues.create(queue, paused=True)
        stored = await _fill(sq, queue, definition, site)
        last = await sq.enqueue(definition.options(queue=queue, priority=-1).call())
        await asyncio.sleep(REST)
        began = monotonic()
        await sq.queues.resume(queue)
        try:
            await last.wait(timeout=3 * site.seconds)
        except TimeoutError:
            took = monotonic() - began
            ended = (await sq.jobs.count(queue=queue))[State.COMPLETED]
            await sq.queues.purge(queue)
            return rate(ended, took)
        return rate(stored + 1, monotonic() - began)


async def start_latency(site: Site) -> Figures:
    """From the moment at which `enqueue` returns until the job's first line, one job at a time; 0 when it was there first."""
    async with site.sidequest("process") as sq:
        await _started(await sq.enqueue(bench_jobs.started_at.call()))
        took: list[float] = []
        deadline = monotonic() + site.seconds
        while len(took) < min(STARTS, site.jobs) and (not took or monotonic() < deadline):
            await asyncio.sleep(PAUSE)
            handle = await sq.enqueue(bench_jobs.started_at.call())
            returned = time.monotonic_ns()
            took.append(max(0, await _started(handle) - returned) / 1e9)
        return spread(took)


async def start_up(site: Site) -> Figures:
    """From `async with` until the engine is ready, and until the first line of the first job; the best of a few."""
    ready: list[float] = []
    first: list[float] = []
    deadline = monotonic() + site.seconds
    while len(ready) < START_UPS and (not ready or monotonic() < deadline):
        began = time.monotonic_ns()
        async with site.sidequest("process") as sq:
            ready.append((time.monotonic_ns() - began) / 1e9)
            first.append((await _started(await sq.enqueue(bench_jobs.started_at.call())) - began) / 1e9)
    return {"ready_ms": min(ready) * 1e3, "first_job_ms": min(first) * 1e3, "count": len(ready)}


RUNS: Mapping[str, Callable[[Site], Awaitable[Figures]]] = {
    "round-trip": round_trip,
    "enqueue": lambda site: enqueue(site, 1),
    "enqueue-32": lambda site: enqueue(site, CLIENTS),
    "enqueue-many": enqueue_many,
    "drain-async": lambda site: drain(site, "drain-async", bench_jobs.async_noop),
    "drain-sync": lambda site: drain(site, "drain-sync", bench_jobs.sync_noop),
    "start-latency": start_latency,
    "start-up": start_up,
}
"""By the names that `bench_figures.TITLES` has."""


async def _fill(sq: Sidequest, queue: str, definition: JobDef[[], Any], site: Site) -> int:
    """Store jobs in batches, as many as there may be or as the time allows; how many."""
    call = definition.options(queue=queue).call()
    stored, deadline = 0, monotonic() + site.seconds
    while stored < site.jobs and (not stored or monotonic() < deadline):
        stored += len(await sq.enqueue_many([call] * min(BATCH, site.jobs - stored)))
    return stored


async def _timed(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


async def _started(handle: JobHandle[int]) -> int:
    when: int
    (when,) = await _within(PATIENCE, handle.result())
    return when


async def _within(seconds: float, *waits: Awaitable[Any]) -> Sequence[Any]:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.gather(*waits)
    except TimeoutError:
        raise Failed(f"a job that does nothing has not ended within {seconds:g} s; the log above may say why") from None
