"""THE STORE, on MySQL and MariaDB: one aiomysql connection, and what the servers' errors mean to us.

Errors are told apart by their numbers: their text follows the server's language. After an error
that is about the connection or the server it is closed: some of them leave it half-way in a reply.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple, cast

import aiomysql  # type: ignore[import-untyped]
from pymysql.constants import CLIENT, FIELD_TYPE  # type: ignore[import-untyped]
from pymysql.converters import decoders  # type: ignore[import-untyped]
from pymysql.err import MySQLError, OperationalError  # type: ignore[import-untyped]

from sidequest.backends.mysql.url import Access
from sidequest.backends.sql.parameters import positional
from sidequest.backends.sql.session import NO_VALUES, SAVEPOINT, Row, Session, Values
from sidequest.backends.work import Conflict, T
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch

DRIVER_ERRORS = (MySQLError, OSError, RuntimeError)
"""All that aiomysql raises; a TimeoutError is an OSError, and uvloop's word for a connection that is gone a RuntimeError."""
CONFLICTS = frozenset({1020, 1205, 1213, 3101, 3572})
"""The row has changed, lock timeout, deadlock, another member of the cluster was faster, no waiting for a lock."""
REFUSED = frozenset({1048, 1062, 1264, 1265, 1292, 1366, 1406, 1690, 3819, 4025})
"""No NULL, no duplicate, out of range, no such word, no date, no text of its encoding, too long, overflow, broken check."""
MISSING = frozenset({1049, 1054, 1146})
"""A database, a column, a table."""
DONE_BEFORE = frozenset({1050, 1051, 1060, 1061, 1091, 3822})
"""A table, column, key or check that is there already, or not there to be dropped."""
WRONG_URL = frozenset({1044, 1045, 1049, 1130, 1227, 1251, 1698, 1820, 1862, 2026, 2059, 2061, 3118, 3159})
"""When met at open: no such login, password or database; not from this host, not without TLS, not by this plugin."""
READ_ONLY = frozenset({1290, 1792, 1836})
FULL = frozenset({3, 28, 1021, 1114})
"""Error writing a file, no space left on the device, disk full, the table is full."""

GRACE = 5.0
"""Seconds for a connection in trouble to come to rest; then it is cut off."""
PACKET = 8 * 1024 * 1024
"""Bytes that a server must accept in one statement: a job's arguments and meta take up to half of that."""
STATEMENT = 4 * 1024 * 1024
"""Bytes of a statement from which on more rows go into another one."""
BEGIN = ("BEGIN",)
BEGIN_ANYWHERE = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "BEGIN")
"""On a connection whose own level we do not know."""
OPENING = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET autocommit = 1, time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
    "innodb_lock_wait_timeout = 5, {limits}"
)
"""A stricter level locks gaps, and claims meet there. The driver takes it from a server's greeting that it commits by
itself, which does not say how the server is set."""
ESCAPED = "\0\n\r\x1a\"'\\"
"""Letters that the driver puts a backslash before."""
CONVERTERS = {**decoders, FIELD_TYPE.DATETIME: datetime.fromisoformat}
"""The driver's own takes a DATETIME apart in Python, five times slower."""


class _DoneBefore(Exception):
    """Something is there already, or is gone already, as a schema step wants it that was interrupted once."""


class Several(NamedTuple):
    """A parameter that stands for many: the `sign`, with a %s for each value of a row, once for each row."""

    sign: str
    rows: Sequence[Sequence[Any]]
    between: str = ", "


async def connect(access: Access, context: ssl.SSLContext | None, where: str, *, opening: bool = False) -> Any:
    """A connection. Raises BackendUnavailable; when `opening`, ConfigError for a wrong URL."""
    connection = _Connection(
        **access.connect,
        ssl=context,
        charset="utf8mb4",
        autocommit=True,
        client_flag=CLIENT.FOUND_ROWS,  # an update that finds a row as it should be has written it
        conv=CONVERTERS,
        init_command=OPENING.format(limits=limits(access.command_timeout)),
    )
    try:
        async with asyncio.timeout(access.connect_timeout):
            await connection.ping()  # connects
        if context is not None and not connection.encrypted:
            raise OperationalError(2026, "the connection is not encrypted")
    except DRIVER_ERRORS as error:
        connection.close()
        raise (_at_open if opening else translated)(error, where) from error
    except BaseException:
        connection.close()
        raise
    return connection


def limits(seconds: float) -> str:
    """Settings by which the server gives up, after so long, what nobody waits for any more."""
    return (
        f"lock_wait_timeout = 20 /*!80000 , max_execution_time = {round(seconds * 1000)} */ "
        f"/*M!100600 , max_statement_time = {seconds} */"
    )


