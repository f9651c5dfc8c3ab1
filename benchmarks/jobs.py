"""The jobs that the benchmarks run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sidequest import job


@job
def sync_noop() -> None:
    pass


@job
async def async_noop() -> None:
    pass


@job
async def mail(user: int, template: str, language: str) -> None:
    """Arguments as apps have them."""


@job
def started_at() -> int:
    """Nanoseconds of the clock that all processes of this host share."""
    return time.monotonic_ns()


@job
async def async_started_at() -> int:
    return time.monotonic_ns()


@job(max_attempts=1)
def ends_its_worker(note: str) -> None:
    Path(note).write_text(str(time.monotonic_ns()))
    os._exit(1)


@job(max_attempts=1)
def ends_its_worker_leaving_a_child(note: str) -> None:
    """The child has left the worker's group, and has all of its descriptors."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(2)
        os._exit(0)
    Path(note).write_text(str(time.monotonic_ns()))
    os._exit(1)
