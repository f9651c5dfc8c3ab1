"""THE STORE, on MongoDB: the client, transactions, and what MongoDB's errors mean to us.

Motor and PyMongo's own async client are spoken to in the same way; `settle` hides where they
differ. Errors are told apart by their code or kind, never by their text.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidName,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern

from sidequest.backends.mongo.url import Access
from sidequest.backends.work import PAUSE, Conflict, T
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch

DRIVER_ERRORS = (PyMongoError, BSONError, OverflowError, UnicodeEncodeError)
"""All that the drivers raise."""
CONFLICTS = frozenset({24, 46, 112, 117, 225, 246, 251, 267, 388})
"""LockTimeout, LockBusy, WriteConflict, ConflictingOperationInProgress, TransactionTooOld, SnapshotUnavailable,
NoSuchTransaction, PreparedTransactionInProgress, TransactionTooLargeForCache."""
REFUSED = frozenset({121, 10334, 11000, 11001, 12582, 17419, 17420})
"""Validation failed, too large, duplicate key, would grow too large."""
FULL = frozenset({14031, 8000})
"""OutOfDiskSpace; what Atlas says to who is over its quota."""
MISSING = frozenset({26, 27})
"""A collection, an index."""
WRONG_URL = frozenset({11, 13, 18, 69, 334, 8000})
"""When met at open: no such user, not allowed in, wrong password, wrong mechanism, Atlas's own."""
TRANSIENT = "TransientTransactionError"
"""The label of what ended a transaction that may be tried again as a whole."""
OLDEST = 9
"""The wire version of MongoDB 4.4: $unionWith, and hints for updates, came with it."""
MONGOS = "isdbgrid"
"""What a router of a sharded cluster answers instead of a replica set's name."""
FAREWELL = 1.0
"""Seconds in which to tell the server that one goes; it is told twice."""
GRACE = 5.0
"""Seconds for a transaction to be undone, and for a client to close."""
LARGEST_TRANSACTION = 16 * 1024 * 1024
"""Letters of new text: a server with a small cache has no room for a transaction that writes twice as much."""
AWAITED = 5.0
"""Seconds that the server may wait for news before it says that there are none."""

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
NAIVE: CodecOptions[dict[str, Any]] = CodecOptions()
LOCAL = ReadConcern("local")
"""All that we read is on the primary, and what we decide from it is confirmed by a write to the majority."""
SNAPSHOT = ReadConcern("snapshot")
MAJORITY = ReadConcern("majority")
"""What a change stream insists on."""


async def settle(answer: Any) -> Any:
    """The answer of a method that is a coroutine in one driver and none in the other."""
    return await answer if inspect.isawaitable(answer) else answer


# Clients and sessions, and whether something is one


def make_client(access: Access) -> Any:
    """A client of our own, not yet connected. Raises ConfigError."""
    try:
        if access.driver == "motor":
            return import_module("motor.motor_asyncio").AsyncIOMotorClient(access.uri, **access.client)
        return AsyncMongoClient(access.uri, connect=False, **access.client)
    except (ConfigurationError, InvalidName, ValueError, TypeError, OSError) as error:
        raise ConfigError(f"url: {error}") from error


async def close_client(client: Any) -> None:
    """Let go of the connections within `GRACE` seconds. Motor would keep the loop waiting."""
    with suppress(*DRIVER_ERRORS, TimeoutError), pymongo.timeout(FAREWELL):
        async with asyncio.timeout(GRACE):
            await (client.close() if isinstance(client, AsyncMongoClient) else asyncio.to_thread(client.close))


def is_client(given: object) -> bool:
    """Whether this is an AsyncIOMotorClient or AsyncMongoClient."""
    motor: Any = sys.modules.get("motor.motor_asyncio")
    return isinstance(given, AsyncMongoClient) or (motor is not None and isinstance(given, motor.AsyncIOMotorClient))


def in_transaction(given: object) -> Any:
    """The user's session, if jobs can become part of its transaction. Raises TypeError, ValueError."""
    motor: Any = sys.modules.get("motor.motor_asyncio")
    of_motor = motor is not None and isinstance(given, motor.AsyncIOMotorClientSession)
    if not of_motor and not isinstance(given, AsyncClientSession):
        raise TypeError(
            f"connection must be an AsyncIOMotorClientSession or AsyncClientSession with an open transaction, not {given!r}"
        )
    session: Any = given
    if session.has_ended or not session.in_transaction:
        raise ValueError("connection has no open transaction: call its start_transaction(), or leave connection= out")
    return session


# The database


