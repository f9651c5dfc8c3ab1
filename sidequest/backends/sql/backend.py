"""THE STORE. What is the same in every SQL dialect, written once.

A statement is either the same everywhere and stands here, or it differs: then it is abstract in
`dialect` and written in every dialect's own module, in the same order. Nothing is overridden. Parameters are
`:name`; statements are made of our own words and the checked prefix, never of what users typed.
"""
# ruff: noqa: S608 -- what is not a parameter comes from this package

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from sidequest import failpoints
from sidequest.backends import migrations
from sidequest.backends.base import (
    NOWHERE,
    Bucket,
    EngineRecord,
    Home,
    JobFilter,
    Look,
    MigrationStatus,
    QueueLook,
    WorkerGroup,
)
from sidequest.backends.instants import EPOCH, MICROSECOND
from sidequest.backends.shapes import Group, groups
from sidequest.backends.sql import filters
from sidequest.backends.sql.dialect import Dialect
from sidequest.backends.sql.rows import (
    CLAIMED,
    ENGINE,
    QUEUE,
    RECORD,
    claimed_job,
    engine_record,
    insert_parts,
    job_record,
    queue_record,
    queue_row,
    workers_column,
)
from sidequest.backends.sql.session import Session, Values, transaction
from sidequest.backends.work import Conflict, persist, to_the_end
from sidequest.errors import BackendUnavailable, SidequestError
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobEnd, JobRecord, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

FINAL_STATES = "('completed', 'failed', 'canceled')"
HELD_STATES = "('claimed', 'running')"
CHUNK = 5_000
"""Ids in one statement: one that names a million would hold up everybody else; from 8 000 on MySQL reads all there is."""


