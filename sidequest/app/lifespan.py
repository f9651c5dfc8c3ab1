"""APP PROCESS. One `lifespan` for the ASGI frameworks and for aiohttp.

Starlette, FastAPI and Litestar call it and enter an async context manager; aiohttp's `cleanup_ctx`
calls it and iterates: up to the first item is the start-up, the rest is the clean-up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self


class Lifespan:
    """Starts on entering, stops on leaving, whichever of the two ways is used."""

    def __init__(self, start: Callable[[], Awaitable[object]], stop: Callable[[], Awaitable[None]]) -> None:
        self._start = start
        self._stop = stop
        self._started = False

    async def __aenter__(self) -> None:
        await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        if self._started:
            await self._stop()
            raise StopAsyncIteration
        await self._start()
        self._started = True
