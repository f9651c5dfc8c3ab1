"""THE STORE. One connection at work, and how a unit of work is brought to its end.

A database driver is spoken to here and in the dialect modules, nowhere else. A `Session` raises
`Conflict` where trying again helps, and our own errors for everything else that a database does.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable

T = TypeVar("T")
Row = tuple[Any, ...]
Values = Mapping[str, Any]
NO_VALUES: Values = {}

MOST_TRIES = 20
PAUSE = 0.01
"""Seconds between two tries, give or take half: rivals must not meet again at the same moment."""


SAVEPOINT, BACK = "SAVEPOINT here", "ROLLBACK TO here"


class Conflict(Exception):
    """Another writer was in the way; the whole unit was rolled back and may be tried again."""


class Session(ABC):
    """One connection, inside a transaction or with a single statement. Parameters are `:name`."""

    @abstractmethod
    async def begin(self) -> None:
        """Begin a transaction that may write, without a later upgrade of locks."""

    @abstractmethod
    async def commit(self) -> None: ...

    @abstractmethod
    async def rollback(self) -> None:
        """Undo the open transaction; nothing when there is none."""

    async def savepoint(self) -> None:
        """From here on, what the open transaction does can be undone on its own."""
        await self.execute(SAVEPOINT)

    async def rollback_to_savepoint(self) -> None:
        """Undo what was done since then."""
        await self.execute(BACK)

    @abstractmethod
    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        """Run the statement; all rows of its answer."""

    @abstractmethod
    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        """Run the statement; how many rows it changed."""

    @abstractmethod
    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        """Run the statement once for each of `rows`; how many rows were changed in all."""


Work = Callable[[Session], Awaitable[T]]


async def transaction(session: Session, work: Work[T]) -> T:
    """All of the work, or nothing of it."""
    try:
        await session.begin()
        answer = await work(session)
        await session.commit()
    except BaseException:
        await session.rollback()
        raise
    return answer


async def persist(unit: Callable[[], Awaitable[T]], patience: timedelta) -> T:
    """Try the unit again while it meets conflicts, at most `MOST_TRIES` times or `patience` long."""
    deadline = monotonic() + patience.total_seconds()
    tries = 1
    while True:
        try:
            return await unit()
        except Conflict as conflict:
            if tries == MOST_TRIES or monotonic() > deadline:
                raise BackendUnavailable(f"other writers held the database for too long: {conflict}") from conflict
        tries += 1
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must not tear: when the caller is cancelled, it is finished first."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue  # cancelled once more: the work still has to end before we leave
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as never retrieved
        raise
