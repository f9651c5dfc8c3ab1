"""THE STORE, on PostgreSQL: one asyncpg connection, and what PostgreSQL's errors mean to us.

Errors are told apart by their SQLSTATE: their text follows the server's language.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import asyncpg  # type: ignore[import-untyped]

from sidequest.backends.sql.parameters import numbered
from sidequest.backends.sql.session import NO_VALUES, Row, Session, Values
from sidequest.backends.work import Conflict
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises; a TimeoutError is an OSError."""
CONFLICTS = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout."""
REFUSED = frozenset({"22", "23", "54"})
"""Classes of errors: wrong data, broken constraints, beyond a limit."""
MISSING = frozenset({"42P01", "42703", "3F000"})
"""A table, a column, a schema."""
WRONG_URL = frozenset({"28000", "28P01", "3D000", "42501"})
"""When met at open: no such login, wrong password, no such database, not allowed in."""
READ_ONLY = "25006"
FULL = frozenset({"53100", "53400"})
"""The disk is full, a limit of the configuration is reached. (53300, too many connections, passes by itself.)"""
LOST_STATEMENTS = frozenset({"26000", "42P05", "08P01"})
"""A prepared statement that is not there, or is there already; at login, a setting that a pooler does not know."""
POOLER = "; a PgBouncer that pools transactions needs ?prepared_statements=off in the URL"
GRACE = 5.0
"""Seconds for a connection in trouble to come to rest; then it is cut off."""


class PostgresSession(Session):
    """One connection, used by one task at a time. `timeout`: seconds for a statement, None for the connection's own."""

    def __init__(self, connection: Any, where: str, timeout: float | None = None) -> None:
        self._connection = connection
        self._where = where
        self.timeout = timeout

    async def begin(self) -> None:
        await self.execute("BEGIN ISOLATION LEVEL READ COMMITTED")  # SKIP LOCKED and a stricter level conflict all the time

    async def commit(self) -> None:
        await self.execute("COMMIT")

    async def rollback(self) -> None:
        with suppress(asyncpg.InterfaceError):  # a lost connection has left its pool, and answers nothing any more
            if self._connection.is_closed() or not self._connection.is_in_transaction():
                return
            try:
                await self._connection.execute("ROLLBACK", timeout=GRACE)
            except DRIVER_ERRORS:
                self._connection.terminate()  # the server rolls back; why we are here is more interesting than this

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        text, parameters = as_numbered(statement, values)
        return cast("Sequence[Row]", await self._answer(self._connection.fetch, text, *parameters))

    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        text, parameters = as_numbered(statement, values)
        status: str = await self._answer(self._connection.execute, text, *parameters)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        # asyncpg does not tell how many rows were changed: so each of them is returned
        text, names = numbered(f"{statement} RETURNING 1")
        parameters = [[values[name] for name in names] for values in rows]
        return len(await self._answer(self._connection.fetchmany, text, parameters))

    async def _answer(self, ask: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        try:
            return await ask(*arguments, timeout=self.timeout)
        except DRIVER_ERRORS as error:
            raise translated(error, self._where) from error


def as_numbered(statement: str, values: Values) -> tuple[str, tuple[Any, ...]]:
    """The statement and its parameters as asyncpg wants them."""
    text, names = numbered(statement)
    return text, tuple(map(values.__getitem__, names))


def translated(error: BaseException, where: str) -> Exception:
    """What the error means; the error itself when it is a mistake of ours."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Conflict(f"{where}: {_said(error)}")  # somebody changed the tables; the next try prepares it anew
    code = _code(error)
    if code is not None:
        return _by_code(code, f"{_said(error)} ({code})", where)
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return ValueError(f"{where} cannot take the value: {_said(error)}")
    if isinstance(error, TimeoutError):
        return BackendUnavailable(f"{where} did not answer in time")
    if isinstance(error, DRIVER_ERRORS):
        return BackendUnavailable(f"{where}: {_said(error)}")
    assert isinstance(error, Exception)
    return error


def read_only(error: BaseException) -> bool:
    """Whether this came because the server has become a standby, or takes no writes: its other connections are useless too."""
    return error.__cause__ is not None and _code(error.__cause__) == READ_ONLY


def _by_code(code: str, said: str, where: str) -> Exception:
    if code in CONFLICTS:
        return Conflict(f"{where}: {said}")
    if code[:2] in REFUSED:
        return ValueError(f"{where} refuses the value: {said}")
    if code in MISSING:
        return SchemaMismatch(f"{where}: the tables do not fit this Sidequest: {said}; run: sidequest migrate up")
    if code in FULL:
        return BackendFull(f"{where}: {said}")
    return BackendUnavailable(f"{where}: {said}{POOLER if code in LOST_STATEMENTS else ''}")


def at_open(error: BaseException, where: str) -> Exception:
    """What it means on the way to the first connection, when a wrong login or database is a wrong URL."""
    if _code(error) in WRONG_URL or isinstance(error, asyncpg.ClientConfigurationError | ssl.SSLCertVerificationError):
        return ConfigError(f"url: {where} cannot be used: {_said(error)}")
    return translated(error, where)


def _said(error: BaseException) -> str:
    """Its message alone: the details quote rows."""
    return str(error.args[0]) if isinstance(error, asyncpg.PostgresError) else str(error) or type(error).__name__


def _code(error: BaseException) -> str | None:
    """The SQLSTATE; None when the error did not come from the server."""
    code: str | None = getattr(error, "sqlstate", None)
    return code if isinstance(error, asyncpg.PostgresError) else None
