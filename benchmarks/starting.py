"""How soon there is somebody to run jobs: at the start of an app, of a worker, and after a worker's death."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import jobs
from benchmarks.figures import Figures
from benchmarks.machine import own_memory
from sidequest import Sidequest
from sidequest.engine import forkserver
from sidequest.engine.worker_process import WorkerProcess
from sidequest.jobs.job import JobDef
from sidequest.wire.frames import Kind

GREETING: dict[str, Any] = {
    "modules": ["benchmarks.jobs"], "path": sys.path, "script": None, "log_level": "WARNING", "job_defaults": {}, "shunned": {},
}  # fmt: skip
AT_ONCE = 4


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


async def recovery(url: str) -> Figures:
    """From the moment in which a job ends its worker until the first line of the job that waits for the next one."""
    async with Sidequest(url, max_workers=1) as sq:
        return {
            "next_job_started_s": [await _next_start(sq, jobs.ends_its_worker)],
            "next_job_started_when_a_child_holds_the_channel_s": [await _next_start(sq, jobs.ends_its_worker_leaving_a_child)],
        }


async def _next_start(sq: Sidequest, crash: JobDef[[str], None]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "when"
        doomed = await sq.enqueue(crash.call(str(note)))
        following = await sq.enqueue(jobs.started_at.call())
        started = await following.result()
        await doomed.wait()
        return (started - int(note.read_text())) / 1e9


async def workers(_: str) -> Figures:
    """From the decision to start a worker until its hello: forked and spawned, alone and four at once; and its memory."""
    found: dict[str, list[float]] = {}
    for birth, forks in (("forked", True), ("spawned", False)):
        with patch.object(forkserver, "forks", lambda forks=forks: forks):
            async with _worker():  # what the first one has to bring with it is not the others' affair
                pass
            async with _worker() as (worker, took):
                found[f"{birth}_hello_s"] = [took]
                found[f"{birth}_memory_mb"] = [own_memory(worker.pid) / 1e6]
            began = time.perf_counter()
            async with AsyncExitStack() as stack:
                await asyncio.gather(*(stack.enter_async_context(_worker()) for _ in range(AT_ONCE)))
                found[f"{birth}_{AT_ONCE}_at_once_s"] = [time.perf_counter() - began]
    return found


@asynccontextmanager
async def _worker() -> Any:
    """A worker that has said hello, and after how many seconds; killed in the end."""
    worker, hello = WorkerProcess(), asyncio.Event()
    heard: Callable[[Kind, bytes], None] = lambda kind, _: hello.set() if kind is Kind.HELLO else None  # noqa: E731
    began = time.perf_counter()
    running = asyncio.create_task(worker.run(GREETING, heard, lambda _: None))
    await hello.wait()
    yield worker, time.perf_counter() - began
    await worker.kill(0)
    await running
