"""THE STORE, on SQLite: one aiosqlite connection, and what SQLite's errors mean to us.

An aiosqlite connection is a thread, of which something is left until it is closed: whoever gets
a session from `connect` must close it, whatever happens.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import cast

import aiosqlite

from sidequest.backends.sql.session import NO_VALUES, Row, Session, Values
from sidequest.backends.work import Conflict
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch

CONFLICTS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
REFUSED = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE})
FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
"""The disk has no room; and what a log that could not grow says on some file systems."""
WRONG_FILE = frozenset({
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH,
})  # fmt: skip
"""When met at open, the URL is wrong; later, something has happened to the file."""


async def connect(path: str, busy_timeout: float) -> SqliteSession:
    """A session on the file. Not to be cancelled: the connection would be lost with its thread."""
    failures: list[sqlite3.Error] = []

    def open_file() -> sqlite3.Connection:
        try:
            return sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        except sqlite3.Error as error:
            # aiosqlite does not await the end of a thread whose connect fails: it would outlive the loop
            failures.append(error)
            return sqlite3.connect(":memory:")

    opening = aiosqlite.Connection(open_file, iter_chunk_size=64)
    # an app whose loop is torn down in the middle (Ctrl-C again and again) must be able to exit all the same;
    # older releases of aiosqlite are the thread themselves
    thread = cast("Thread", getattr(opening, "_thread", opening))
    thread.daemon = True
    connection = await opening
    if failures:
        await connection.close()
        raise _at_open(failures[0], path) from failures[0]
    return SqliteSession(connection, path)


class SqliteSession(Session):
    """One connection, used by one task at a time for writing, by many for single reads."""

    def __init__(self, connection: aiosqlite.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def close(self) -> None:
        await self._connection.close()

    async def opening(self, statement: str) -> Sequence[Row]:
        """Run a statement at open, when a file that cannot be used is a wrong URL."""
        try:
            return cast("Sequence[Row]", await self._connection.execute_fetchall(statement))
        except sqlite3.Error as error:
            raise _at_open(error, self._path) from error

    async def probe(self) -> None:
        """Write something that changes nothing: some files can be opened, and locked, and not written."""
        await self.opening("BEGIN IMMEDIATE")
        try:
            ((version,),) = await self.opening("PRAGMA user_version")
            await self.opening(f"PRAGMA user_version = {int(version)}")
            await self.opening("COMMIT")
        except BaseException:
            await self._connection.rollback()
            raise

    async def begin(self) -> None:
        await self.execute("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        try:
            await self._connection.commit()
        except (sqlite3.Error, ValueError) as error:
            raise self._translated(error) from error

    async def rollback(self) -> None:
        try:
            await self._connection.rollback()
        except (sqlite3.Error, ValueError) as error:
            raise self._translated(error) from error

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        try:
            return cast("Sequence[Row]", await self._connection.execute_fetchall(statement, values))
        except (sqlite3.Error, ValueError) as error:
            raise self._translated(error) from error

    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        try:
            cursor = await self._connection.execute(statement, values)
        except (sqlite3.Error, ValueError) as error:
            raise self._translated(error) from error
        return cursor.rowcount

    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        try:
            cursor = await self._connection.executemany(statement, rows)
        except (sqlite3.Error, ValueError) as error:
            raise self._translated(error) from error
        return cursor.rowcount

    def _translated(self, error: Exception) -> Exception:
        if _code(error) is None and self._closed():
            return BackendUnavailable(f"{self._path}: the connection was closed")
        return translated(error, self._path)

    def _closed(self) -> bool:
        try:
            _ = self._connection.in_transaction
        except (ValueError, sqlite3.ProgrammingError):
            return True
        return False


def translated(error: BaseException, path: str) -> Exception:
    """What the error means; the error itself when it is a mistake of ours."""
    code = _code(error)
    if code is None:
        assert isinstance(error, Exception)
        return error
    if code in CONFLICTS:
        return Conflict(f"{path}: {error}")
    if code in REFUSED:
        return ValueError(f"{path} refuses the value: {error}")
    if code == sqlite3.SQLITE_ERROR:
        return SchemaMismatch(f"{path}: the tables do not fit this Sidequest: {error}; run: sidequest migrate up")
    return (BackendFull if code in FULL else BackendUnavailable)(f"{path}: {error} ({_code_name(error)})")


def _at_open(error: sqlite3.Error, path: str) -> Exception:
    code = _code(error)
    if code in CONFLICTS:
        return Conflict(f"{path}: {error}")
    if code in WRONG_FILE:
        return ConfigError(f"url: {path} cannot be used: {_why(path) or error}")
    return BackendUnavailable(f"{path} cannot be opened: {error} ({_code_name(error)})")


def _why(path: str) -> str | None:
    """What SQLite does not say about a file that it cannot open."""
    if Path(path).is_dir():
        return "it is a directory"
    if not Path(path).absolute().parent.is_dir():
        return f"the directory {Path(path).absolute().parent} does not exist"
    return None


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; None when the error did not come from SQLite."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _code_name(error: BaseException) -> str:
    return getattr(error, "sqlite_errorname", type(error).__name__)
