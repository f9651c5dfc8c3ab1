"""A database with a stock of jobs, which tells how it ran what a backend asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from sidequest.backends import migrations
from sidequest.backends.base import Backend
from sidequest.backends.sql.backend import SqlBackend
from sidequest.backends.sql.session import NO_VALUES, Row, Session, Values
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from tests.plans.plan import Plan
from tests.plans.stock import QUEUES, Stock


class Place(ABC):
    """One database of a test session, and the backend that works on it."""

    unit: ClassVar[str]
    """What `Plan.cost` counts."""
    ends_touch_indexes: ClassVar[bool] = True
    """Whether an index is changed when a job is started or ends; if not, none finds jobs by what changes then."""
    indexes_instants: ClassVar[bool] = True
    """Whether an index says when jobs came and ended; if not, counting those of an hour reads all jobs."""

    def __init__(self, backend: Backend, stock: Stock) -> None:
        self.backend = backend
        self.stock = stock

    async def close(self) -> None:
        await self.backend.close()

    @abstractmethod
    async def fill(self) -> None:
        """Put the stock into the empty tables, by the fastest way there is."""

    @abstractmethod
    async def settle(self) -> None:
        """What a server has done by itself, some minutes after a million inserts."""

    async def mislead(self) -> None:
        """Let the empty database know a table of ten thousand jobs that all wait, and nothing that comes after it."""
        await self.backend.insert([NewJob("shop:send_invoice", queue=QUEUES[0])] * 10_000, QueueRecord("*"))
        await self.analyze()
        await self.forget()

    @abstractmethod
    async def analyze(self) -> None:
        """Look at what is there, for the plans to come."""

    @abstractmethod
    async def forget(self) -> None:
        """Delete all jobs, and keep what is known about them."""

    @abstractmethod
    def watch(self) -> AbstractAsyncContextManager[list[Plan]]:
        """The list gets a plan for each statement that the backend sends until the block ends."""


class SqlPlace(Place):
    """One whose backend speaks through sessions: each statement is looked at on its way."""

    backend: SqlBackend
    looking: ClassVar[Sequence[str]]
    """The statements of `analyze`."""
    forgetting: ClassVar[Sequence[str]]

    async def analyze(self) -> None:
        await self.execute(self.looking)

    async def forget(self) -> None:
        await self.execute(self.forgetting)

    async def execute(self, statements: Sequence[str]) -> None:
        for statement in statements:
            text = migrations.fill(statement, self.backend.url.prefix)
            await self.backend.autocommit(lambda session, text=text: session.execute(text))

    @abstractmethod
    def observed(self, session: Any, statement: str, values: Values) -> AbstractAsyncContextManager[Callable[[], Plan]]:
        """Around a statement that runs on the session; afterwards, its plan."""

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[list[Plan], None]:
        plans: list[Plan] = []
        writer, reader = self.backend.writer, self.backend.reader

        def watched(open_session: Callable[[], AbstractAsyncContextManager[Session]]) -> Any:
            @asynccontextmanager
            async def opened() -> AsyncGenerator[Session, None]:
                async with open_session() as session:
                    # a writer may be made of a reader, which is watched already
                    yield session if isinstance(session, WatchedSession) else WatchedSession(session, self, plans)

            return opened

        backend: Any = self.backend
        backend.writer, backend.reader = watched(writer), watched(reader)
        try:
            yield plans
        finally:
            del backend.writer, backend.reader


class WatchedSession(Session):
    """Another session, and a plan for each statement that names tables of ours."""

    def __init__(self, session: Session, place: SqlPlace, plans: list[Plan]) -> None:
        self._session = session
        self._place = place
        self._plans = plans

    async def begin(self) -> None:
        await self._session.begin()

    async def commit(self) -> None:
        await self._session.commit()

    async def rollback(self) -> None:
        await self._session.rollback()

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        async with self._observed(statement, values):
            return await self._session.fetch(statement, values)

    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        async with self._observed(statement, values):
            return await self._session.execute(statement, values)

    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        async with self._observed(statement, rows[0]):
            return await self._session.execute_many(statement, rows)

    @asynccontextmanager
    async def _observed(self, statement: str, values: Values) -> AsyncGenerator[None, None]:
        if self._place.backend.url.prefix not in f"{statement} {values}":  # a parameter may be part of the statement
            yield
            return
        async with self._place.observed(self._session, statement, values) as plan:
            yield
        self._plans.append(plan())
