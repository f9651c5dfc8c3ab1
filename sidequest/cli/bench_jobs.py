"""WORKER PROCESS. The jobs that `sidequest bench` runs: they do nothing, or tell when they began."""

from __future__ import annotations

import time

from sidequest import job


@job
async def async_noop() -> None:
    pass


@job
def sync_noop() -> None:
    pass


@job
async def started_at() -> int:
    """Nanoseconds of the clock that all processes of this host share."""
    return time.monotonic_ns()
