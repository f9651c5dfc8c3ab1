"""What is measured. Each workload returns figures by name; times in seconds unless the name says otherwise."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any
from uuid import uuid4

from benchmarks import jobs
from sidequest import Sidequest
from sidequest.backends import make_backend
from sidequest.clock import epoch_us, from_epoch_us
from sidequest.config import Settings
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held, Lane
from sidequest.engine.lanes import Lanes
from sidequest.engine.worker_process import WorkerProcess
from sidequest.jobs import transitions
from sidequest.jobs.job import JobDef
from sidequest.jobs.outcome import Completed, Outcome
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob

Figures = Mapping[str, float]
CLAIM = 250
_CHANCE = Random(1)


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
            engine_cpu = _cpu_seconds(_engine_pid())
            workers_cpu = sum(_cpu_seconds(pid) for pid in _children(_engine_pid()))
    return {
        "enqueue_many_per_s": count / enqueued,
        "jobs_per_s": count / took,
        "engine_cpu_us_per_job": engine_cpu / count * 1e6,
        "workers_cpu_us_per_job": workers_cpu / count * 1e6,
    }


async def latency(url: str, definition: JobDef[[], int], count: int) -> Figures:
    """From the moment `enqueue` returns until the job's first line, one job at a time."""
    enqueues: list[float] = []
    starts: list[float] = []
    results: list[float] = []
    async with Sidequest(url) as sq:
        await (await sq.enqueue(definition.call())).result()
        for _ in range(count):
            before = time.monotonic_ns()
            handle = await sq.enqueue(definition.call())
            returned = time.monotonic_ns()
            started = await handle.result()
            enqueues.append((returned - before) / 1e6)
            starts.append((started - returned) / 1e6)
            results.append((time.monotonic_ns() - returned) / 1e6)
            await asyncio.sleep(0.005)
    return {
        "enqueue_p50_ms": median(enqueues),
        "start_p50_ms": median(starts),
        "start_p99_ms": quantiles(starts, n=100)[98],
        "result_p50_ms": median(results),
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
        "engine_ready_s": (ready - began) / 1e9,
        "first_job_started_s": (started - began) / 1e9,
        "stop_s": (time.monotonic_ns() - stopping) / 1e9,
    }


async def bridge(definition: JobDef[[], Any], count: int) -> Figures:
    """Engine → worker → engine without a database: the upper limit of the lanes."""
    floor = _BenchFloor(count)
    errands = Errands()
    settings = Settings.collect("sqlite:///unused.db", {})
    greeting = {"modules": ["benchmarks.jobs"], "path": sys.path, "script": None, "log_level": "WARNING", "job_defaults": {}}
    lanes = Lanes(settings, floor, errands, WorkerProcess, greeting, lambda queue: 10)
    running = asyncio.create_task(errands.run())
    lanes.crew.warm_up()
    await floor.hello.wait()
    cpu = time.process_time()
    began = time.perf_counter()
    supply = _claimed_jobs(definition.name, count)

    def refill() -> None:
        free = CLAIM - len(lanes.held)
        if free > CLAIM // 2:
            lanes.accept([job for _, job in zip(range(free), supply, strict=False)])

    floor.on_room = refill
    refill()
    await floor.done.wait()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    lanes.stop_placing()
    lanes.crew.close_all()
    await lanes.crew.gone.wait()
    running.cancel()
    return {"jobs_per_s": count / took, "engine_cpu_us_per_job": cpu / count * 1e6}


async def store(url: str, count: int) -> Figures:
    """Claims and ends as one pipeline, without workers: the upper limit of the database."""
    backend = make_backend(url, role="engine")
    await backend.open()
    await backend.migrate()
    await backend.insert([NewJob("benchmarks.jobs:sync_noop") for _ in range(count)], QueueRecord("default"))
    engine, ended = uuid4().hex, 0
    began = time.perf_counter()
    while claimed := await backend.claim(engine, uuid4().hex, {"default": CLAIM}):
        now_us = epoch_us()
        await backend.apply([_completed(job, now_us) for job in claimed])
        ended += len(claimed)
    took = time.perf_counter() - began
    await backend.close()
    return {"jobs_per_s": ended / took}


def _completed(job: ClaimedJob, now_us: int) -> transitions.Change:
    now = from_epoch_us(now_us)
    return transitions.finish(job, Completed(None), now, now, _CHANCE)


def _claimed_jobs(name: str, count: int) -> Iterator[ClaimedJob]:
    for id in range(1, count + 1):
        yield ClaimedJob(id, "lease", name, "default", "{}", 1, 5, None, None, "fixed", 0, False, None, None, None, 0, 0, 0, 0)


class _BenchFloor:
    """Counts ends and asks for more."""

    def __init__(self, count: int) -> None:
        self.hello = asyncio.Event()
        self.done = asyncio.Event()
        self.on_room = lambda: None
        self._left = count

    def job_ended(self, held: Held, outcome: Outcome, started_us: int, finished_us: int) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()

    def job_running(self, held: Held) -> None:
        """Not measured here."""

    def job_progress(self, held: Held, text: str) -> None:
        """Not measured here."""

    def room_freed(self) -> None:
        self.hello.set()
        self.on_room()

    def workers_changed(self, pids: Sequence[int]) -> None:
        """Not measured here."""

    def worker_request(self, lane: Lane, request: dict[str, Any]) -> None:
        """No job here asks for anything."""


def _engine_pid() -> int:
    [pid] = [pid for pid in _children(os.getpid()) if b"sidequest.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