class MysqlSession(Session):
    """One connection, used by one task at a time. What begins a transaction travels with its first statement."""

    def __init__(
        self,
        connection: Any,
        where: str,
        timeout: float | None = None,
        *,
        packet: int = PACKET,
        begin: Sequence[str] = BEGIN,
        ours: bool = True,
    ) -> None:
        """`timeout`: seconds for a statement; `packet`: bytes that the server accepts in one; `ours`: to close when broken."""
        self.timeout = timeout
        self.last_id = 0
        """The id that the last statement gave to the first of its new rows."""
        self._connection = connection
        self._where = where
        self._packet = packet
        self._begin = begin
        self._ours = ours
        self._unsent: list[str] = []
        self._began = False

    @property
    def flags(self) -> int:
        """What the client said at login that it is able to."""
        found: int = self._connection.client_flag
        return found

    @property
    def charset(self) -> str:
        found: str = self._connection.charset
        return found

    @property
    def closed(self) -> bool:
        found: bool = self._connection.closed
        return found

    def literal(self, value: object) -> str:
        """The value as it may stand in a statement that takes parameters."""
        text: str = self._connection.escape(value)
        return text.replace("%", "%%")

    async def begin(self) -> None:
        self._unsent = list(self._begin)

    async def savepoint(self) -> None:
        self._unsent.append(SAVEPOINT)

    async def commit(self) -> None:
        if self._began:
            await self._ask("COMMIT")
        self._unsent, self._began = [], False

    async def rollback(self) -> None:
        began, self._unsent, self._began = self._began, [], False
        if not began or self._connection.closed:
            return
        try:
            async with asyncio.timeout(GRACE):
                await self._connection.rollback()
        except DRIVER_ERRORS:
            self._connection.close()  # the server rolls back; why we are here is more interesting than this

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        cursor = await self._ask(*as_positional(statement, values))
        return cast("Sequence[Row]", await cursor.fetchall())

    async def execute(self, statement: str, values: Values = NO_VALUES) -> int:
        try:
            cursor = await self._ask(*as_positional(statement, values))
        except _DoneBefore:
            return 0
        self.last_id = cursor.lastrowid
        return int(cursor.rowcount)

    async def fetch_after(self, statement: str, values: Values, question: str) -> Sequence[Row]:
        """Run the statement, then ask the question about it on the same way; all rows of that answer."""
        text, parameters = as_positional(statement, values)
        cursor = await self._ask(f"{text}; {question}", parameters, answers=2)
        return cast("Sequence[Row]", await cursor.fetchall())

    async def execute_many(self, statement: str, rows: Sequence[Values]) -> int:
        prepared = [as_positional(statement, values) for values in rows]
        changed = 0
        for part in parts(prepared, lambda one: len(one[0]) + sum(map(size, one[1]))):
            texts, parameters = zip(*part, strict=True)
            cursor = await self._ask("; ".join(texts), tuple(chain.from_iterable(parameters)), answers=len(part))
            changed += cursor.changed
        return changed

    async def _ask(self, text: str, parameters: Sequence[Any] = (), answers: int = 1) -> Any:
        """The cursor with the answer to the statement, the last one of several."""
        unsent, self._unsent = self._unsent, []
        self._began = self._began or bool(unsent)
        try:
            async with asyncio.timeout(self.timeout):
                cursor = await self._connection.cursor(_Cursor)
                await cursor.execute(self._packed((*unsent, cursor.mogrify(text, parameters))))
                for _ in range(len(unsent) + answers - 1):
                    await cursor.nextset()
        except DRIVER_ERRORS as error:
            meaning = translated(error, self._where)
            if self._ours and isinstance(meaning, BackendUnavailable):
                self._connection.close()
            raise meaning from error
        return cursor

    def _packed(self, statements: Sequence[str]) -> bytes:
        """All of it as the driver sends it; more than the server accepts would break the connection."""
        sent = "; ".join(statements).encode(self._connection.encoding)
        if len(sent) >= self._packet:
            raise ValueError(
                f"{self._where} accepts {self._packet} bytes in one statement, and this one needs {len(sent)}: "
                f"raise the server's max_allowed_packet"
            )
        return sent


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """Does not log in without TLS when TLS was asked for, as the driver would where a server offers none."""

    async def _request_authentication(self) -> None:
        own: Any = self
        try:
            if own._ssl_context is not None and not own.server_capabilities & CLIENT.SSL:
                raise OperationalError(2026, "the server offers no TLS")
            await super()._request_authentication()
        except BaseException:
            self.close()
            raise

    @property
    def encrypted(self) -> bool:
        own: Any = self
        return own._writer.get_extra_info("ssl_object") is not None

    def close(self) -> None:
        """At once: with TLS the driver's way is to wait for the server's goodbye, and nobody would be there to hear it."""
        own: Any = self
        if own._writer is not None:
            own._writer.transport.abort()
        super().close()


