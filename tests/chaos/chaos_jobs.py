"""Jobs of the chaos suite and of the soak: each of them tells the truth log of its runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

from sidequest import JobContext, State, job
from tests.chaos.truth import Expected, told


@job
def touch(ctx: JobContext) -> int:
    with told(ctx):
        return ctx.id


@job
async def glance(ctx: JobContext) -> int:
    with told(ctx):
        return ctx.id


@job
def work(ctx: JobContext, seconds: float) -> None:
    with told(ctx):
        time.sleep(seconds)


@job
async def nap(ctx: JobContext, seconds: float) -> None:
    with told(ctx):
        await asyncio.sleep(seconds)


@job(backoff="fixed", retry_delay=0.2)
def flaky(ctx: JobContext) -> None:
    """Fails once."""
    with told(ctx):
        if ctx.attempt == 1:
            raise ValueError("the first attempt always fails")


@job(max_attempts=2, backoff="fixed", retry_delay=0.1)
async def fails(ctx: JobContext) -> None:
    with told(ctx):
        raise ValueError("no attempt ever works")


@job(max_attempts=1)
def crashes(ctx: JobContext) -> None:
    with told(ctx):
        os._exit(3)


@job
async def twice(ctx: JobContext, flag: str, first: float, later: float) -> str:
    """Takes `first` seconds on its first run and `later` on any other; says which one it was."""
    with told(ctx):
        again = Path(flag).exists()
        Path(flag).touch()
        await asyncio.sleep(later if again else first)
        return "later" if again else "first"


@job
def hog(ctx: JobContext, flag: str) -> None:
    """Its first run holds the GIL, so that nothing else in its process gets to run; the others return at once."""
    with told(ctx):
        if not Path(flag).exists():
            Path(flag).touch()
            sum(range(10**12))


@job
async def block(ctx: JobContext, seconds: float) -> None:
    """Blocks its worker's event loop."""
    with told(ctx):
        time.sleep(seconds)  # that is the trouble with it


EXPECTED: Mapping[str, Expected] = {
    touch.name: Expected(),
    glance.name: Expected(),
    work.name: Expected(),
    nap.name: Expected(),
    twice.name: Expected(),
    hog.name: Expected(),
    block.name: Expected(),
    flaky.name: Expected(own_errors=1),
    fails.name: Expected(State.FAILED, own_errors=2),
    crashes.name: Expected(State.FAILED, own_crashes=1),
}
"""How each of them ends when all promises are kept."""