class MongoDatabase:
    """The collections, by way of one client, and how units of work on them are done.

    On a replica set (or through mongos) a transaction is all or nothing. A standalone server has
    none: there `transaction` gives None, and each document is written by itself.
    """

    def __init__(self, client: Any, access: Access, prefix: str, where: str) -> None:
        self.client = client
        self.where = where
        self.prefix = prefix
        self.transactions = False
        self.members: frozenset[str] = frozenset()
        """Where this is, in the servers' own words; empty for a standalone server."""
        self._access = access
        self._admin = client.get_database("admin", CODEC, ReadPreference.PRIMARY)
        self.database = self._database_of(client)
        self.jobs = self.database[f"{prefix}jobs"]
        self.claimed = self.jobs.with_options(codec_options=NAIVE)
        """The jobs, read faster: their instants do not say that they are in UTC."""
        self.queues = self.database[f"{prefix}queues"]
        self.engines = self.database[f"{prefix}engines"]
        self.counters = self.database[f"{prefix}counters"]
        self.locks = self.database[f"{prefix}locks"]
        self.steps = self.database[f"{prefix}migrations"]
        self.signals = self.database.get_collection(f"{prefix}signals", read_concern=MAJORITY)

    def _database_of(self, client: Any) -> Any:
        return client.get_database(self._access.database, CODEC, ReadPreference.PRIMARY, self._access.write_concern, LOCAL)

    def jobs_through(self, session: Any) -> Any:
        """The jobs by way of the client that the user's session belongs to: it works with no other."""
        return self._database_of(session.client)[self.jobs.name]

    async def greet(self) -> None:
        """Learn what server this is. Raises ConfigError for one that cannot be used, BackendUnavailable."""
        try:
            with pymongo.timeout(self._access.connect_timeout):
                hello = await self._admin.command("hello")
                # Changes nothing: whether we may read and write is asked before anything depends on it.
                await self.steps.find_one({"_id": ""})
                await self.steps.update_one({"_id": ""}, {"$set": {"needs": ""}})
        except DRIVER_ERRORS as error:
            raise _at_open(error, self.where) from error
        if hello["maxWireVersion"] < OLDEST:
            raise ConfigError(f"MongoDB 4.4 or newer is needed; {self.where} is older")
        self.members = _members(hello)
        self.transactions = bool(self.members)

    @property
    def command_timeout(self) -> float:
        """Seconds that a unit of work may take."""
        return self._access.command_timeout

    @property
    def await_ms(self) -> int:
        """How long the server may wait for news; well below the time after which it counts as frozen."""
        return round(1000 * min(AWAITED, self.command_timeout / 2))

    async def time(self) -> datetime:
        """The server's clock."""
        said: datetime = (await self._admin.command("hello", codec_options=CODEC))["localTime"]
        return said

    async def command(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run a command that writes, without the driver's own retries. Instants come naive."""
        durable = {**command, "writeConcern": self._access.write_concern.document}
        answer: Mapping[str, Any] = await self.database.command(durable, codec_options=NAIVE)
        return answer

    async def ping(self) -> None:
        await self._admin.command("ping")

    async def facts(self) -> Mapping[str, str]:
        """What every user may ask, and how we write."""
        version = (await self._admin.command("buildInfo"))["version"]
        hello = await self._admin.command("hello")
        concern = self._access.write_concern.document
        return {
            "version": version,
            "replica_set": hello.get("setName", "none" if hello.get("msg") != MONGOS else "mongos"),
            "members": str(len(hello.get("hosts", ())) or 1),
            "w": str(concern.get("w", "1")),
            "journal": str(concern.get("j", False)).lower(),
        }

    async def names(self) -> Sequence[str]:
        """The names of all collections."""
        found: Sequence[str] = await self.database.list_collection_names()
        return found

    async def advance(self, count: int) -> int:
        """Raise the counter of the jobs' ids by so many; what it is then."""
        raised = {"$inc": {"last": count}}
        counter = await self.counters.find_one_and_update({"_id": "jobs"}, raised, return_document=ReturnDocument.AFTER)
        if counter is None:
            raise SchemaMismatch(f"{self.where}: the counter of the jobs' ids is not there; run: sidequest migrate up")
        last: int = counter["last"]
        return last

    async def same_server(self, session: Any) -> bool:
        """Whether the user's session speaks to the replica set that we speak to, or as we do through mongos."""
        theirs = _members(await session.client.get_database("admin", CODEC, ReadPreference.PRIMARY).command("hello"))
        return bool(self.members & theirs)

    async def within(self, seconds: float | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, in at most so many seconds (None: as many as a unit of work may take)."""
        canceled = _cancellations()
        try:
            with pymongo.timeout(self._access.command_timeout if seconds is None else seconds):
                answer = await work()
        except DRIVER_ERRORS as error:
            raise translated(error, self.where) from error
        if _cancellations() > canceled:  # PyMongo's async client may keep one to itself: Python 3.11's `wait_for` does
            raise asyncio.CancelledError
        return answer

    async def next_signal(self, stream: Any) -> bool:
        """Whether the stream of changes has one; False when there was none for `AWAITED` seconds."""
        asked = asyncio.ensure_future(stream.try_next())
        try:
            await asyncio.wait([asked])
        finally:
            while not asked.done():  # canceled, perhaps more than once: see `within`
                asked.cancel()
                await asyncio.wait([asked], timeout=PAUSE)
        return asked.result() is not None

    @asynccontextmanager
    async def transaction(self, *, wanted: bool = True) -> AsyncGenerator[Any, None]:
        """A session in a transaction, which is committed at the end of the block; None where there is none."""
        if not wanted or not self.transactions:
            yield None
            return
        session = await settle(self.client.start_session())
        try:
            await settle(session.start_transaction(SNAPSHOT, self._access.write_concern, ReadPreference.PRIMARY))
            yield session
            await session.commit_transaction()
        finally:
            if session.in_transaction:  # however late it is: what stays open is in everybody's way for a minute
                await asyncio.create_task(_undo(session), context=Context())
            await session.end_session()


def _cancellations() -> int:
    """How often the running task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _undo(session: Any) -> None:
    with suppress(*DRIVER_ERRORS), pymongo.timeout(GRACE):
        await session.abort_transaction()


def _members(hello: Mapping[str, Any]) -> frozenset[str]:
    """The members of the replica set, by its name and theirs. (One mongos cannot be told from that of another cluster.)"""
    if hello.get("msg") == MONGOS:
        return frozenset([MONGOS])
    hosts = (*hello.get("hosts", ()), *hello.get("passives", ()))
    return frozenset(f"{hello['setName']}/{host}" for host in hosts) if "setName" in hello else frozenset()


# What errors mean


def translated(error: BaseException, where: str) -> Exception:
    """What the error means; the error itself when it is a mistake of ours."""
    if isinstance(error, BSONError | OverflowError | UnicodeEncodeError):
        return ValueError(f"{where} cannot take the value: {error}")
    if isinstance(error, InvalidOperation):
        return BackendUnavailable(f"{where}: {error}")  # the client was closed under us
    assert isinstance(error, PyMongoError)
    code = _code(error)
    if error.timeout or isinstance(error, ServerSelectionTimeoutError):
        return BackendUnavailable(f"{where} did not answer in time: {_said(error)}")
    if code in CONFLICTS or error.has_error_label(TRANSIENT):
        return Conflict(f"{where}: {_said(error)}")
    if code in REFUSED:
        return ValueError(f"{where} refuses the value: {_said(error)}")
    if code in MISSING:
        return SchemaMismatch(f"{where}: the collections do not fit this Sidequest: {_said(error)}; run: sidequest migrate up")
    return (BackendFull if code in FULL else BackendUnavailable)(f"{where}: {_said(error)}")


def _at_open(error: BaseException, where: str) -> Exception:
    if _code(error) in WRONG_URL:
        hint = (
            "; who was created in another database than this one needs ?authSource=… in the URL" if _code(error) == 18 else ""
        )
        return ConfigError(f"url: {where} cannot be used: {_said(error)}{hint}")
    if isinstance(error, ConfigurationError):
        return ConfigError(f"url: {where} cannot be used: {error}")
    meaning = translated(error, where)
    return BackendUnavailable(str(meaning)) if isinstance(meaning, Conflict) else meaning


def _code(error: BaseException) -> int | None:
    """The server's code; None when the error did not come from the server."""
    if isinstance(error, BulkWriteError):
        return next((found["code"] for found in _write_errors(error)), None)
    code: int | None = getattr(error, "code", None)
    return code


def _said(error: BaseException) -> str:
    """What the error says, without what the drivers add."""
    if isinstance(error, BulkWriteError):
        return next((found["errmsg"] for found in _write_errors(error)), str(error))
    if isinstance(error, OperationFailure) and isinstance(error.details, Mapping):
        return f"{error.details.get('errmsg', error)} ({error.details.get('codeName', error.code)})"
    return str(error).partition(", Timeout: ")[0]


def _write_errors(error: BulkWriteError) -> list[Any]:
    details: Any = error.details
    return [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