class SqlBackend(Dialect):
    """The store, in the words that all dialects share."""

    # The schema

    async def migrate(self) -> Sequence[str]:
        seen = await self.migration_status()
        if not seen.pending and not seen.unknown:
            return ()
        names: list[str] = []
        while name := await self.transact(self._apply_next_step):
            names.append(name)
            await failpoints.reach("migrate.after_step")
        return names

    async def _apply_next_step(self, session: Session) -> str | None:
        async with self.schema_lock(session):
            return await self._apply_next_locked(session)

    async def _apply_next_locked(self, session: Session) -> str | None:
        await session.execute(migrations.fill(self.STEPS_TABLE, self.url.prefix, self.schema))
        seen = await self._read_status(session)
        migrations.refuse_newer(seen, self.url.shown)
        steps = [step for step in migrations.steps(self.dialect) if step.name in seen.pending]
        if not steps:
            return None
        await failpoints.reach("migrate.before_step")
        try:
            for statement in steps[0].statements(self.url.prefix, self.schema):
                await session.execute(statement)
        except SidequestError as error:
            error.add_note(f"in schema step {steps[0].name} of {self.url.shown}")
            raise
        await failpoints.reach("migrate.before_commit")
        note = f"INSERT INTO {self.steps} (name, needs, applied_at) VALUES (:name, :needs, :now)"
        await session.execute(note, {"name": steps[0].name, "needs": steps[0].needs, "now": self.to_column(self.now())})
        return steps[0].name

    async def migration_status(self) -> MigrationStatus:
        return await self.read(self._read_status)

    async def _read_status(self, session: Session) -> MigrationStatus:
        known = migrations.steps(self.dialect)
        if not await self.table_exists(session, self.steps):
            return migrations.status(known, {})
        rows = await session.fetch(f"SELECT name, needs FROM {self.steps}")
        return migrations.status(known, dict(rows))

    def migration_sql(self) -> str:
        schema = [f"CREATE SCHEMA IF NOT EXISTS {self.schema.rstrip('.')};"] if self.schema else []
        parts = [*schema, f"{self.STEPS_TABLE};"]
        for step in migrations.steps(self.dialect):
            applied = self.STEP_APPLIED.replace("{step}", step.name).replace("{needs}", step.needs)
            parts += [f"-- {step.name}", step.text.strip(), f"{applied};"]
        return migrations.fill("\n\n".join(parts), self.url.prefix, self.schema) + "\n"

    async def check_schema(self) -> None:
        migrations.refuse_unfit(await self.migration_status(), self.url.shown)

    async def drop_tables(self) -> None:
        await self.transact(self._drop_all)
        self._known_queues.clear()

    async def _drop_all(self, session: Session) -> None:
        # The steps first: where no transaction takes a part of it back, `migrate` must not believe in what is gone.
        for table in (self.steps, self.jobs, self.queues, self.engines):
            if await self.table_exists(session, table):
                await session.execute(f"DROP TABLE {table}")

    # The server

    async def ping(self) -> None:
        await self.fetch("SELECT 1")

    # Enqueueing

    async def insert(
        self, jobs: Sequence[NewJob], queue_defaults: QueueRecord, connection: object | None = None
    ) -> Sequence[int]:
        session = None if connection is None else await self.session_on(connection)
        if not jobs:
            return ()
        if len(jobs) == 1 and session is None and jobs[0].queue in self._known_queues:
            return await self.autocommit(lambda session: self.insert_jobs(session, jobs, self.now()))
        parts = list(insert_parts(jobs))
        fresh = sorted({job.queue for job in jobs} - self._known_queues)
        work = partial(self._insert_all, parts=parts, fresh=[QueueRecord(name, *_settings(queue_defaults)) for name in fresh])
        if session is not None:  # the transaction is the user's: no retry, and nothing is known until it commits
            try:
                return await work(session)
            except Conflict as conflict:
                raise BackendUnavailable(f"the transaction met another one, and has to begin anew: {conflict}") from conflict
        ids = await (self.autocommit if len(parts) == 1 and not fresh else self.transact)(work)
        self._known_queues.update(fresh)
        return ids

    async def _insert_all(
        self, session: Session, parts: Sequence[Sequence[NewJob]], fresh: Sequence[QueueRecord]
    ) -> Sequence[int]:
        now = self.now()
        for queue in fresh:
            await self.insert_queue(session, queue_row(queue, now, self.to_column))
        ids: list[int] = []
        for part in parts:
            ids += await self.insert_jobs(session, part, now)
        return ids

    # An engine's work: every write is fenced

    async def look(self) -> Look:
        # The first in order, not EXISTS or min(): with those PostgreSQL may read all there is, 0.7 s for 400 000 jobs.
        # The order begins with the queue, or else MySQL sorts all that is ready in it.
        ready = f"WHERE {self.READY} AND queue = q.name ORDER BY queue, {self.CLAIM_ORDER} LIMIT 1"
        next_due = f"SELECT available_at FROM {self.jobs} WHERE {self.NOT_YET} ORDER BY available_at LIMIT 1"
        rows = await self.fetch(
            f"SELECT {QUEUE}, (SELECT 1 FROM {self.jobs} {ready}), ({next_due}) "
            f"FROM {self.queues} q ORDER BY priority DESC, name"
        )
        due = None if not rows or rows[0][5] is None else self.from_column(rows[0][5]) - self.now()
        return Look([QueueLook(queue_record(row), bool(row[4])) for row in rows], due)

    async def apply(self, changes: Sequence[Change], *, skip_locked: bool = False) -> frozenset[int]:
        if not changes:
            return frozenset()
        if skip_locked and self.LOCK_FREE_ROWS:
            return await self.transact(lambda session: self._write_free(session, changes))
        by_shape = groups(changes)
        one_statement = len(by_shape) == 1 and (self.WHOLE_GROUPS or len(changes) == 1)
        run = self.autocommit if one_statement else self.transact
        return await run(lambda session: self._write_all(session, by_shape, self.now()))

    async def _write_all(self, session: Session, by_shape: Sequence[Group], now: datetime) -> frozenset[int]:
        refused: set[int] = set()
        for group in by_shape:
            refused.update(await self.write_group(session, group, now))
        return frozenset(refused)

    async def _write_free(self, session: Session, changes: Sequence[Change]) -> frozenset[int]:
        """Lock what nobody else has locked, and write that; the ids of all else."""
        free: set[int] = set()
        for chunk in _chunks(change.id for change in changes):
            condition, values = self.among(chunk)
            found = f"SELECT id FROM {self.jobs} WHERE {condition} ORDER BY id{self.LOCK_FREE_ROWS}"
            free.update(id for (id,) in await session.fetch(found, values))
        refused = await self._write_all(session, groups([change for change in changes if change.id in free]), self.now())
        return refused | {change.id for change in changes if change.id not in free}

    async def save_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        if not reports:
            return
        statement = f"UPDATE {self.jobs} SET progress = :text WHERE id = :id AND lease = :lease AND state IN {HELD_STATES}"
        rows = [{"id": id, "lease": lease, "text": text} for id, lease, text in reports]
        await self.transact(lambda session: session.execute_many(statement, rows))

    async def cancel_requests(self, engine: str) -> Sequence[int]:
        rows = await self.fetch(
            f"SELECT id FROM {self.jobs} WHERE engine = :engine AND cancel_requested_at IS NOT NULL "
            f"AND state IN {HELD_STATES} ORDER BY id",
            {"engine": engine},
        )
        return [id for (id,) in rows]

    # Engines

    async def register_engine(self, id: str, host: str, pid: int, version: str, queues: str, home: Home = NOWHERE) -> None:
        values = {
            "id": id, "host": host, "pid": pid, "version": version, "queues": queues, "now": self.to_column(self.now()),
            **home._asdict(), "workers": workers_column(()),
        }  # fmt: skip
        # By the connection for beats: so it is there, whatever happens to the way to the server from now on.
        async with self.beating(None) as session:
            register = partial(self._register_engine, values=values)
            await to_the_end(persist(lambda: transaction(session, register), self.patience))

    async def _register_engine(self, session: Session, values: Values) -> None:
        await session.execute(f"DELETE FROM {self.engines} WHERE id = :id", {"id": values["id"]})
        await session.execute(
            f"INSERT INTO {self.engines} ({ENGINE}) VALUES (:id, :host, :pid, :version, :queues, :now, :now, 0, "
            f":boot, :pid_namespace, :born, :workers, NULL)",
            values,
        )

    async def beat(self, id: str, workers: Sequence[WorkerGroup] = (), within: timedelta | None = None) -> bool:
        statement = (
            f"UPDATE {self.engines} SET beat = beat + 1, heartbeat_at = :now, workers = :workers "
            f"WHERE id = :id AND given_up_by IS NULL"
        )
        values = {"id": id, "now": self.to_column(self.now()), "workers": workers_column(workers)}
        async with self.beating(within) as session:
            return await to_the_end(persist(lambda: session.execute(statement, values), timedelta(0))) == 1

    async def give_up_engine(self, id: str, by: str, beat: int | None = None) -> bool:
        as_seen = "" if beat is None else " AND beat = :beat"
        values = {"id": id, "by": by} | ({} if beat is None else {"beat": beat})
        statement = f"UPDATE {self.engines} SET given_up_by = :by WHERE id = :id AND given_up_by IS NULL{as_seen}"
        if await self.execute(statement, values):
            return True
        found = f"SELECT 1 FROM {self.engines} WHERE id = :id AND given_up_by IS NOT NULL"
        return bool(await self.fetch(found, {"id": id}))

    async def list_engines(self) -> Sequence[EngineRecord]:
        rows = await self.fetch(f"SELECT {ENGINE} FROM {self.engines} ORDER BY started_at, id")
        return [engine_record(row, self.from_column) for row in rows]

    async def forget_engine(self, id: str) -> None:
        await self.execute(f"DELETE FROM {self.engines} WHERE id = :id", {"id": id})

    async def held_by(self, engine: str, limit: int) -> Sequence[ClaimedJob]:
        rows = await self.fetch(
            f"SELECT {CLAIMED} FROM {self.jobs} WHERE engine = :engine AND state IN {HELD_STATES} ORDER BY id LIMIT :limit",
            {"engine": engine, "limit": limit},
        )
        return [claimed_job(row, self.from_column) for row in rows]

    async def count_held(self) -> Mapping[str, int]:
        rows = await self.fetch(f"SELECT engine, count(*) FROM {self.jobs} WHERE state IN {HELD_STATES} GROUP BY engine")
        return {row[0]: row[1] for row in rows}

    # Reading

    async def get(self, id: int) -> JobRecord | None:
        found = await self._records("WHERE id = :id", {"id": id})
        return found[0] if found else None

    async def get_many(self, ids: Iterable[int]) -> Sequence[JobRecord]:
        found: list[JobRecord] = []
        for chunk in _chunks(ids):
            condition, values = self.among(chunk)
            found += await self._records(f"WHERE {condition} ORDER BY id", values)
        return found

    async def ends(self, ids: Iterable[int]) -> tuple[Sequence[JobEnd], frozenset[int]]:
        ended: list[JobEnd] = []
        missing: set[int] = set()
        for chunk in _chunks(ids):
            condition, values = self.among(chunk)
            rows = await self.fetch(
                f"SELECT id, name, state, CASE WHEN state IN {FINAL_STATES} THEN result END, "
                f"CASE WHEN state IN {FINAL_STATES} THEN errors END FROM {self.jobs} WHERE {condition} ORDER BY id",
                values,
            )
            missing.update(chunk)
            missing.difference_update(row[0] for row in rows)
            found = (JobEnd(id, name, State(state), result, errors) for id, name, state, result, errors in rows)
            ended += [end for end in found if end.state.final]
        return ended, frozenset(missing)

    async def list_jobs(self, which: JobFilter, limit: int, before: int | None = None) -> Sequence[JobRecord]:
        clause, values = self._where(which)
        if before is not None:
            clause = f"{clause} AND id < :before" if clause else "WHERE id < :before"
            values["before"] = before
        values["limit"] = limit
        return await self._records(f"{clause} ORDER BY id DESC LIMIT :limit", values)

    async def list_after(self, id: int, queue: str | None, limit: int) -> Sequence[JobRecord]:
        in_queue = "" if queue is None else " AND queue = :queue"
        values = {"id": id, "limit": limit} | ({} if queue is None else {"queue": queue})
        return await self._records(f"WHERE id > :id{in_queue} ORDER BY id LIMIT :limit", values)

    async def last_id(self) -> int:
        rows = await self.fetch(f"SELECT max(id) FROM {self.jobs}")
        return rows[0][0] or 0

    async def count(self, which: JobFilter) -> Mapping[State, int]:
        clause, values = self._where(which)
        found = dict.fromkeys(State, 0)
        for state, number in await self.fetch(self.counts(clause), values):
            found[State(state)] += number
        return found

    async def count_over_time(self, start: datetime, width: timedelta, buckets: int, queue: str | None) -> Sequence[Bucket]:
        values = {
            "start": self.to_column(start),
            "stop": self.to_column(start + width * buckets),
            "start_us": (start - EPOCH) // MICROSECOND,
            "width_us": width // MICROSECOND,
        } | ({} if queue is None else {"queue": queue})
        in_queue = "" if queue is None else " AND queue = :queue"
        rows = await self.fetch(
            f"SELECT {self.bucket('inserted_at')}, 'enqueued', count(*) FROM {self.jobs} "
            f"WHERE inserted_at >= :start AND inserted_at < :stop{in_queue} GROUP BY 1 "
            f"UNION ALL SELECT {self.bucket('finished_at')}, state, count(*) FROM {self.jobs} "
            f"WHERE finished_at >= :start AND finished_at < :stop AND state IN {FINAL_STATES}{in_queue} GROUP BY 1, 2",
            values,
        )
        found: dict[tuple[int, str], int] = {(int(number), what): jobs for number, what, jobs in rows}
        kinds = ("enqueued", "completed", "failed", "canceled")
        return [Bucket(start + width * n, *(found.get((n, kind), 0) for kind in kinds)) for n in range(buckets)]

    def _where(self, which: JobFilter) -> tuple[str, dict[str, Any]]:
        return filters.where(which, self.to_column, self.in_states, self.contains, self.has_tag())

    async def _records(self, rest: str, values: Values) -> Sequence[JobRecord]:
        rows = await self.fetch(f"SELECT {RECORD} FROM {self.jobs} {rest}", values)
        return [job_record(row, self.from_column) for row in rows]

    # Cleaning up

    async def delete(self, ids: Iterable[int]) -> frozenset[int]:
        chunks = list(_chunks(ids))
        if not chunks:
            return frozenset()
        return await self.transact(lambda session: self._delete_all(session, chunks))

    async def _delete_all(self, session: Session, chunks: Sequence[Sequence[int]]) -> frozenset[int]:
        deleted: set[int] = set()
        for chunk in chunks:
            condition, values = self.among(chunk)
            free = f"SELECT id FROM {self.jobs} WHERE {condition} AND state NOT IN {HELD_STATES}{self.LOCK_ROWS}"
            found = [id for (id,) in await session.fetch(free, values)]
            condition, values = self.among(found)
            await session.execute(f"DELETE FROM {self.jobs} WHERE {condition}", values)
            deleted.update(found)
        return frozenset(deleted)

    async def delete_finished(
        self, completed_before: datetime, failed_before: datetime, after: int, window: int
    ) -> tuple[int, int | None]:
        cutoffs = {"completed_before": self.to_column(completed_before), "failed_before": self.to_column(failed_before)}
        old = (
            "(state IN ('completed', 'canceled') AND finished_at < :completed_before "
            "OR state = 'failed' AND finished_at < :failed_before)"
        )
        ((last, rows, oldest, found),) = await self.fetch(
            f"SELECT max(id), count(*), min(inserted_at), sum(CASE WHEN {old} THEN 1 ELSE 0 END) "
            f"FROM (SELECT id, inserted_at, state, finished_at FROM {self.jobs} "
            f"WHERE id > :after ORDER BY id LIMIT :window) w",
            {**cutoffs, "after": after, "window": window},
        )
        deleted = 0
        if found:
            statement = f"DELETE FROM {self.jobs} WHERE id > :after AND id <= :last AND {old}"
            deleted = await self.execute(statement, {**cutoffs, "after": after, "last": last})
        # Ids rise with inserted_at, and nothing finishes before it came.
        over = rows < window or self.from_column(oldest) >= max(completed_before, failed_before)
        return deleted, None if over else last

    # Queues

    async def list_queues(self) -> Sequence[QueueRecord]:
        rows = await self.fetch(f"SELECT {QUEUE} FROM {self.queues} ORDER BY priority DESC, name")
        return [queue_record(row) for row in rows]

    async def get_queue(self, name: str) -> QueueRecord | None:
        rows = await self.fetch(f"SELECT {QUEUE} FROM {self.queues} WHERE name = :name", {"name": name})
        return queue_record(rows[0]) if rows else None

    async def create_queue(self, queue: QueueRecord) -> bool:
        row = queue_row(queue, self.now(), self.to_column)
        return await self.autocommit(lambda session: self.insert_queue(session, row))

    async def update_queue(
        self, name: str, *, concurrency: int | None = None, priority: int | None = None, paused: bool | None = None
    ) -> QueueRecord | None:
        given = {"concurrency": concurrency, "priority": priority, "paused": paused}
        wanted = {column: value for column, value in given.items() if value is not None}
        if not wanted:
            return await self.get_queue(name)
        values = {**wanted, "name": name, "updated_at": self.to_column(self.now())}
        return await self.transact(lambda session: self._update_queue(session, (*wanted, "updated_at"), values))

    async def _update_queue(self, session: Session, columns: Iterable[str], values: Values) -> QueueRecord | None:
        sets = ", ".join(f"{column} = :{column}" for column in columns)
        await session.execute(f"UPDATE {self.queues} SET {sets} WHERE name = :name", values)
        rows = await session.fetch(f"SELECT {QUEUE} FROM {self.queues} WHERE name = :name", {"name": values["name"]})
        return queue_record(rows[0]) if rows else None

    async def save_queues(self, queues: Iterable[QueueRecord]) -> None:
        rows = [queue_row(queue, self.now(), self.to_column) for queue in queues]
        if rows:
            await self.transact(partial(self._save_queues, rows=rows))

    async def _save_queues(self, session: Session, rows: Sequence[Values]) -> None:
        for row in rows:
            if not await self.insert_queue(session, row):
                await self._update_queue(session, ("concurrency", "priority", "paused", "updated_at"), row)

    async def purge_queue(self, name: str) -> int:
        return await self.transact(lambda session: self._purge(session, name))

    async def _purge(self, session: Session, name: str) -> int:
        deleted = 0
        for waiting in (self.NOT_YET, self.READY):  # in this order: what is promoted in between is seen by the second
            statement = f"DELETE FROM {self.jobs} WHERE {waiting} AND queue = :queue{self.SOME_ROWS}"
            while piece := await session.execute(statement, {"queue": name}):
                deleted += piece
        return deleted


def _chunks(ids: Iterable[int]) -> Iterator[Sequence[int]]:
    ordered = iter(sorted(set(ids)))
    while chunk := list(islice(ordered, CHUNK)):
        yield chunk


def _settings(queue: QueueRecord) -> tuple[int, int, bool]:
    return queue.concurrency, queue.priority, queue.paused
