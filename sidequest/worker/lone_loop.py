"""WORKER PROCESS. An event loop for one async job in a worker for sync ones.

That happens when nobody knew the job's kind before it ran. `asyncio.run` would not do: it returns
only when every leftover task and thread has ended, and some never do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

from sidequest.clock import monotonic
from sidequest.errors import JobStopped
from sidequest.event_loop import LoopFactory

THREAD_WAIT = 0.05
"""Seconds in which threads that have nothing to do may end."""
TASK_WAIT = 2.0
"""Seconds in which leftover tasks may end, when the job's own end is on its way already."""


class LoneLoop:
    """Of one use: `run`, `left_running`, `close`."""

    def __init__(self, make_loop: LoopFactory) -> None:
        self._loop = make_loop()
        self._task: asyncio.Task[Any] | None = None
        self._threads = ThreadPoolExecutor(thread_name_prefix="to_thread")
        self._loop.set_default_executor(self._threads)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What the coroutine returns."""
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(coroutine)
        return self._loop.run_until_complete(self._task)

    def stop(self, reason: str) -> None:
        """Called by a signal's handler: raises JobStopped in code that runs; what waits is cancelled, and may clean up.

        That must not raise, because uvloop logs what a handler raises while it waits, and goes on.
        """
        if self._task is None or asyncio.current_task(self._loop) is not None:
            raise JobStopped(reason)
        self._loop.call_soon_threadsafe(self._task.cancel, reason)

    def left_running(self) -> list[str]:
        """What the job did not wait for, in words."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        threads: set[Thread] = getattr(self._threads, "_threads", set())
        until = monotonic() + THREAD_WAIT
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
        found = [f"the task {task.get_name()} still runs" for task in asyncio.all_tasks(self._loop)]
        return found + [f"the thread {thread.name} still runs" for thread in threads if thread.is_alive()]

    def close(self) -> None:
        """Cancel what is left, give it a moment, and let go of it."""
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left, timeout=TASK_WAIT))
        generators = self._loop.create_task(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(asyncio.wait([generators], timeout=TASK_WAIT))
        asyncio.set_event_loop(None)
        self._loop.close()
