"""The jobs that the benchmarks run."""

from __future__ import annotations

import time

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
