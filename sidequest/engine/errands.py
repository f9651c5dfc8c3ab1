"""ENGINE PROCESS. Tasks that a callback asks for, owned like all others by the engine's task group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import anyio


class Errands:
    """`start` may be called from anywhere in the loop; `run` owns what is started.

    A transport's callback runs in no task, and a task group can only be given work from one.
    """

    def __init__(self) -> None:
        self._asked: deque[tuple[Callable[..., Coroutine[Any, Any, None]], tuple[Any, ...]]] = deque()
        self._wake = asyncio.Event()

    def start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._asked.append((function, args))
        self._wake.set()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._asked:
                    function, args = self._asked.popleft()
                    tasks.start_soon(function, *args)
