"""ENGINE and WORKER PROCESS. The messages between them: jobs out, ends back.

`struct` headers and JSON text: the engine never looks into arguments and results, and what a worker
sends is never unpickled. What is no message of ours raises BrokenFrame when it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from sidequest.jobs.outcome import (
    Completed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    Snoozed,
    Stopped,
)
from sidequest.jobs.record import ClaimedJob, Progress
from sidequest.wire.frames import BrokenFrame, Kind, pack, pack_json, read_json

_RUN = struct.Struct("<qiiqqIHHII")
_END = struct.Struct("<qBqqI")
_STARTED = struct.Struct("<qq")
_ID = struct.Struct("<q")
_HALT = struct.Struct("<qB")
MOST_BEHIND = 256
"""Jobs of one queue that may wait in a worker at a time."""
LONGEST_FINDING = 300
"""Characters of what was found in a spoiled worker; the rest is of no use to anybody."""


RETURNED_NOTHING = Completed(None)
"""What most jobs end with."""


class Role(StrEnum):
    """What a worker is for: one sync job at a time, or many async ones."""

    SYNC = "sync"
    ASYNC = "async"


class StopReason(IntEnum):
    """Why a running job must stop."""

    TIMEOUT = 1
    CANCEL = 2
    SHUTDOWN = 3
    LEASE = 4

    def describe(self, timeout: float | None = None) -> str:
        match self:
            case StopReason.TIMEOUT:
                return f"the timeout of {timeout:g} s was reached" if timeout is not None else "the timeout was reached"
            case StopReason.CANCEL:
                return "the job was canceled"
            case StopReason.SHUTDOWN:
                return "the engine is shutting down"
            case StopReason.LEASE:
                return "its engine could not keep its hold on it"


class Attempt(NamedTuple):
    """One run of a job, as its worker learns of it."""

    id: int
    attempt: int
    max_attempts: int
    timeout_ms: int | None
    enqueued_us: int
    name: str
    queue: str
    args: str
    tags: str
    meta: str


class End(NamedTuple):
    """How a run ended, as its engine learns of it; times in microseconds since 1970."""

    id: int
    outcome: Outcome
    started_us: int
    finished_us: int


def pack_run(jobs: Iterable[ClaimedJob]) -> bytes:
    """Jobs that start at once."""
    return pack(Kind.RUN, _jobs(jobs))


def pack_next(jobs: Iterable[ClaimedJob], known: int) -> bytes:
    """Jobs each of which starts when another one of its queue ends; so many ends of this worker are `known`."""
    return pack(Kind.NEXT, _ID.pack(known) + _jobs(jobs))


def read_next(payload: bytes) -> tuple[int, list[Attempt]]:
    """How many ends the engine knew of when it sent this, and the jobs."""
    with _reading("jobs", payload):
        return _ID.unpack_from(payload)[0], read_run(payload[_ID.size :])


def _jobs(jobs: Iterable[ClaimedJob]) -> bytes:
    """Each job's numbers, the bytes that its texts take together, and the letters of all but the last of them."""
    parts: list[bytes] = []
    for job in jobs:
        name, queue, args, tags = job.name, job.queue, job.args, job.tags or ""
        texts = f"{name}{queue}{args}{tags}{job.meta or ''}".encode()
        timeout = -1 if job.timeout_ms is None else job.timeout_ms
        parts.append(_RUN.pack(
            job.id, job.attempt, job.max_attempts, timeout, job.enqueued_us,
            len(texts), len(name), len(queue), len(args), len(tags),
        ))  # fmt: skip
        parts.append(texts)
    return b"".join(parts)


def read_run(payload: bytes) -> list[Attempt]:
    attempts: list[Attempt] = []
    at, size = 0, len(payload)
    with _reading("jobs", payload):
        while at < size:
            id, attempt, most, timeout, enqueued_us, length, name, queue, args, tags = _RUN.unpack_from(payload, at)
            at += _RUN.size + length
            _must_hold(payload, at)
            texts = payload[at - length : at].decode()
            queue += name  # from here on they say where each text ends
            args += queue
            tags += args
            _must_hold(texts, tags)
            attempts.append(Attempt(
                id, attempt, most, None if timeout < 0 else timeout, enqueued_us,
                texts[:name], texts[name:queue], texts[queue:args], texts[args:tags], texts[tags:],
            ))  # fmt: skip
    return attempts


def pack_end(end: End) -> bytes:
    """One end; several, joined behind the number of the first, are the payload of an ENDS frame (`wire.unsent`)."""
    outcome = end.outcome
    if outcome is RETURNED_NOTHING:
        return _END.pack(end.id, 0, end.started_us, end.finished_us, 0)
    if isinstance(outcome, Completed):
        code, content = 0, (outcome.result or "").encode()
    else:
        code, content = 1, json.dumps(_outcome_to_json(outcome), ensure_ascii=False).encode("utf-8", "replace")
    return _END.pack(end.id, code, end.started_us, end.finished_us, len(content)) + content


