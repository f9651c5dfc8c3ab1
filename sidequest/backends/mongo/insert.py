"""THE STORE, on MongoDB: storing new jobs, in transactions of ours and of the users'.

Queues are created before the jobs, and never in a transaction: there two that create the same one
would be in each other's way, and a queue without jobs harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any
from weakref import WeakSet

import pymongo
from pymongo.errors import DuplicateKeyError, PyMongoError

from sidequest.backends.mongo.documents import BY_ID, Document, new_documents, queue_fields
from sidequest.backends.mongo.ids import JobIds
from sidequest.backends.mongo.session import DRIVER_ERRORS, GRACE, LARGEST_TRANSACTION, TRANSIENT, MongoDatabase, translated
from sidequest.backends.server_time import ServerTime
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob


class Inserts:
    """Stores jobs; knows the ids that are this process's to give, and which queues there are."""

    def __init__(self, time: ServerTime) -> None:
        self._time = time
        self._ids = JobIds()
        self._known_queues: set[str] = set()
        self._known_clients: WeakSet[Any] = WeakSet()

    async def store(
        self, database: MongoDatabase, jobs: Sequence[NewJob], queue_defaults: QueueRecord, *, as_one: bool
    ) -> Sequence[int]:
        """Store the jobs, in one transaction (`as_one`, unless they are too large) or one by one; their ids."""
        documents = await self._documents(database, jobs, queue_defaults)
        if len(documents) == 1:
            await database.jobs.insert_one(documents[0])
        else:
            fits = sum(len(job.args) + len(job.meta or "") for job in jobs) <= LARGEST_TRANSACTION
            async with database.transaction(wanted=as_one and fits) as session:
                await _store_many(database, documents, session)
        return [document["_id"] for document in documents]

    async def store_through(
        self, database: MongoDatabase, session: Any, jobs: Sequence[NewJob], queue_defaults: QueueRecord
    ) -> Sequence[int]:
        """Store the jobs in the user's transaction; their ids. Raises ValueError when it is one of another server.

        The driver's own error is passed on when the whole transaction may be tried again: the
        driver's `with_transaction` waits for it.
        """
        await self._check_server(database, session)
        documents = await database.within(None, lambda: self._documents(database, jobs, queue_defaults))
        try:
            with pymongo.timeout(database.command_timeout):
                await database.jobs_through(session).insert_many(documents, session=session)
        except DRIVER_ERRORS as error:
            if isinstance(error, PyMongoError) and error.has_error_label(TRANSIENT):
                raise
            raise translated(error, database.where) from error
        return [document["_id"] for document in documents]

    async def _documents(
        self, database: MongoDatabase, jobs: Sequence[NewJob], queue_defaults: QueueRecord
    ) -> Sequence[Document]:
        """The jobs as they are to be stored. Their queues exist when this returns."""
        ids = await self._ids.take(len(jobs), database.advance)
        now = self._time.now()  # not earlier: ids rise with it
        documents = new_documents(ids, jobs, now)
        fresh = {job.queue for job in jobs} - self._known_queues
        for name in sorted(fresh):
            await create_queue(database, name, queue_fields(queue_defaults, now))
        self._known_queues |= fresh
        return documents

    async def _check_server(self, database: MongoDatabase, session: Any) -> None:
        if not database.transactions:
            raise ValueError(f"{database.where} is a standalone server: it has no transactions that a job could be part of")
        if session.client not in self._known_clients:
            if not await database.within(None, lambda: database.same_server(session)):
                raise ValueError(f"connection belongs to another server than {database.where}")
            self._known_clients.add(session.client)


async def create_queue(database: MongoDatabase, name: str, fields: Document) -> bool:
    """Create it; False when it exists."""
    try:
        written = await database.queues.update_one({"_id": name}, {"$setOnInsert": fields}, upsert=True)
    except DuplicateKeyError:  # somebody else came first
        return False
    return written.upserted_id is not None


async def _store_many(database: MongoDatabase, documents: Sequence[Document], session: Any) -> None:
    try:
        await database.jobs.insert_many(documents, session=session)
    except BaseException as error:
        if session is None and not await _removed(database, documents):
            error.add_note("a part of the jobs may have been stored: this was no transaction")
        raise


async def _removed(database: MongoDatabase, documents: Sequence[Document]) -> bool:
    """Whether the jobs could be removed. It has a time of its own: that of the insert may be over."""
    ours = {  # and not what has an id that should have been ours, and made the insert fail
        "_id": {"$in": [document["_id"] for document in documents]}, "inserted_at": documents[0]["inserted_at"],
    }  # fmt: skip

    async def remove() -> bool:
        try:
            with pymongo.timeout(GRACE):
                await database.jobs.delete_many(ours, hint=BY_ID)
        except DRIVER_ERRORS:
            return False
        return True

    return await asyncio.create_task(remove(), context=Context())
