"""THE STORE, in SQL. Rows and records: how each column of the SQL tables maps to what the code knows.

Instants pass through the dialect's `to_column` and `from_column`; all else is the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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

INSERTED = (
    "name", "queue", "args", "state", "ready", "priority", "available_at", "attempt", "max_attempts", "timeout_ms",
    "kill_grace_ms", "backoff", "retry_delay_ms", "isolated", "tags", "meta", "interrupts", "crashes", "snoozes",
    "inserted_at",
)  # fmt: skip
"""The columns that an insert writes; all others begin as NULL."""

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


def insert_row(job: NewJob, now: datetime, to_column: ToColumn) -> dict[str, Any]:
    """What an insert of the job at `now` writes."""
    due = job.at if job.at is not None else now + (job.delay or timedelta(0))
    return {
        "name": job.name,
        "queue": job.queue,
        "args": job.args,
        "state": State.WAITING.value,
        "ready": due <= now,
        "priority": job.priority,
        "available_at": to_column(due),
        "attempt": 0,
        "max_attempts": job.max_attempts,
        "timeout_ms": milliseconds(job.timeout),
        "kill_grace_ms": milliseconds(job.kill_grace),
        "backoff": job.backoff,
        "retry_delay_ms": milliseconds(job.retry_delay),
        "isolated": job.isolated,
        "tags": json.dumps(job.tags, ensure_ascii=False) if job.tags else None,
        "meta": job.meta,
        "interrupts": 0,
        "crashes": 0,
        "snoozes": 0,
        "inserted_at": to_column(now),
    }


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
