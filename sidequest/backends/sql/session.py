"""THE STORE, in SQL: one connection at work.

A `Session` raises `Conflict` where trying again helps, and our own errors for everything else
that a database does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sidequest.backends.work import T

Row = tuple[Any, ...]
Values = Mapping[str, Any]
NO_VALUES: Values = {}

SAVEPOINT, BACK = "SAVEPOINT here", "ROLLBACK TO here"


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