class _Cursor(aiomysql.Cursor):  # type: ignore[misc]
    """Counts the rows that several statements changed, and asks for no warnings: another round trip, and Python warns."""

    changed = 0

    async def _do_get_result(self) -> None:
        await super()._do_get_result()
        own: Any = self
        own.changed += own.rowcount

    async def _show_warnings(self, conn: Any) -> None:
        pass


def size(value: object) -> int:
    """How many bytes the value takes in a statement, at most."""
    if not isinstance(value, str):
        return 40
    if len(value) < 1_000:
        return 4 * len(value) + 2
    return len(value.encode()) + sum(map(value.count, ESCAPED)) + 2


def parts(rows: Sequence[T], weigh: Callable[[T], int] = size, most: int = 1_000) -> Iterator[Sequence[T]]:
    """The rows in parts of at most `most` and, with what `weigh` says of each, not too many bytes for one statement."""
    begin = weight = 0
    for n, row in enumerate(rows):
        more = weigh(row)
        if n > begin and (n - begin == most or weight + more > STATEMENT):
            yield rows[begin:n]
            begin, weight = n, 0
        weight += more
    if rows:
        yield rows[begin:]


def as_positional(statement: str, values: Values) -> tuple[str, tuple[Any, ...]]:
    """The statement and its parameters as aiomysql wants them."""
    text, names = positional(statement)
    given = tuple(values[name] for name in names)
    if not any(isinstance(value, Several) for value in given):
        return text, given
    signs: list[str] = []
    flat: list[Any] = []
    for value in given:
        if isinstance(value, Several):
            signs.append(value.between.join([value.sign] * len(value.rows)))
            flat.extend(chain.from_iterable(value.rows))
        else:
            signs.append("%s")
            flat.append(value)
    return text.replace("%%", "%%%%") % tuple(signs), tuple(flat)


def translated(error: BaseException, where: str) -> Exception:
    """What the error means; the error itself when it is a mistake of ours."""
    code = _code(error)
    if code in CONFLICTS:
        return Conflict(f"{where}: {_said(error)}")
    if code in REFUSED:
        return ValueError(f"{where} refuses the value: {_said(error)}")
    if code in MISSING:
        return SchemaMismatch(f"{where}: the tables do not fit this Sidequest: {_said(error)}; run: sidequest migrate up")
    if code in DONE_BEFORE:
        return _DoneBefore(_said(error))
    if code in FULL:
        return BackendFull(f"{where}: {_said(error)}")
    if isinstance(error, TimeoutError):
        return BackendUnavailable(f"{where} did not answer in time")
    if isinstance(error, DRIVER_ERRORS):
        return BackendUnavailable(f"{where}: {_said(error)}")
    assert isinstance(error, Exception)
    return error


def read_only(error: BaseException) -> bool:
    """Whether this came because the server takes no writes any more: its other connections are useless too."""
    return error.__cause__ is not None and _code(error.__cause__) in READ_ONLY


def _at_open(error: BaseException, where: str) -> Exception:
    if _code(error) in WRONG_URL or isinstance(_first(error), ssl.SSLCertVerificationError):
        return ConfigError(f"url: {where} cannot be used: {_said(error)}")
    if isinstance(error, RuntimeError):  # the driver cannot log in without the package that its message names
        return ConfigError(f"url: {where} cannot be used: {error}; run: pip install 'sidequest[mysql]'")
    return translated(error, where)


def _first(error: BaseException) -> BaseException:
    """The driver calls all that happens while it connects the same, and keeps the cause."""
    return error.__cause__ or error


def _said(error: BaseException) -> str:
    """Its message and number."""
    code = _code(error)
    if code is None:
        return str(error) or type(error).__name__
    first = _first(error)
    return f"{error.args[1]} ({code})" if first is error else f"{error.args[1]} ({code}): {first}"


def _code(error: BaseException) -> int | None:
    """The number of the error; None when it did not come from the server, or the driver has no number for it."""
    code = error.args[0] if isinstance(error, MySQLError) and len(error.args) > 1 else None
    return code if isinstance(code, int) else None
