"""Jobs and records as JSON, for a running job that enqueues or waits."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sidequest.jobs.record import JobEnd, JobRecord, NewJob, Progress
from sidequest.jobs.states import State
from sidequest.wire import records

NOON = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)
SPAN = timedelta(milliseconds=1_500)


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def stored(**changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": 7, "name": "shop:send", "queue": "mail", "state": State.RUNNING, "priority": -3, "available_at": NOON,
        "attempt": 2, "max_attempts": 5, "timeout": SPAN, "kill_grace": SPAN, "backoff": "fixed", "retry_delay": SPAN,
        "isolated": True, "tags": ("a", "b"), "engine": "engine-1", "lease": "lease-1", "inserted_at": NOON,
        "claimed_at": NOON, "started_at": NOON, "finished_at": NOON, "cancel_requested_at": NOON, "interrupts": 1,
        "crashes": 2, "snoozes": 3, "progress": Progress(1, 2.5, "pół"), "args_json": '{"args":[1]}', "meta_json": '{"ż":1}',
        "result_json": "null", "errors_json": "[]",
    }  # fmt: skip
    return JobRecord(**values | changes)


def bare() -> JobRecord:
    empty = (
        "timeout", "kill_grace", "engine", "lease", "claimed_at", "started_at", "finished_at", "cancel_requested_at",
        "progress", "meta_json", "result_json", "errors_json",
    )  # fmt: skip
    return stored(tags=(), **dict.fromkeys(empty))


NEW = [
    NewJob("shop:send"),
    NewJob(
        "shop:send",
        '{"args":["żółw 🐢"]}',
        "mail",
        -3,
        7,
        SPAN,
        SPAN,
        "fixed",
        SPAN,
        isolated=True,
        tags=("a", "b"),
        meta='{"a":1}',
        delay=SPAN,
    ),
    NewJob("shop:send", at=NOON),
    NewJob("shop:send", at=NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))),
]


@pytest.mark.parametrize("job", NEW)
def test_a_new_job_arrives_as_it_was(job: NewJob) -> None:
    assert records.new_job_from_json(through_json(records.new_job_to_json(job))) == job


@pytest.mark.parametrize("record", [stored(), bare(), *(stored(state=state) for state in State)])
def test_a_record_arrives_as_it_was(record: JobRecord) -> None:
    arrived = records.record_from_json(through_json(records.record_to_json(record)))
    assert arrived == record
    assert {f.name: type(getattr(arrived, f.name)) for f in fields(arrived)} == {
        f.name: type(getattr(record, f.name)) for f in fields(record)
    }


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELED])
def test_an_end_arrives_as_it_was(state: State) -> None:
    end = JobEnd(7, "shop:send", state, '"żółw"', None)
    arrived = records.end_from_json(through_json(records.end_to_json(end)))
    assert (arrived, type(arrived.state)) == (end, State)
