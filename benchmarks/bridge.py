"""Engine → worker → engine without a database: the upper limit of the lanes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.figures import Figures
from sidequest.config import Settings
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held, Lane
from sidequest.engine.lanes import Lanes
from sidequest.engine.worker_process import WorkerProcess
from sidequest.jobs.job import JobDef
from sidequest.jobs.outcome import Outcome
from sidequest.jobs.record import ClaimedJob

CLAIM = 250
"""Jobs that are in flight at once."""


async def bridge(definition: JobDef[[], Any], count: int) -> Figures:
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
    return {"jobs_per_s": [count / took], "engine_cpu_us_per_job": [cpu / count * 1e6]}


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
