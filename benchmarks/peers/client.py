"""PEER. The app: prepares the database, enqueues, and prints as JSON what it measured.

`python -m benchmarks.peers.client SYSTEM TASK ARGUMENT…`, in the system's own environment.
`benchmarks.peers.apps.SYSTEM` has `prepare()`, and `connect(callers)`: a context manager (async, or
plain where the system knows no event loop) whose value has

- `enqueue(kind, job)`: returns when the job is stored
- `enqueue_many(kind, jobs)`: the system's own call for many, else the nearest that it has

The event loop is uvloop where it is installed, for every system.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

WARM = 5
"""Enqueues of each caller before they are counted: connections are open, statements are prepared."""
Call = tuple[int, int, int]
"""A job's number, and the instants before and after its enqueue, in nanoseconds."""


def main(system: str, task: str, *arguments: str) -> None:
    app = importlib.import_module(f"benchmarks.peers.apps.{system}")
    answer = TASKS[task](app, *arguments)
    if inspect.isawaitable(answer):
        answer = run(answer)
    print(json.dumps(answer))


def run(awaitable: Any) -> Any:
    async def work() -> Any:
        return await awaitable

    try:
        import uvloop  # noqa: PLC0415 - systems without event loops need none
    except ImportError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def prepare(app: Any) -> Any:
    return app.prepare()


def fill(app: Any, kind: str, first: str, count: str) -> Any:
    """Seconds that it took to enqueue that many jobs at once."""
    jobs = range(int(first), int(first) + int(count))
    return _fill(app, kind, jobs) if is_async(app) else _fill_sync(app, kind, jobs)


def mixed(app: Any, *parts: str) -> Any:
    """Enqueue KIND:FIRST:COUNT after KIND:FIRST:COUNT, in this order."""
    split = [part.split(":") for part in parts]
    runs = [(kind, range(int(first), int(first) + int(count))) for kind, first, count in split]
    return _mixed(app, runs) if is_async(app) else _mixed_sync(app, runs)


def singles(app: Any, kind: str, callers: str, seconds: str) -> Any:
    """Enqueues per second of so many callers, each waiting for its own before the next."""
    if is_async(app):
        return _singles(app, kind, int(callers), float(seconds))
    return _singles_sync(app, kind, int(callers), float(seconds))


def paced(app: Any, kind: str, first: str, count: str, pause: str) -> Any:
    """One job after each pause; for each the instants before the call and after it."""
    jobs = range(int(first), int(first) + int(count))
    return _paced(app, kind, jobs, float(pause)) if is_async(app) else _paced_sync(app, kind, jobs, float(pause))


def extra(app: Any, name: str, *arguments: str) -> Any:
    """What only one system has: a function of its app."""
    return getattr(app, name)(*arguments)


TASKS: dict[str, Callable[..., Any]] = {
    "prepare": prepare, "fill": fill, "mixed": mixed, "singles": singles, "paced": paced, "extra": extra,
}  # fmt: skip


def is_async(app: Any) -> bool:
    return inspect.isasyncgenfunction(inspect.unwrap(app.connect))


# With an event loop


async def _fill(app: Any, kind: str, jobs: Sequence[int]) -> float:
    async with app.connect(1) as client:
        began = time.perf_counter()
        await client.enqueue_many(kind, jobs)
        return time.perf_counter() - began


async def _mixed(app: Any, runs: Sequence[tuple[str, Sequence[int]]]) -> None:
    async with app.connect(1) as client:
        for kind, jobs in runs:
            await client.enqueue_many(kind, jobs)


async def _singles(app: Any, kind: str, callers: int, seconds: float) -> float:
    async with app.connect(callers) as client:
        await asyncio.gather(*(_some(client, kind, WARM) for _ in range(callers)))
        began = time.perf_counter()
        stored = await asyncio.gather(*(_until(client, kind, began + seconds) for _ in range(callers)))
        return sum(stored) / (time.perf_counter() - began)


async def _some(client: Any, kind: str, count: int) -> None:
    for job in range(count):
        await client.enqueue(kind, job)


async def _until(client: Any, kind: str, deadline: float) -> int:
    stored = 0
    while time.perf_counter() < deadline:
        await client.enqueue(kind, stored)
        stored += 1
    return stored


async def _paced(app: Any, kind: str, jobs: Sequence[int], pause: float) -> Sequence[Call]:
    async with app.connect(1) as client:
        return await pace(client, kind, jobs, pause)


async def pace(client: Any, kind: str, jobs: Sequence[int], pause: float) -> Sequence[Call]:
    calls: list[Call] = []
    tick = time.monotonic()
    for job in jobs:
        tick += pause
        await asyncio.sleep(max(tick - time.monotonic(), 0))
        before = time.monotonic_ns()
        await client.enqueue(kind, job)
        calls.append((job, before, time.monotonic_ns()))
    return calls


# Without one


def _fill_sync(app: Any, kind: str, jobs: Sequence[int]) -> float:
    with app.connect(1) as client:
        began = time.perf_counter()
        client.enqueue_many(kind, jobs)
        return time.perf_counter() - began


def _mixed_sync(app: Any, runs: Sequence[tuple[str, Sequence[int]]]) -> None:
    with app.connect(1) as client:
        for kind, jobs in runs:
            client.enqueue_many(kind, jobs)


def _singles_sync(app: Any, kind: str, callers: int, seconds: float) -> float:
    stored = [0] * callers
    ready = threading.Barrier(callers + 1)

    def call(mine: int) -> None:
        for job in range(WARM):
            client.enqueue(kind, job)
        ready.wait()
        while time.perf_counter() < deadline:
            client.enqueue(kind, stored[mine])
            stored[mine] += 1

    with app.connect(callers) as client:
        threads = [threading.Thread(target=call, args=(mine,), daemon=True) for mine in range(callers)]
        deadline = float("inf")
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        deadline = began + seconds  # the callers read it before each enqueue
        for thread in threads:
            thread.join()
        return sum(stored) / (time.perf_counter() - began)


def _paced_sync(app: Any, kind: str, jobs: Sequence[int], pause: float) -> Sequence[Call]:
    calls: list[Call] = []
    with app.connect(1) as client:
        tick = time.monotonic()
        for job in jobs:
            tick += pause
            time.sleep(max(tick - time.monotonic(), 0))
            before = time.monotonic_ns()
            client.enqueue(kind, job)
            calls.append((job, before, time.monotonic_ns()))
    return calls


if __name__ == "__main__":
    main(*sys.argv[1:])
