"""Jobs of a module that no app and no worker imports before one of them is run by its name."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from sidequest import job
from tests.integration import worker_jobs


@job
async def leaks_a_task() -> int:
    async def stubborn() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    leaked.append(asyncio.get_running_loop().create_task(stubborn(), name="stubborn"))
    await asyncio.sleep(0)
    return os.getpid()


leaked: list[asyncio.Task[None]] = []


@job
async def leaks_a_thread() -> int:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
    await asyncio.sleep(0)
    return os.getpid()


@job
async def uses_a_thread() -> int:
    await asyncio.to_thread(time.sleep, 0.01)
    return os.getpid()


@job
async def running_loop() -> tuple[str, bool]:
    return worker_jobs.loop_here()


@job
async def waits_long() -> None:
    await asyncio.sleep(60)


@job
async def blocks_long() -> None:
    time.sleep(60)
