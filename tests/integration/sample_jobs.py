"""Jobs that the integration tests run: good ones, and every kind of bad one."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sidequest import Fail, Job, JobContext, Retry, Sidequest, Snooze, job


@dataclass
class Receipt:
    total: int
    at: datetime


@job
async def add(a: int, b: int) -> int:
    return a + b


@job
def multiply(a: int, b: int) -> int:
    return a * b


@job
def receipt(total: int) -> Receipt:
    return Receipt(total, datetime(2026, 1, 2, 3, 4, 5, 6, UTC))


@job
def echo(value: object) -> object:
    return value


@job
def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@job
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@job
def mark(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


@job
async def overlap(path: str, seconds: float) -> None:
    """Leave a line at start and at end, so that a test can count how many ran at once."""
    mark(path, "+")
    await asyncio.sleep(seconds)
    mark(path, "-")


@job
async def until(gate: str, path: str) -> int:
    """Run until the gate is there; leave a line with the process at start and at end."""
    mark(path, f"+{os.getpid()}")
    while not Path(gate).exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    mark(path, f"-{os.getpid()}")
    return os.getpid()


@job(max_attempts=2, retry_delay=0.05, backoff="fixed")
def boom(text: str = "boom") -> None:
    raise ValueError(text)


@job(discard_on=KeyError)
def discarded() -> None:
    raise KeyError("gone")


@job(retry_on=OSError)
def only_os_errors() -> None:
    raise ValueError("not worth a retry")


@job(backoff=lambda attempt, error: None if attempt > 1 else 0.05)
def own_backoff() -> None:
    raise ValueError("again")


@job
def unstorable() -> object:
    return {"deep": [object()]}


@job
def enormous() -> str:
    return "x" * (2 * 1024 * 1024)


@job(max_attempts=1)
def sys_exit() -> None:
    sys.exit(3)


@job(max_attempts=1)
def mark_or_die(path: str, word: str) -> None:
    if word == "die":
        os._exit(3)
    mark(path, word)


@job
def hard_exit(code: int = 1) -> None:
    os._exit(code)


@job
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(max_attempts=1)
def segfault() -> None:
    ctypes.string_at(0)


@job(max_attempts=1)
async def async_hard_exit(after: float = 0.0) -> None:
    await asyncio.sleep(after)
    os._exit(7)


@job(max_attempts=1, timeout=0.2)
def hang() -> None:
    time.sleep(60)


@job(max_attempts=1, timeout=0.2)
async def async_hang() -> None:
    await asyncio.sleep(60)


@job(max_attempts=1, timeout=0.2, kill_grace=0.2)
def stubborn() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(60)


@job(max_attempts=1, timeout=0.2, kill_grace=0.2)
def hold_the_gil() -> None:
    sum(range(10**12))


@job(max_attempts=1, timeout=0.2, kill_grace=0.2, isolated=True)
async def block_the_loop() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(60)


@job
async def snoozes(ctx: JobContext, times: int = 1) -> int:
    record = await ctx.sidequest.handle(ctx.id).refresh()
    if record.snoozes < times:
        raise Snooze(timedelta(milliseconds=50))
    return ctx.attempt


@job
async def returns_snooze(ctx: JobContext) -> Snooze | int:
    record = await ctx.sidequest.handle(ctx.id).refresh()
    return Snooze(0.05) if record.snoozes == 0 else ctx.attempt


@job
def retries(ctx: JobContext) -> int:
    if ctx.attempt < 3:
        raise Retry("not yet", delay=0.05)
    return ctx.attempt


@job
def fails() -> None:
    raise Fail("no use in trying")


@job
async def about_itself(ctx: JobContext) -> dict[str, object]:
    return {
        "id": ctx.id,
        "name": ctx.name,
        "queue": ctx.queue,
        "attempt": ctx.attempt,
        "max_attempts": ctx.max_attempts,
        "tags": list(ctx.tags),
        "meta": dict(ctx.meta),
        "key": ctx.idempotency_key,
    }


@job
async def reports_progress(ctx: JobContext, gate: str) -> None:
    ctx.progress(3, 10, "página 3")
    while not Path(gate).exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)


@job
async def parent(n: int) -> list[int]:
    handles = [await multiply.enqueue(i, 2) for i in range(n)]
    return [await handle.result(timeout=20) for handle in handles]


@job
def sync_parent() -> int:
    async def ask() -> int:
        return await (await add.enqueue(20, 22)).result(timeout=20)

    return asyncio.run(ask())


@job
def cleans_up(path: str) -> None:
    try:
        time.sleep(60)
    finally:
        mark(path, "cleaned")


@job
def grandchild(path: str) -> None:
    """Start a process that outlives a crash of this one, unless somebody ends the whole group."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    mark(path, str(child))
    os._exit(9)


class Tenant(Job):
    queue = "tenants"
    max_attempts = 2

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    async def run(self, day: int) -> str:
        if day < 0:
            self.fail("no such day")
        if day == 0:
            self.complete("early")
        return f"{self.tenant} {day} {self.ctx.queue} {self.ctx.attempt}"


@job
def read_stdin() -> str:
    return sys.stdin.read()


module_level = Sidequest("sqlite:///never_opened_here.db")


@job(max_attempts=1)
async def uses_a_module_level_sidequest() -> None:
    await module_level.enqueue(add.call(1, 2))


@job
async def enqueue_with_connection(ctx: JobContext) -> str:
    """Try what only an app can do; the error's type."""
    try:
        await ctx.sidequest.enqueue(add.call(1, 2), connection=object())
    except Exception as error:
        return type(error).__name__
    return "enqueued"


@job
async def enqueue_in(ctx: JobContext, queue: str) -> int:
    """Enqueue a job in that queue; its id."""
    return (await ctx.sidequest.enqueue(add.options(queue=queue).call(1, 2))).id
