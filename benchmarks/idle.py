"""What an engine costs that has nothing to do, on an empty database and on one with a past."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks import history, jobs
from benchmarks.figures import Figures
from benchmarks.machine import cpu_seconds, descendants, engine_pid
from benchmarks.observers import observer
from benchmarks.prototypes import make_prototype
from sidequest import Sidequest
from sidequest.backends import make_backend

COMING_TO_REST = 12.0
"""Seconds after a job until the workers that it needed have ended, and looks have become rare."""
WATCHED = 20.0
ALONE = 10.0
"""Seconds in which a server shows what it gives itself to do."""


async def idle(url: str, past: int) -> Figures:
    """CPU of the engine with its workers in percent of a core, and statements per second; with and without a past."""
    empty = await _at_rest(url)
    await _make_past(url, past)
    full = await _at_rest(url)
    return {f"empty_{name}": [value] for name, value in empty.items()} | {
        f"past_{name}": [value] for name, value in full.items()
    }


async def _at_rest(url: str) -> dict[str, float]:
    if url.startswith("sqlite"):
        return {"cpu_percent": await _cpu_percent(url, asyncio.sleep), "statements_per_s": await _traced(url)}
    async with observer(url) as server:
        rates: list[float] = []

        async def watch(seconds: float) -> None:
            begin = await server.statements()
            await asyncio.sleep(seconds)
            rates.append((await server.statements() - begin) / seconds)

        await watch(ALONE)
        cpu_percent = await _cpu_percent(url, watch)
    alone, with_engine = rates
    return {"cpu_percent": cpu_percent, "statements_per_s": with_engine - alone}


async def _cpu_percent(url: str, rest: Callable[[float], Any]) -> float:
    async with Sidequest(url) as sq:
        await _run_one_job(sq)
        engine = engine_pid()
        begin = {pid: cpu_seconds(pid) for pid in (engine, *descendants(engine))}
        await rest(WATCHED)
        used = sum(cpu_seconds(pid) - begin.get(pid, 0.0) for pid in (engine, *descendants(engine)))
        return 100 * used / WATCHED


async def _traced(url: str) -> float:
    """Statements per second of an engine in this process: in another one nobody could count them."""
    count = 0

    def on_statement(statement: str) -> None:
        nonlocal count
        count += 1

    with _tracing(on_statement):
        async with Sidequest(url, engine="inline") as sq:
            await _run_one_job(sq)
            count = 0
            await asyncio.sleep(WATCHED)
            return count / WATCHED


@contextmanager
def _tracing(on_statement: Callable[[str], None]) -> Generator[None]:
    """SQLite connections that are made meanwhile tell of each statement."""
    plain = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = plain(*args, **options)
        connection.set_trace_callback(on_statement)
        return connection

    with patch.object(sqlite3, "connect", connect):
        yield


async def _run_one_job(sq: Sidequest) -> None:
    await (await sq.enqueue(jobs.async_noop.call())).result()
    await asyncio.sleep(COMING_TO_REST)


async def _make_past(url: str, jobs_ended: int) -> None:
    backend, prototype = make_backend(url, "engine"), make_prototype(url)
    try:
        await backend.open()
        await history.insert(backend, jobs_ended)
        await history.run_all(backend)
        await prototype.open()
        await prototype.take_stock("sidequest_jobs")
    finally:
        await prototype.close()
        await backend.close()
