"""THE STORE, on MongoDB: the ids of jobs, from a counter in the database, a block at a time.

Within a process ids rise in the order in which they were asked for. A block is used for at most
`LIFE` after it was taken, so between processes they rise with time but for that. What is left of a
block is given up: no id is used twice, and some are never used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from sidequest.clock import monotonic

LIFE = timedelta(seconds=1)
LARGEST = 1000


Advance = Callable[[int], Awaitable[int]]
"""Raises the counter by so many, and says what it is then."""


class JobIds:
    """What this process has of the ids."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._left = range(0)
        self._taken_at = 0.0
        self._size = 1

    async def take(self, count: int, advance: Advance) -> Sequence[int]:
        """The next ids, rising: one from the block, or just as many as are wanted."""
        async with self._turn:
            if count > 1:
                self._left = range(0)  # they would be lower than these
                return await _block(count, advance)
            if not self._left or not self._fresh:
                await self._next_block(advance)
            id, self._left = self._left[0], self._left[1:]
            return (id,)

    async def _next_block(self, advance: Advance) -> None:
        """One of twice the size if the last one was used up in its time, else of what was used of it."""
        self._size = min(2 * self._size, LARGEST) if self._fresh else max(1, self._size - len(self._left))
        taken_at = monotonic()
        self._left = await _block(self._size, advance)
        self._taken_at = taken_at

    @property
    def _fresh(self) -> bool:
        return monotonic() - self._taken_at < LIFE.total_seconds()


async def _block(size: int, advance: Advance) -> range:
    last = await advance(size)
    return range(last - size + 1, last + 1)
