"""WORKERS. What the jobs do: the same functions for all systems, which only register them.

Each takes the number of the job. A no-op writes one record that holds its begin and its end;
everything longer writes one for each. Nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from benchmarks.peers import marks

SLEEP, NAP, HOLD = 0.1, 1.0, 2.0
"""Seconds that a job waits for something."""
WORK = 0.05
"""Seconds of CPU that a job computes."""
BEFORE_DEATH = 0.3
"""Seconds that the job which kills its process runs before: its neighbours have begun."""


async def noop(job: int) -> None:
    marks.whole(job, time.monotonic_ns())


async def sleep(job: int) -> None:
    await _wait(job, SLEEP)


async def nap(job: int) -> None:
    await _wait(job, NAP)


async def hold(job: int) -> None:
    await _wait(job, HOLD)


async def die(job: int) -> None:
    marks.now(job, marks.START)
    await asyncio.sleep(BEFORE_DEATH)
    marks.now(job, marks.CRASH)
    os._exit(1)


async def compute(job: int) -> None:
    """CPU work in an async job, for systems that have no others."""
    _burn(job)


def sync_noop(job: int) -> None:
    marks.whole(job, time.monotonic_ns())


def sync_sleep(job: int) -> None:
    marks.now(job, marks.START)
    time.sleep(SLEEP)
    marks.now(job, marks.END)


def sync_nap(job: int) -> None:
    marks.now(job, marks.START)
    time.sleep(NAP)
    marks.now(job, marks.END)


def sync_die(job: int) -> None:
    marks.now(job, marks.START)
    time.sleep(BEFORE_DEATH)
    marks.now(job, marks.CRASH)
    os._exit(1)


def sync_compute(job: int) -> None:
    _burn(job)


async def _wait(job: int, seconds: float) -> None:
    marks.now(job, marks.START)
    await asyncio.sleep(seconds)
    marks.now(job, marks.END)


def _burn(job: int) -> None:
    """CPU time of this thread, so that a job costs the same with as without neighbours on the core."""
    marks.now(job, marks.START)
    until = time.thread_time() + WORK
    while time.thread_time() < until:
        pass
    marks.now(job, marks.END)


ASYNC: Mapping[str, Callable[[int], Awaitable[None]]] = {body.__name__: body for body in (noop, sleep, nap, hold, die, compute)}
SYNC: Mapping[str, Callable[[int], None]] = {
    body.__name__: body for body in (sync_noop, sync_sleep, sync_nap, sync_die, sync_compute)
}
