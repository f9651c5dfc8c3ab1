"""The whole way of a job, many of them: enqueued, claimed, run in a worker process, ended."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.figures import Figures
from benchmarks.machine import cpu_seconds, descendants, engine_pid
from sidequest import Sidequest
from sidequest.jobs.job import JobDef


async def drain(url: str, definition: JobDef[[], Any], count: int) -> Figures:
    """Jobs per second through a real engine with default settings, all of them queued before."""
    async with Sidequest(url, engine="off") as producer:
        began = time.perf_counter()
        await producer.enqueue_many([definition.call() for _ in range(count)])
        enqueued = time.perf_counter() - began
        [last] = await producer.enqueue_many([definition.options(priority=-1).call()])
        async with Sidequest(url) as sq:
            began = time.perf_counter()
            await sq.handle(last.id).wait()
            took = time.perf_counter() - began
            engine_cpu = cpu_seconds(engine_pid())
            workers_cpu = sum(cpu_seconds(pid) for pid in descendants(engine_pid()))
    return {
        "jobs_per_s": [count / took],
        "engine_cpu_us_per_job": [engine_cpu / count * 1e6],
        "workers_cpu_us_per_job": [workers_cpu / count * 1e6],
        "enqueue_many_per_s": [count / enqueued],
    }
