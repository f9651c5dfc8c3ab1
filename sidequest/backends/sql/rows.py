"""THE STORE, in SQL. Rows and records: how each column of the SQL tables maps to what the code knows.

Instants pass through the dialect's `to_column` and `from_column`; all else is the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sidequest.backends.base import EngineRecord, Home, WorkerGroup
from sidequest.backends.instants import EPOCH, MICROSECOND, MILLISECOND, milliseconds
from sidequest.backends.sql.session import Row
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobRecord, NewJob, Progress
from sidequest.jobs.states import State

ToColumn = Callable[[datetime], Any]
FromColumn = Callable[[Any], datetime]

INSERTED: tuple[str, ...] = (
    "name", "args", "queue", "ready", "priority", "available_at", "max_attempts", "timeout_ms", "kill_grace_ms", "backoff",
    "retry_delay_ms", "isolated", "tags", "meta", "inserted_at",
)  # fmt: skip
"""The columns in which new jobs may differ, in the order of `new_rows`."""
ALIKE = {"state": State.WAITING.value, "attempt": 0, "interrupts": 0, "crashes": 0, "snoozes": 0}
"""The columns in which all new jobs are alike; all others begin as NULL."""
ALIKE_COLUMNS = ", ".join(ALIKE)
ALIKE_VALUES = "'waiting', 0, 0, 0, 0"

MOST = 500
"""Jobs in one statement: more of them are not faster, and take the event loop for longer."""
LONGEST = 1024 * 1024
"""Letters of one statement. MySQL and MariaDB take 16 MiB at the least, a letter being up to four bytes."""
SHORT, LONGEST_TAG = 500, 104
"""Letters that a job takes beside its texts, at most."""

CLAIMED = (
    "id, lease, name, queue, args, attempt, max_attempts, timeout_ms, kill_grace_ms, backoff, retry_delay_ms, isolated, "
    "tags, meta, errors, interrupts, crashes, snoozes, inserted_at"
)
"""The columns of a `ClaimedJob`, in its order."""

RECORD = (
    "id, name, queue, state, priority, available_at, attempt, max_attempts, timeout_ms, kill_grace_ms, backoff, "
    "retry_delay_ms, isolated, tags, engine, lease, inserted_at, claimed_at, started_at, finished_at, "
    "cancel_requested_at, interrupts, crashes, snoozes, progress, args, meta, result, errors"
)
"""The columns of a `JobRecord`, in its order."""

QUEUE = "name, concurrency, priority, paused"
ENGINE = "id, host, pid, version, queues, started_at, heartbeat_at, beat, boot, pid_namespace, pid_born, workers, given_up_by"


def insert_parts(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """The jobs in parts that can be one statement each: as many as are of use, and not too long for any server."""
    if len(jobs) == 1:
        yield jobs
        return
    begin = length = 0
    for n, job in enumerate(jobs):
        more = SHORT + len(job.args) + len(job.meta or "") + LONGEST_TAG * len(job.tags)
        if n > begin and (n - begin == MOST or length + more > LONGEST):
            yield jobs[begin:n]
            begin, length = n, 0
        length += more
    yield jobs[begin:]


def new_rows(jobs: Iterable[NewJob], now: datetime, to_column: ToColumn) -> list[Row]:
    """What an insert of the jobs at `now` writes, in the order of `INSERTED`."""
    rows: list[Row] = []
    inserted_at = to_column(now)
    known = columns = None
    for job in jobs:
        way = job.way
        if way != known or columns is None:  # in a row there are many whose way is the same: they share its columns
            known, columns = way, (*_way_columns(job, now, to_column), inserted_at)
        rows.append((job.name, job.args, *columns))
    return rows


def new_columns(jobs: Sequence[NewJob], now: datetime, to_column: ToColumn) -> tuple[dict[str, Any], dict[str, Row]]:
    """The same by columns: those in which all of the jobs agree, and those in which they do not, at least one of these.

    What is the same for all need not travel with each, and jobs that come together agree in nearly all.
    """
    columns = dict(zip(INSERTED, zip(*new_rows(jobs, now, to_column), strict=True), strict=True))
    several = {name: column for name, column in columns.items() if column.count(column[0]) < len(column)}
    several.setdefault("name", columns["name"])
    return {name: column[0] for name, column in columns.items() if name not in several}, several


def _way_columns(job: NewJob, now: datetime, to_column: ToColumn) -> Row:
    due = job.at if job.at is not None else now + (job.delay or timedelta(0))
    return (
        job.queue, due <= now, job.priority, to_column(due), job.max_attempts, milliseconds(job.timeout),
        milliseconds(job.kill_grace), job.backoff, milliseconds(job.retry_delay), job.isolated,
        json.dumps(job.tags, ensure_ascii=False) if job.tags else None, job.meta,
    )  # fmt: skip


def queue_row(queue: QueueRecord, now: datetime, to_column: ToColumn) -> dict[str, Any]:
    return {
        "name": queue.name,
        "concurrency": queue.concurrency,
        "priority": queue.priority,
        "paused": queue.paused,
        "updated_at": to_column(now),
    }


def claimed_job(row: Row, from_column: FromColumn) -> ClaimedJob:
    """From a row that begins with the `CLAIMED` columns."""
    return ClaimedJob._make((*row[:11], bool(row[11]), *row[12:18], (from_column(row[18]) - EPOCH) // MICROSECOND))


def job_record(row: Row, from_column: FromColumn) -> JobRecord:
    """From a row of the `RECORD` columns."""
    id, name, queue, state, priority, available_at, attempt, max_attempts, timeout_ms, kill_grace_ms = row[:10]
    backoff, retry_delay_ms, isolated, tags, engine, lease, inserted_at, claimed_at, started_at, finished_at = row[10:20]
    cancel_requested_at, interrupts, crashes, snoozes, progress, args, meta, result, errors = row[20:]
    return JobRecord(
        id=id,
        name=name,
        queue=queue,
        state=State(state),
        priority=priority,
        available_at=from_column(available_at),
        attempt=attempt,
        max_attempts=max_attempts,
        timeout=None if timeout_ms is None else timeout_ms * MILLISECOND,
        kill_grace=None if kill_grace_ms is None else kill_grace_ms * MILLISECOND,
        backoff=backoff,
        retry_delay=retry_delay_ms * MILLISECOND,
        isolated=bool(isolated),
        tags=tuple(json.loads(tags)) if tags else (),
        engine=engine,
        lease=lease,
        inserted_at=from_column(inserted_at),
        claimed_at=_instant(claimed_at, from_column),
        started_at=_instant(started_at, from_column),
        finished_at=_instant(finished_at, from_column),
        cancel_requested_at=_instant(cancel_requested_at, from_column),
        interrupts=interrupts,
        crashes=crashes,
        snoozes=snoozes,
        progress=Progress.from_json(progress),
        args_json=args,
        meta_json=meta,
        result_json=result,
        errors_json=errors,
    )


def queue_record(row: Row) -> QueueRecord:
    """From a row that begins with the `QUEUE` columns."""
    name, concurrency, priority, paused = row[:4]
    return QueueRecord(name, concurrency, priority, bool(paused))


def engine_record(row: Row, from_column: FromColumn) -> EngineRecord:
    """From a row of the `ENGINE` columns."""
    id, host, pid, version, queues, started_at, heartbeat_at, beat = row[:8]
    boot, pid_namespace, pid_born, workers, given_up_by = row[8:]
    return EngineRecord(
        id, host, pid, version, queues, from_column(started_at), from_column(heartbeat_at), beat,
        Home(boot, pid_namespace, pid_born), worker_groups(workers), given_up_by,
    )  # fmt: skip


def workers_column(groups: Sequence[WorkerGroup]) -> str:
    return json.dumps(groups, separators=(",", ":"))


def worker_groups(column: str) -> tuple[WorkerGroup, ...]:
    return tuple(WorkerGroup(pid, born) for pid, born in json.loads(column))


def _instant(value: Any, from_column: FromColumn) -> datetime | None:
    return None if value is None else from_column(value)
