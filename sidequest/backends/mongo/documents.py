"""THE STORE, on MongoDB: documents and records, and filters as users mean them.

A document's fields are called as the columns of the SQL tables, `_id` being the id or the name; what
has no value is absent, tags are an array. Instants are dates of whole milliseconds, rounded down;
but a job's time that is still to come is rounded up, so that no job starts early.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sidequest.backends.base import EngineRecord, Home, JobFilter, WorkerGroup
from sidequest.backends.instants import EPOCH, MICROSECOND, MILLISECOND, milliseconds
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobEnd, JobRecord, NewJob, Progress
from sidequest.jobs.states import State

Document = dict[str, Any]

BY_ID = [("_id", 1)]
"""A hint: whatever else an update by ids asks for, no other index is to be tried."""
NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
ALMOST_A_MILLISECOND = MILLISECOND - MICROSECOND
CLAIM_ORDER = [("priority", -1), ("available_at", 1), ("_id", 1)]
HELD_STATES = ["claimed", "running"]
FINAL_STATES = ["completed", "failed", "canceled"]
NEEDLESS = {"engine": False, "claimed_at": False, "state": False, "result": False, "unique_lock": False}
"""What a claimed job does not carry."""
END = {"name": True, "state": True, "result": True, "errors": True}
"""What one who waits for a job's end wants to know."""


# From documents to records


def claim_rank(document: Document) -> tuple[int, datetime, int]:
    return -document["priority"], document["available_at"], document["_id"]


def claimed_job(document: Document) -> ClaimedJob:
    """From a document that was read with instants as they are: naive, in UTC."""
    get = document.get
    tags = get("tags")
    return ClaimedJob(
        document["_id"], document["lease"], document["name"], document["queue"], document["args"], document["attempt"],
        document["max_attempts"], get("timeout_ms"), get("kill_grace_ms"), document["backoff"], document["retry_delay_ms"],
        document["isolated"], None if tags is None else json.dumps(tags, ensure_ascii=False), get("meta"), get("errors"),
        document["interrupts"], document["crashes"], document["snoozes"],
        (document["inserted_at"] - NAIVE_EPOCH) // MICROSECOND,
    )  # fmt: skip


def job_record(document: Document) -> JobRecord:
    get = document.get
    timeout_ms, kill_grace_ms = get("timeout_ms"), get("kill_grace_ms")
    return JobRecord(
        id=document["_id"],
        name=document["name"],
        queue=document["queue"],
        state=State(document["state"]),
        priority=document["priority"],
        available_at=document["available_at"],
        attempt=document["attempt"],
        max_attempts=document["max_attempts"],
        timeout=None if timeout_ms is None else timeout_ms * MILLISECOND,
        kill_grace=None if kill_grace_ms is None else kill_grace_ms * MILLISECOND,
        backoff=document["backoff"],
        retry_delay=document["retry_delay_ms"] * MILLISECOND,
        isolated=document["isolated"],
        tags=tuple(get("tags", ())),
        engine=get("engine"),
        lease=get("lease"),
        inserted_at=document["inserted_at"],
        claimed_at=get("claimed_at"),
        started_at=get("started_at"),
        finished_at=get("finished_at"),
        cancel_requested_at=get("cancel_requested_at"),
        interrupts=document["interrupts"],
        crashes=document["crashes"],
        snoozes=document["snoozes"],
        progress=Progress.from_json(get("progress")),
        args_json=document["args"],
        meta_json=get("meta"),
        result_json=get("result"),
        errors_json=get("errors"),
    )


def queue_record(document: Document) -> QueueRecord:
    return QueueRecord(document["_id"], document["concurrency"], document["priority"], document["paused"])


def by_rank(queues: Iterable[QueueRecord]) -> Sequence[QueueRecord]:
    """By priority (highest first), then name: byte by byte, as the SQL databases compare."""
    return sorted(queues, key=lambda queue: (-queue.priority, queue.name.encode()))


def job_end(document: Document) -> JobEnd:
    """From a document with the fields `END`."""
    state = State(document["state"])
    return JobEnd(document["_id"], document["name"], state, document.get("result"), document.get("errors"))


