"""The whole way of a job, many of them: enqueued, claimed, run in a worker process, ended."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import jobs
from benchmarks.figures import Figures
from benchmarks.machine import children, cpu_seconds, engine_pid
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
            workers_cpu = sum(cpu_seconds(pid) for pid in children(engine_pid()))
    return {
        "jobs_per_s": [count / took],
        "engine_cpu_us_per_job": [engine_cpu / count * 1e6],
        "workers_cpu_us_per_job": [workers_cpu / count * 1e6],
        "enqueue_many_per_s": [count / enqueued],
    }


async def start_up(url: str) -> Figures:
    """From `async with` until the first job's first line, the tables being there already."""
    async with Sidequest(url, engine="off"):
        pass
    began = time.monotonic_ns()
    async with Sidequest(url) as sq:
        ready = time.monotonic_ns()
        started = await (await sq.enqueue(jobs.async_started_at.call())).result()
        stopping = time.monotonic_ns()
    return {
        "engine_ready_s": [(ready - began) / 1e9],
        "first_job_started_s": [(started - began) / 1e9],
        "stop_s": [(time.monotonic_ns() - stopping) / 1e9],
    }
