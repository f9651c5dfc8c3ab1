"""How soon a job begins after it was enqueued: by the process that owns the engine, and by another one.

`python -m benchmarks.latency URL COUNT` is that other one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from statistics import median, quantiles

from benchmarks import jobs
from benchmarks.figures import Figures
from sidequest import Sidequest
from sidequest.jobs.job import JobDef

PAUSE = 0.005
"""Seconds between two jobs: the engine has come to rest."""


async def from_owner(url: str, definition: JobDef[[], int], count: int) -> Figures:
    async with Sidequest(url) as sq:
        return await _one_by_one(sq, definition, count)


async def from_another_process(url: str, count: int) -> Figures:
    async with Sidequest(url):
        visitor = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.latency", url, str(count), stdout=subprocess.PIPE
        )
        answer, _ = await visitor.communicate()
    assert visitor.returncode == 0, "the other process failed"
    figures: Figures = json.loads(answer)
    return figures


async def _one_by_one(sq: Sidequest, definition: JobDef[[], int], count: int) -> Figures:
    """From the moment `enqueue` returns until the job's first line, one job at a time."""
    enqueues: list[float] = []
    starts: list[float] = []
    results: list[float] = []
    await (await sq.enqueue(definition.call())).result()
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        before = time.monotonic_ns()
        handle = await sq.enqueue(definition.call())
        returned = time.monotonic_ns()
        started = await handle.result()
        enqueues.append((returned - before) / 1e6)
        starts.append((started - returned) / 1e6)
        results.append((time.monotonic_ns() - returned) / 1e6)
    return {
        "start_p50_ms": [median(starts)],
        "start_p99_ms": [quantiles(starts, n=100)[98]],
        "enqueue_p50_ms": [median(enqueues)],
        "result_p50_ms": [median(results)],
    }


async def visit(url: str, count: int) -> None:
    async with Sidequest(url, engine="off") as sq:
        print(json.dumps(await _one_by_one(sq, jobs.async_started_at, count)))


if __name__ == "__main__":
    asyncio.run(visit(sys.argv[1], int(sys.argv[2])))
