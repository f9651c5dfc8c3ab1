"""THE STORE. SQLAlchemy's async connections and sessions as ours: for users whose transaction it is.

Statements go through `exec_driver_sql`, never through the driver's own connection: SQLAlchemy
begins its transaction with the first statement that it sees, and what is written beside it would
survive a rollback. SQLAlchemy is not imported here: who passes one of its objects has done that.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sidequest.backends.sql.session import NO_VALUES, Row, Session, Values

Parameters = Callable[[str, Values], tuple[str, Any]]
"""The statement and the parameters as the driver wants them."""
Translated = Callable[[BaseException], Exception]
"""What a driver's error means to us."""

_at_commit: WeakKeyDictionary[Any, list[Callable[[], None]]] = WeakKeyDictionary()
"""Sessions that are listened to, and whom to call when their transaction is over."""


async def connection_of(given: Any, driver: str) -> Any:
    """The AsyncConnection of an AsyncSession or AsyncConnection; None for anything else.

    Raises TypeError when it speaks through another driver than `driver`.
    """
    asyncs: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncs is None:
        return None
    if isinstance(given, asyncs.async_scoped_session):
        given = given()
    if isinstance(given, asyncs.AsyncSession):
        given = await given.connection()
    if not isinstance(given, asyncs.AsyncConnection):
        return None
    _refuse_other("connection", given.dialect.driver, driver)
    return given


def is_engine(given: Any, driver: str) -> bool:
    """Whether this is an AsyncEngine. Raises TypeError when it speaks through another driver than `driver`."""
    asyncs: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncs is None or not isinstance(given, asyncs.AsyncEngine):
        return False
    _refuse_other("pool", given.dialect.driver, driver)
    return True


def after_commit(given: Any, call: Callable[[], None]) -> bool:
    """Call once when the transaction of this AsyncSession is over; False when nobody would tell us.

    An AsyncConnection tells of a commit before it is made: that is too early to be of use.
    """
    asyncs: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncs is None:
        return False
    if isinstance(given, asyncs.async_scoped_session):
        given = given()
    if not isinstance(given, asyncs.AsyncSession):
        return False
    session: Any = given.sync_session
    if session not in _at_commit:
        _at_commit[session] = []
        sys.modules["sqlalchemy"].event.listen(session, "after_transaction_end", _transaction_over)
    if call not in _at_commit[session]:
        _at_commit[session].append(call)
    return True


def _transaction_over(session: Any, transaction: Any) -> None:
    if transaction.parent is None:  # not the end of a savepoint
        calls, _at_commit[session] = _at_commit.get(session, []), []
        for call in calls:
            call()


def _refuse_other(argument: str, driver: str, wanted: str) -> None:
    if driver != wanted:
        raise TypeError(f"{argument} speaks to its database through {driver}; this Sidequest needs {wanted}")


@asynccontextmanager
async def engine_session(engine: Any, parameters: Parameters, translated: Translated) -> AsyncGenerator[Session, None]:
    """A connection of the app's own AsyncEngine, ours until the block ends."""
    try:
        connection = await engine.connect()
    except Exception as error:
        raise translated(error) from error
    try:
        yield SqlalchemySession(connection, parameters, translated, ours=True)
    finally:
        await connection.close()


class SqlalchemySession(Session):
    """An AsyncConnection. `ours`: a statement outside a transaction commits itself; else it never does."""

    def __init__(self, connection: Any, parameters: Parameters, translated: Translated, *, ours: bool = False) -> None:
        self._connection = connection
        self._parameters = parameters
        self._translated = translated
        self._alone = ours

    async def begin(self) -> None:
        self._alone = False  # SQLAlchemy begins by itself

    async def commit(self) -> None:
        await self._finish(self._connection.commit)

    async def rollback(self) -> None:
        await self._finish(self._connection.rollback)

    async def _finish(self, way: Callable[[], Any]) -> None:
        try:
            await way()
        except Exception as error:
            raise self._meaning(error) from error
        self._alone = True

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        result = await self._run(*self._parameters(statement, values))
        rows = [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        await self._settle()
        return rows

    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        result = await self._run(*self._parameters(statement, values))
        await self._settle()
        return int(result.rowcount)

    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        prepared = [self._parameters(statement, values) for values in rows]
        result = await self._run(prepared[0][0], [parameters for _, parameters in prepared])
        await self._settle()
        return int(result.rowcount)

    async def _run(self, statement: str, parameters: Any) -> Any:
        try:
            return await self._connection.exec_driver_sql(statement, parameters)
        except Exception as error:
            if self._alone:
                await self._connection.rollback()
            raise self._meaning(error) from error

    async def _settle(self) -> None:
        if self._alone:
            await self.commit()

    def _meaning(self, error: Exception) -> Exception:
        """SQLAlchemy wraps the driver's error, for some drivers twice."""
        cause: Any = getattr(error, "orig", None) or error
        return self._translated(cause.__cause__ or cause)
