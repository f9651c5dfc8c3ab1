"""THE STORE, on MongoDB 4.4 or newer, by way of Motor or PyMongo's own async client.

On a replica set, and through mongos, what belongs together is one transaction, and engines are
woken by a change stream. A standalone server has neither: there each document is written by itself.
What then is left of "all or nothing" is said at the methods where it makes a difference: `insert`,
`apply` and `delete`; and engines find work by polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import ClassVar

from pymongo import ReturnDocument, UpdateOne

from sidequest import failpoints
from sidequest.backends.base import (
    NOWHERE,
    Backend,
    Bucket,
    Clock,
    EngineRecord,
    Home,
    JobFilter,
    Look,
    MigrationStatus,
    WorkerGroup,
)
from sidequest.backends.migrations import refuse_unfit
from sidequest.backends.mongo import changes as mongo_changes
from sidequest.backends.mongo import claim as mongo_claim
from sidequest.backends.mongo import counts as mongo_counts
from sidequest.backends.mongo import deletion as mongo_deletion
from sidequest.backends.mongo import schema as mongo_schema
from sidequest.backends.mongo.documents import (
    END,
    FINAL_STATES,
    HELD_STATES,
    NEEDLESS,
    Document,
    by_rank,
    claimed_job,
    engine_fields,
    engine_record,
    job_end,
    job_record,
    queue_fields,
    queue_record,
    where,
)
from sidequest.backends.mongo.insert import Inserts, create_queue
from sidequest.backends.mongo.session import (
    DRIVER_ERRORS,
    GRACE,
    MongoDatabase,
    close_client,
    in_transaction,
    is_client,
    make_client,
    settle,
    translated,
)
from sidequest.backends.mongo.url import ENGINE_POOL, read_url
from sidequest.backends.server_time import ServerTime
from sidequest.backends.shapes import groups
from sidequest.backends.work import Conflict, T, persist, to_the_end
from sidequest.clock import monotonic
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobEnd, JobRecord, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

PATIENCE = timedelta(seconds=5)
"""How long conflicts are tried again."""
NONE_AT_ALL = timedelta(0)
"""For a claim: what the first try has marked would not be among what the second one returns."""
CHUNK = 10_000
"""Ids in one filter."""

Unit = Callable[[MongoDatabase], Awaitable[T]]
"""Something that is done in the database."""


class MongoBackend(Backend):
    """`mongodb://user:password@host:27017/database`, or mongodb+srv://, with the options of `mongo_url`."""

    dialect: ClassVar[str] = "mongo"

    def __init__(self, url: DatabaseURL, role: str = "app", *, pool: object | None = None, clock: Clock | None = None) -> None:
        self._access = read_url(url, role)
        if pool is not None and not is_client(pool):
            raise TypeError(f"pool must be an AsyncIOMotorClient or AsyncMongoClient, not {pool!r}")
        super().__init__(url, role, pool=pool, clock=clock)
        self._time = ServerTime(clock)
        self._turn = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._database: MongoDatabase | None = None
        self._schema_seen = False
        # Of an engine's connections one listens, and one is kept for beats: the other work waits for its turn.
        self._turns = asyncio.Semaphore(ENGINE_POOL - 2) if role == "engine" else None
        self._at_work = 0
        self._idle = asyncio.Event()
        self._inserts = Inserts(self._time)

    # Opening

    async def open(self) -> None:
        try:
            async with self._turn:
                if self._database is None:
                    await to_the_end(self._open())  # PyMongo loses a connection whose making is cancelled
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        self._access.check_files()
        client = self.pool if self.pool is not None else make_client(self._access)
        self._database = MongoDatabase(client, self._access, self.url.prefix, self.url.shown)
        await self._database.greet()
        await self._measure_time(self._database)

    async def close(self) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        async with self._turn:
            database, self._database = self._database, None
        if database is None:
            return
        if self._at_work:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._access.command_timeout + GRACE):
                    await self._idle.wait()
        if database.client is not self.pool:
            await close_client(database.client)

    def now(self) -> datetime:
        return self._time.now()

    def ahead(self) -> timedelta:
        return self._time.ahead()

    async def _measure_time(self, database: MongoDatabase) -> None:
        asked_at = monotonic()
        self._time.measured(await database.within(None, database.time), asked_at)

    # How work is done

    async def _write(self, unit: Unit[T], *, patience: timedelta = PATIENCE) -> T:
        """Do the unit, also when the caller is cancelled; again after a conflict."""
        async with self._working() as database:
            return await to_the_end(persist(lambda: database.within(None, lambda: unit(database)), patience))

    async def _write_as_one(self, unit: Callable[[MongoDatabase, bool], Awaitable[T]]) -> T:
        """Do the unit in a transaction if there are any; document by document if it does not find room in one."""
        try:
            return await self._write(lambda database: unit(database, database.transactions))
        except BackendUnavailable as error:
            if not isinstance(error.__cause__, Conflict):  # a server says in these words too that it was too much
                raise
        return await self._write(lambda database: unit(database, False))

    async def _read(self, unit: Unit[T]) -> T:
        """Do the unit, which only reads; each of its commands sees what is committed by then."""
        async with self._working() as database:
            return await persist(lambda: database.within(None, lambda: unit(database)), PATIENCE)

    @asynccontextmanager
    async def _working(self, *, on_collections: bool = True, beating: bool = False) -> AsyncGenerator[MongoDatabase, None]:
        turn = nullcontext() if beating or self._turns is None else self._turn_of_work(self._turns)
        async with turn, self._counted(on_collections, measuring=not beating) as database:
            yield database

    @asynccontextmanager
    async def _turn_of_work(self, turns: asyncio.Semaphore) -> AsyncGenerator[None, None]:
        patience = self._access.command_timeout
        try:
            async with asyncio.timeout(patience):
                await turns.acquire()
        except TimeoutError:
            raise BackendUnavailable(f"{self.url.shown}: all connections were in use for {patience:g} s") from None
        try:
            yield
        finally:
            turns.release()

    @asynccontextmanager
    async def _counted(self, on_collections: bool, measuring: bool = True) -> AsyncGenerator[MongoDatabase, None]:
        database = self._database
        if database is None:
            raise BackendUnavailable(f"{self.url.shown} is not open")
        self._at_work += 1
        try:
            if measuring and self._time.stale:
                await self._measure_time(database)
            if on_collections and not self._schema_seen:
                await self._see_schema(database)
            yield database
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    # The schema

    async def migrate(self) -> Sequence[str]:
        seen = await self.migration_status()
        names: list[str] = []
        if seen.pending or seen.unknown:
            while name := await self._apply_next_step():
                names.append(name)
                await failpoints.reach("migrate.after_step")
        self._schema_seen = True
        return names

    async def _apply_next_step(self) -> str | None:
        async with self._working(on_collections=False) as database:

            def apply_next() -> Awaitable[str | None]:
                return database.within(mongo_schema.MIGRATION_TIMEOUT, lambda: mongo_schema.apply_next(database, self.now))

            return await to_the_end(persist(apply_next, PATIENCE))

    async def migration_status(self) -> MigrationStatus:
        async with self._working(on_collections=False) as database:
            return await database.within(None, lambda: mongo_schema.status(database))

    def migration_sql(self) -> str:
        return mongo_schema.as_text(self.url.prefix)

    async def check_schema(self) -> None:
        refuse_unfit(await self.migration_status(), self.url.shown)
        self._schema_seen = True

    async def drop_tables(self) -> None:
        async with self._working(on_collections=False) as database:
            self._schema_seen = False

            def drop() -> Awaitable[None]:
                return database.within(mongo_schema.MIGRATION_TIMEOUT, lambda: mongo_schema.drop(database))

            await to_the_end(persist(drop, PATIENCE))
            self._inserts = Inserts(self._time)  # the ids that it has in hand, and the queues that it knows, are gone too

    async def table_names(self, beginning: str) -> Sequence[str]:
        async with self._working(on_collections=False) as database:
            names = await database.within(None, database.names)
        return sorted(name for name in names if name.startswith(beginning))

    async def _see_schema(self, database: MongoDatabase) -> None:
        """MongoDB would make a collection that is not there, without its indexes. Raises SchemaMismatch."""
        refuse_unfit(await database.within(None, lambda: mongo_schema.status(database)), self.url.shown)
        self._schema_seen = True

    # The server

    async def ping(self) -> None:
        async with self._working(on_collections=False) as database:
            await database.within(None, database.ping)

    async def facts(self) -> Mapping[str, str]:
        async with self._working(on_collections=False) as database:
            return await database.within(None, database.facts)

    # Enqueueing

    async def insert(
        self, jobs: Sequence[NewJob], queue_defaults: QueueRecord, connection: object | None = None
    ) -> Sequence[int]:
        """A new queue stays, also when the user's own transaction is rolled back.

        On a standalone server, and with more than 16 MiB of them, jobs are stored one by one, and if
        one is refused, the others are removed again. A part of them stays if the server or this
        process dies meanwhile.
        """
        session = None if connection is None else in_transaction(connection)
        if not jobs:
            return ()
        if session is None:
            return await self._write_as_one(
                lambda database, as_one: self._inserts.store(database, jobs, queue_defaults, as_one=as_one)
            )
        async with self._working() as database:
            return await to_the_end(self._inserts.store_through(database, session, jobs, queue_defaults))

    # Telling engines that there is work

    @property
    def tells(self) -> bool:
        return self._database is not None and self._database.transactions

    async def announce(self) -> None:
        async with self._working() as database:
            if database.transactions:
                await database.within(None, lambda: _signal(database, self.now()))

    async def listen(self, heard: Callable[[], None]) -> None:
        database = self._database
        if database is None:
            raise BackendUnavailable(f"{self.url.shown} is not open")
        if not database.transactions:
            return
        try:
            async with await settle(database.signals.watch(max_await_time_ms=database.await_ms)) as stream:
                heard()
                while stream.alive:
                    if await database.next_signal(stream):
                        heard()
        except DRIVER_ERRORS as error:
            raise translated(error, self.url.shown) from error
        raise BackendUnavailable(f"{self.url.shown}: the change stream has ended")

    # An engine's work: every write is fenced

    async def look(self) -> Look:
        found = await self._read(lambda database: mongo_claim.look(database, self.now()))
        if not found.queues:
            await self.check_schema()  # somebody may have dropped all
        return found

    async def promote(self, limit: int) -> int:
        return await self._write(lambda database: mongo_claim.promote(database, limit, self.now()))

    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        wanted = {queue: room for queue, room in rooms.items() if room > 0}
        if not wanted:
            return ()
        claim = partial(mongo_claim.claim, engine=engine, lease=lease, rooms=wanted, now=self.now())
        async with self._claiming:  # at the same time they would take the same jobs from each other
            return await self._write(claim, patience=NONE_AT_ALL)

    async def apply(self, changes: Sequence[Change], *, skip_locked: bool = False) -> frozenset[int]:
        """On a standalone server, and with more than 16 MiB in them, changes are written one by one.

        A part of them is written if the server or this process dies meanwhile: applying all of them
        again writes the others, because the fence refuses those that are.
        """
        if not changes:
            return frozenset()
        if skip_locked:
            return frozenset([id for change in changes for id in await self._apply_if_free(change)])
        by_shape = groups(changes)
        return await self._write_as_one(
            lambda database, as_one: mongo_changes.write(database, by_shape, self.now(), as_one=as_one)
        )

    async def _apply_if_free(self, change: Change) -> frozenset[int]:
        """Outside of a transaction a write would wait for who has the job in one; inside it meets a conflict at once."""

        async def write(database: MongoDatabase) -> frozenset[int]:
            async with database.transaction() as session:
                return frozenset(await mongo_changes.write_alone(database, groups([change])[0], self.now(), session))

        try:
            return await self._write(write, patience=NONE_AT_ALL)
        except BackendUnavailable as error:
            if not isinstance(error.__cause__, Conflict):
                raise
        return frozenset([change.id])

    async def save_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        if reports:
            await self._write(lambda database: mongo_changes.save_progress(database, reports))

    async def cancel_requests(self, engine: str) -> Sequence[int]:
        asked = {"engine": engine, "cancel_requested_at": {"$exists": True}, "state": {"$in": HELD_STATES}}
        found = await self._found("jobs", asked, [("_id", 1)], fields={"_id": True})
        return [document["_id"] for document in found]

    # Engines

    async def register_engine(self, id: str, host: str, pid: int, version: str, queues: str, home: Home = NOWHERE) -> None:
        row = engine_fields(host, pid, version, queues, home, self.now())
        await self._write(lambda database: database.engines.replace_one({"_id": id}, row, upsert=True))

    async def beat(self, id: str, workers: Sequence[WorkerGroup] = (), within: timedelta | None = None) -> bool:
        alive = {"_id": id, "given_up_by": None}
        beaten = {"$inc": {"beat": 1}, "$set": {"heartbeat_at": self.now(), "workers": [list(group) for group in workers]}}
        seconds = None if within is None else within.total_seconds()
        async with self._working(beating=True) as database:
            written = await to_the_end(database.within(seconds, lambda: database.engines.update_one(alive, beaten)))
        return bool(written.matched_count)

    async def give_up_engine(self, id: str, by: str, beat: int | None = None) -> bool:
        as_seen = {"_id": id, "given_up_by": None} | ({} if beat is None else {"beat": beat})
        marked = {"$set": {"given_up_by": by}}
        written = await self._write(lambda database: database.engines.update_one(as_seen, marked))
        if written.matched_count:
            return True
        return bool(await self._found("engines", {"_id": id, "given_up_by": {"$ne": None}}, [("_id", 1)]))

    async def list_engines(self) -> Sequence[EngineRecord]:
        return [engine_record(found) for found in await self._found("engines", {}, [("started_at", 1), ("_id", 1)])]

    async def forget_engine(self, id: str) -> None:
        await self._write(lambda database: database.engines.delete_one({"_id": id}))

    async def held_by(self, engine: str, limit: int) -> Sequence[ClaimedJob]:
        held = {"state": {"$in": HELD_STATES}, "engine": engine}
        return [claimed_job(found) for found in await self._found("claimed", held, [("_id", 1)], limit, fields=NEEDLESS)]

    async def count_held(self) -> Mapping[str, int]:
        return await self._read(mongo_counts.count_held)

    # Reading

    async def get(self, id: int) -> JobRecord | None:
        found = await self._found("jobs", {"_id": id}, [("_id", 1)])
        return job_record(found[0]) if found else None

    async def get_many(self, ids: Iterable[int]) -> Sequence[JobRecord]:
        return [
            job_record(found)
            for chunk in _chunks(ids)
            for found in await self._found("jobs", {"_id": {"$in": chunk}}, [("_id", 1)])
        ]

    async def ends(self, ids: Iterable[int]) -> tuple[Sequence[JobEnd], frozenset[int]]:
        ended: list[JobEnd] = []
        missing: set[int] = set()
        for chunk in _chunks(ids):
            found = await self._found("jobs", {"_id": {"$in": chunk}}, [("_id", 1)], fields=END)
            missing.update(chunk)
            missing.difference_update(document["_id"] for document in found)
            ended += [job_end(document) for document in found if document["state"] in FINAL_STATES]
        return ended, frozenset(missing)

    async def list_jobs(self, which: JobFilter, limit: int, before: int | None = None) -> Sequence[JobRecord]:
        below = {} if before is None else {"_id": {"$lt": before}}
        return [job_record(found) for found in await self._found("jobs", where(which) | below, [("_id", -1)], limit)]

    async def list_after(self, id: int, queue: str | None, limit: int) -> Sequence[JobRecord]:
        later = where(JobFilter(queue=queue)) | {"_id": {"$gt": id}}
        return [job_record(found) for found in await self._found("jobs", later, [("_id", 1)], limit)]

    async def last_id(self) -> int:
        found = await self._found("jobs", {}, [("_id", -1)], 1, fields={"_id": True})
        return found[0]["_id"] if found else 0

    async def count(self, which: JobFilter) -> Mapping[State, int]:
        return await self._read(lambda database: mongo_counts.count(database, which))

    async def count_over_time(self, start: datetime, width: timedelta, buckets: int, queue: str | None) -> Sequence[Bucket]:
        return await self._read(lambda database: mongo_counts.count_over_time(database, start, width, buckets, queue))

    async def _found(
        self, collection: str, which: Document, order: Sequence[tuple[str, int]], limit: int = 0, fields: Document | None = None
    ) -> Sequence[Document]:
        """Up to `limit` documents (0: all) of the collection, in this order."""

        def find(database: MongoDatabase) -> Awaitable[Sequence[Document]]:
            cursor = getattr(database, collection).find(which, fields).sort(order)
            found: Awaitable[Sequence[Document]] = (cursor.limit(limit).batch_size(limit + 1) if limit else cursor).to_list(
                None
            )
            return found

        return await self._read(find)

    # Cleaning up

    async def delete(self, ids: Iterable[int]) -> frozenset[int]:
        """On a standalone server two who delete the same job at once may both be told that they did."""
        chunks = list(_chunks(ids))
        if not chunks:
            return frozenset()
        return await self._write_as_one(lambda database, as_one: mongo_deletion.delete(database, chunks, as_one=as_one))

    async def delete_finished(
        self, completed_before: datetime, failed_before: datetime, after: int, window: int
    ) -> tuple[int, int | None]:
        return await self._write(
            lambda database: mongo_deletion.delete_finished(database, completed_before, failed_before, after, window)
        )

    # Queues

    async def list_queues(self) -> Sequence[QueueRecord]:
        return by_rank(queue_record(found) for found in await self._found("queues", {}, [("_id", 1)]))

    async def get_queue(self, name: str) -> QueueRecord | None:
        found = await self._found("queues", {"_id": name}, [("_id", 1)])
        return queue_record(found[0]) if found else None

    async def create_queue(self, queue: QueueRecord) -> bool:
        fields = queue_fields(queue, self.now())
        return await self._write(lambda database: create_queue(database, queue.name, fields))

    async def update_queue(
        self, name: str, *, concurrency: int | None = None, priority: int | None = None, paused: bool | None = None
    ) -> QueueRecord | None:
        given = {"concurrency": concurrency, "priority": priority, "paused": paused}
        wanted = {field: value for field, value in given.items() if value is not None}
        if not wanted:
            return await self.get_queue(name)
        update = {"$set": {**wanted, "updated_at": self.now()}}
        found = await self._write(
            lambda database: database.queues.find_one_and_update({"_id": name}, update, return_document=ReturnDocument.AFTER)
        )
        return queue_record(found) if found else None

    async def save_queues(self, queues: Iterable[QueueRecord]) -> None:
        updates = [UpdateOne({"_id": queue.name}, {"$set": queue_fields(queue, self.now())}, upsert=True) for queue in queues]
        if updates:
            await self._write(lambda database: _save_queues(database, updates))

    async def purge_queue(self, name: str) -> int:
        """Piece by piece: what is broken off has deleted a part of them."""
        ids = await self._read(lambda database: mongo_deletion.waiting_in(database, name))
        deleted = 0
        for chunk in _chunks(ids):
            deleted += await self._write(partial(mongo_deletion.delete_waiting, ids=chunk))
        return deleted


async def _signal(database: MongoDatabase, now: datetime) -> None:
    """Change the one document that listeners watch. They hear of it when it is in the journal: not later for waiting."""
    await database.signals.update_one({"_id": "wake"}, {"$inc": {"count": 1}, "$set": {"at": now}}, upsert=True)


async def _save_queues(database: MongoDatabase, updates: Sequence[UpdateOne]) -> None:
    async with database.transaction() as session:
        await database.queues.bulk_write(updates, session=session)


def _chunks(ids: Iterable[int]) -> Iterator[Sequence[int]]:
    ordered = iter(sorted(set(ids)))
    while chunk := list(islice(ordered, CHUNK)):
        yield chunk