def engine_record(document: Document) -> EngineRecord:
    return EngineRecord(
        id=document["_id"],
        **{name: document[name] for name in ("host", "pid", "version", "queues", "started_at", "heartbeat_at", "beat")},
        home=Home(document["boot"], document["pid_namespace"], document["pid_born"]),
        workers=tuple(WorkerGroup(pid, born) for pid, born in document["workers"]),
        given_up_by=document.get("given_up_by"),
    )


# From records to documents


def new_documents(ids: Iterable[int], jobs: Iterable[NewJob], now: datetime) -> Sequence[Document]:
    """What an insert of the jobs at `now` writes. Raises TypeError for a job without name, queue or arguments."""
    inserted_at = stored(now)
    return [_new_document(id, job, now, inserted_at) for id, job in zip(ids, jobs, strict=True)]


def _new_document(id: int, job: NewJob, now: datetime, inserted_at: datetime) -> Document:
    if not (isinstance(job.name, str) and isinstance(job.queue, str) and isinstance(job.args, str)):
        raise TypeError("a job needs text as its name, its queue and its arguments")
    due = job.at if job.at is not None else now if job.delay is None else now + job.delay
    document: Document = {
        "_id": id,
        "name": job.name,
        "queue": job.queue,
        "args": job.args,
        "state": "waiting",
        "ready": due <= now,
        "priority": job.priority,
        "available_at": inserted_at if due is now else stored_due(due, now),
        "attempt": 0,
        "max_attempts": job.max_attempts,
        "backoff": job.backoff,
        "retry_delay_ms": milliseconds(job.retry_delay),
        "isolated": job.isolated,
        "interrupts": 0,
        "crashes": 0,
        "snoozes": 0,
        "inserted_at": inserted_at,
    }
    if job.timeout is not None:
        document["timeout_ms"] = milliseconds(job.timeout)
    if job.kill_grace is not None:
        document["kill_grace_ms"] = milliseconds(job.kill_grace)
    if job.tags:
        document["tags"] = list(job.tags)
    if job.meta is not None:
        document["meta"] = job.meta
    return document


def queue_fields(queue: QueueRecord, now: datetime) -> Document:
    """All but its `_id`, which is its name."""
    return {"priority": queue.priority, "concurrency": queue.concurrency, "paused": queue.paused, "updated_at": now}


def engine_fields(host: str, pid: int, version: str, queues: str, home: Home, now: datetime) -> Document:
    """All but its `_id`."""
    return {
        "host": host, "pid": pid, "version": version, "queues": queues, "started_at": now, "heartbeat_at": now, "beat": 0,
        "boot": home.boot, "pid_namespace": home.pid_namespace, "pid_born": home.born, "workers": [],
    }  # fmt: skip


# Filters


def where(which: JobFilter) -> Document:
    """The jobs of the filter. What users typed is compared and never obeyed, whatever is in it."""
    found: Document = {}
    if which.states:
        found["state"] = {"$in": [state.value for state in which.states]}
    for field, value in (("queue", which.queue), ("name", which.name), ("tags", which.tag)):
        if value is not None:
            found[field] = {"$eq": value}
    if which.text is not None:
        found["$expr"] = {"$or": [_contains(field, which.text) for field in ("name", "args", "errors")]}
    inserted: Document = {}
    if which.since is not None:
        inserted["$gte"] = which.since
    if which.until is not None:
        inserted["$lt"] = which.until
    return found | {"inserted_at": inserted} if inserted else found


def _contains(field: str, text: str) -> Document:
    """MongoDB's `$toLower` knows ASCII only; a regular expression could hold neither a long text nor a NUL."""
    lower = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    return {"$gte": [{"$indexOfBytes": [{"$toLower": f"${field}"}, {"$literal": lower}]}, 0]}


# Instants


def stored(instant: datetime) -> datetime:
    """As documents hold it: in UTC without saying so, and down to a whole millisecond."""
    utc = instant.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000, tzinfo=None)


def stored_due(due: datetime, now: datetime) -> datetime:
    """The same, but up to a whole millisecond if it is still to come."""
    return stored(due if due <= now else due.astimezone(UTC) + ALMOST_A_MILLISECOND)
