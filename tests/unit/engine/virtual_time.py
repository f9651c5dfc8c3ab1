"""An event loop in which waiting takes no time: when nothing is left to do, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Mapping
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Never waits for time to pass; tells the loop how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout if timeout is None else 0)
        if not events and timeout:
            self.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Without the limit that Python 3.12 and newer set: while a thread ends, no time here passes, or all of it."""
        await super().shutdown_default_executor()


BACKEND: tuple[str, Mapping[str, Any]] = ("asyncio", {"loop_factory": VirtualLoop})
"""What a folder's `anyio_backend` fixture returns to have its async tests run in virtual time."""
_OFFSET = time.time() - time.monotonic()


def monotonic() -> float:
    """The running loop's time, in place of `sidequest.clock.monotonic`."""
    return asyncio.get_running_loop().time()


def epoch_us() -> int:
    """In place of `sidequest.clock.epoch_us`."""
    return int((monotonic() + _OFFSET) * 1_000_000)


async def settle() -> None:
    """Return when all that can happen at this instant has happened."""
    await asyncio.sleep(1e-6)
