"""PURE CENTRE. The state machine: each move is a function that returns a `Change`.

A change says what must still be true (the fence: lease and state) and what to write. The store
applies it only if the fence holds; who lost the job learns that nothing was written. Claiming is
the one move that lives in the backends, because picking and marking must be one step.

    move        from                    to
    start       claimed                 running
    finish      claimed, running        completed | failed | canceled | waiting
    cancel      waiting                 canceled
                claimed, running        the same, with a request to its engine
    retry       completed, failed,      waiting
                canceled
    run_now     waiting                 waiting, due now
    snooze      waiting                 waiting, due later
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple, assert_never

from sidequest.errors import JobStateError
from sidequest.jobs import backoff
from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
    append_error,
    read_errors,
)
from sidequest.jobs.record import ClaimedJob, JobRecord
from sidequest.jobs.states import FINAL, State

SHORTEST_CRASH_WAIT = timedelta(seconds=10)
MOST_CRASHES = 3
MOST_INTERRUPTS = 10
FREE_INTERRUPTS = (timedelta(0), timedelta(seconds=5), timedelta(seconds=30))
"""The waits after the first three interrupts, which cost no attempt."""

CLAIMED_OR_RUNNING = (State.CLAIMED, State.RUNNING)


class Change(NamedTuple):
    """One row's move: write `columns` if lease and state are still as expected.

    `state` None leaves the state as it is. A change to waiting is not written over a cancel
    request: a canceled job never starts again.
    """

    id: int
    lease: str | None
    before: tuple[State, ...]
    state: State | None
    columns: Mapping[str, object]


def start(job: ClaimedJob, started_at: datetime) -> Change:
    """User code is running since `started_at`."""
    return Change(job.id, job.lease, (State.CLAIMED,), State.RUNNING, {"started_at": started_at})


def finish(job: ClaimedJob, outcome: Outcome, started_at: datetime | None, now: datetime, chance: Random) -> Change:
    """The attempt ended as `outcome` says; attempts, crashes and interrupts are accounted for."""
    match outcome:
        case Completed(result):
            return _end(job, State.COMPLETED, started_at, now, result=result)
        case Failed(error):
            return _end(job, State.FAILED, started_at, now, errors=_with(job, error, now))
        case Stopped():
            return _end(job, State.CANCELED, started_at, now)
        case Errored(error, delay):
            return _consumed(job, error, delay, started_at, now, chance)
        case Crashed(error):
            return _crashed(job, error, started_at, now, chance)
        case Interrupted(error):
            return _interrupted(job, error, now, chance)
        case SharedCrash(error):
            return _back(job, now, attempt=job.attempt - 1, isolated=True, errors=_with(job, error, now))
        case Released(delay, error):
            told = {} if error is None else {"errors": _once(job, error, now)}
            return _back(job, now + delay, attempt=job.attempt - 1, **told)
        case Snoozed(delay):
            return _back(job, now + delay, attempt=job.attempt - 1, snoozes=job.snoozes + 1)
        case _:
            assert_never(outcome)


def cancel(record: JobRecord, now: datetime) -> Change | None:
    """Cancel a waiting job, or ask the engine that holds it; None when it has ended already."""
    if record.state is State.WAITING:
        return _guarded(record, State.CANCELED, finished_at=now)
    if record.state in FINAL:
        return None
    return Change(record.id, record.lease, CLAIMED_OR_RUNNING, None, {"cancel_requested_at": now})


def retry(record: JobRecord, now: datetime) -> Change:
    """Give an ended job another life: due now, at least one attempt, crash counters at zero."""
    if record.state not in FINAL:
        raise JobStateError(f"job {record.id} is {record.state}: only a completed, failed or canceled job can be retried")
    return _guarded(
        record, State.WAITING, available_at=now, max_attempts=max(record.max_attempts, record.attempt + 1),
        lease=None, engine=None, started_at=None, finished_at=None, result=None, progress=None,
        crashes=0, interrupts=0,
    )  # fmt: skip


def run_now(record: JobRecord, now: datetime) -> Change:
    """Make a waiting job due at once."""
    _must_wait(record, "be run now")
    return _guarded(record, State.WAITING, available_at=min(record.available_at, now))


def snooze(record: JobRecord, delay: timedelta, now: datetime) -> Change:
    """Make a waiting job due `delay` from now."""
    _must_wait(record, "be snoozed")
    return _guarded(record, State.WAITING, available_at=now + delay)


def _must_wait(record: JobRecord, move: str) -> None:
    if record.state is not State.WAITING:
        raise JobStateError(f"job {record.id} is {record.state}: only a waiting job can {move}")


def _consumed(
    job: ClaimedJob, error: JobError, delay: timedelta | None, started_at: datetime | None, now: datetime, chance: Random
) -> Change:
    errors = _with(job, error, now)
    if job.attempt >= job.max_attempts:
        return _end(job, State.FAILED, started_at, now, errors=errors)
    pause = _backoff(job, chance) if delay is None else delay
    return _back(job, now + pause, errors=errors)


def _crashed(job: ClaimedJob, error: JobError, started_at: datetime | None, now: datetime, chance: Random) -> Change:
    crashes = job.crashes + 1
    errors = _with(job, error, now)
    if crashes >= MOST_CRASHES or job.attempt >= job.max_attempts:
        return _end(job, State.FAILED, started_at, now, errors=errors, crashes=crashes)
    pause = max(SHORTEST_CRASH_WAIT, _backoff(job, chance))
    return _back(job, now + pause, errors=errors, crashes=crashes)


def _interrupted(job: ClaimedJob, error: JobError, now: datetime, chance: Random) -> Change:
    interrupts = job.interrupts + 1
    errors = _with(job, error, now)
    if interrupts <= len(FREE_INTERRUPTS):
        due = now + FREE_INTERRUPTS[interrupts - 1]
        return _back(job, due, attempt=job.attempt - 1, errors=errors, interrupts=interrupts, lease=None, engine=None)
    if interrupts >= MOST_INTERRUPTS or job.attempt >= job.max_attempts:
        return _end(job, State.FAILED, None, now, errors=errors, interrupts=interrupts)
    due = now + max(FREE_INTERRUPTS[-1], _backoff(job, chance))
    return _back(job, due, errors=errors, interrupts=interrupts, lease=None, engine=None)


def _backoff(job: ClaimedJob, chance: Random) -> timedelta:
    return backoff.wait(job.backoff, timedelta(milliseconds=job.retry_delay_ms), job.attempt, chance)


def _end(job: ClaimedJob, state: State, started_at: datetime | None, now: datetime, **columns: object) -> Change:
    if started_at is not None:
        columns["started_at"] = started_at
    columns["finished_at"] = now
    columns["cancel_requested_at"] = None
    return Change(job.id, job.lease, CLAIMED_OR_RUNNING, state, columns)


def _back(job: ClaimedJob, due: datetime, **columns: object) -> Change:
    columns["available_at"] = due
    return Change(job.id, job.lease, CLAIMED_OR_RUNNING, State.WAITING, columns)


def _guarded(record: JobRecord, state: State, **columns: object) -> Change:
    return Change(record.id, record.lease, (record.state,), state, columns)


def _with(job: ClaimedJob, error: JobError, now: datetime) -> str:
    stamped = JobError(error.kind, error.type, error.message, error.trace, job.attempt, error.at or now)
    return append_error(job.errors, stamped)


def _once(job: ClaimedJob, error: JobError, now: datetime) -> str | None:
    """The errors with this one, unless it says no more than the last one did."""
    earlier = read_errors(job.errors)
    if earlier and (earlier[-1].kind, earlier[-1].message) == (error.kind, error.message):
        return job.errors
    return _with(job, error, now)