def read_ends(payload: bytes, known: int = 0) -> tuple[list[End], int]:
    """The ends in an ENDS frame that come after the first `known` of this worker, and how many are known with them."""
    ends: list[End] = []
    with _reading("ends", payload):
        (number,) = _ID.unpack_from(payload)
        if number > known:
            raise BrokenFrame(f"end {number} came where {known} was due")
        at, size = _ID.size, len(payload)
        while at < size:
            id, code, started_us, finished_us, length = _END.unpack_from(payload, at)
            at += _END.size + length
            number += 1
            if number <= known:
                continue
            if not length and code == 0:
                ends.append(End(id, RETURNED_NOTHING, started_us, finished_us))
                continue
            _must_hold(payload, at)
            content = payload[at - length : at]
            outcome = Completed(content.decode()) if code == 0 else _outcome_from_json(json.loads(content))
            ends.append(End(id, outcome, started_us, finished_us))
    return ends, max(number, known)


def pack_started(started: Iterable[tuple[int, int]]) -> bytes:
    return pack(Kind.STARTED, b"".join(_STARTED.pack(id, us) for id, us in started))


def read_started(payload: bytes) -> Iterator[tuple[int, int]]:
    with _reading("starts", payload):
        return _STARTED.iter_unpack(payload)


def pack_spoiled(ids: Iterable[int], found: Iterable[str]) -> bytes:
    return pack_json(Kind.SPOILED, {"jobs": list(ids), "found": list(found)})


def read_spoiled(payload: bytes) -> tuple[list[int], list[str]]:
    """The jobs one of which has spoiled its worker, and what was found, in words."""
    with _reading("findings", payload):
        told = read_json(payload)
        return [int(id) for id in told["jobs"]], [str(what)[:LONGEST_FINDING] for what in told["found"]]


def pack_ids(kind: Kind, ids: Iterable[int]) -> bytes:
    return pack(kind, b"".join(map(_ID.pack, ids)))


def read_ids(payload: bytes) -> list[int]:
    with _reading("ids", payload):
        return [id for (id,) in _ID.iter_unpack(payload)]


def pack_halt(id: int, reason: StopReason) -> bytes:
    return pack(Kind.HALT, _HALT.pack(id, reason))


def read_halt(payload: bytes) -> tuple[int, StopReason]:
    with _reading("halt", payload):
        id, reason = _HALT.unpack(payload)
        return id, StopReason(reason)


def pack_progress(id: int, progress: Progress) -> bytes:
    return pack(Kind.PROGRESS, _ID.pack(id) + progress.to_json().encode())


def read_progress(payload: bytes) -> tuple[int, str]:
    """The id, and the progress as the JSON text that the store keeps."""
    with _reading("progress", payload):
        return _ID.unpack_from(payload)[0], payload[_ID.size :].decode()


@contextmanager
def _reading(what: str, payload: bytes) -> Generator[None, None, None]:
    """Whatever goes wrong with bytes that are none of ours is a BrokenFrame."""
    try:
        yield
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenFrame(f"no {what}: {payload[:60]!r}") from error


def _must_hold(content: bytes | str, size: int) -> None:
    if size > len(content):
        raise BrokenFrame(f"{len(content)} bytes or letters where {size} were announced")


def _outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Errored(error, delay):
            return {"kind": "errored", "error": error.clipped().to_json(), "delay": _seconds(delay)}
        case Failed(error):
            return {"kind": "failed", "error": error.clipped().to_json()}
        case Interrupted(error):
            return {"kind": "interrupted", "error": error.clipped().to_json()}
        case Released(delay, error):
            return {"kind": "released", "delay": _seconds(delay), "error": error.clipped().to_json() if error else None}
        case Snoozed(delay):
            return {"kind": "snoozed", "delay": _seconds(delay)}
        case Stopped():
            return {"kind": "stopped"}
        case _:
            raise AssertionError(f"a worker cannot end a job with {outcome!r}")


def _outcome_from_json(data: dict[str, Any]) -> Outcome:
    match data["kind"]:
        case "errored":
            return Errored(JobError.from_json(data["error"]), _span(data["delay"]))
        case "failed":
            return Failed(JobError.from_json(data["error"]))
        case "interrupted":
            return Interrupted(JobError.from_json(data["error"]))
        case "released":
            error = data["error"]
            return Released(timedelta(seconds=data["delay"]), JobError.from_json(error) if error else None)
        case "snoozed":
            return Snoozed(timedelta(seconds=data["delay"]))
        case "stopped":
            return Stopped()
        case other:
            raise BrokenFrame(f"no outcome: {other!r}")


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
