"""ENGINE and WORKER PROCESS. Jobs and records as JSON, for a running job that enqueues or waits."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from sidequest.jobs.record import JobEnd, JobRecord, NewJob, Progress
from sidequest.jobs.states import State

_SPANS = ("timeout", "kill_grace", "retry_delay", "delay")
_INSTANTS = ("at", "available_at", "inserted_at", "claimed_at", "started_at", "finished_at", "cancel_requested_at")


def new_job_to_json(job: NewJob) -> dict[str, Any]:
    return _plain(job._asdict())


def new_job_from_json(data: dict[str, Any]) -> NewJob:
    return NewJob(**_typed(data))


def record_to_json(record: JobRecord) -> dict[str, Any]:
    data = _plain({field.name: getattr(record, field.name) for field in fields(record)})
    data["progress"] = record.progress.to_json() if record.progress else None
    return data


def record_from_json(data: dict[str, Any]) -> JobRecord:
    typed = _typed(data)
    typed["state"] = State(typed["state"])
    typed["progress"] = Progress.from_json(typed["progress"])
    return JobRecord(**typed)


def end_to_json(end: JobEnd) -> list[Any]:
    return list(end)


def end_from_json(data: list[Any]) -> JobEnd:
    id, name, state, result, errors = data
    return JobEnd(id, name, State(state), result, errors)


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    for name in _SPANS:
        if data.get(name) is not None:
            data[name] = data[name].total_seconds()
    for name in _INSTANTS:
        if data.get(name) is not None:
            data[name] = data[name].isoformat()
    return data


def _typed(data: dict[str, Any]) -> dict[str, Any]:
    typed = dict(data)
    for name in _SPANS:
        if typed.get(name) is not None:
            typed[name] = timedelta(seconds=typed[name])
    for name in _INSTANTS:
        if typed.get(name) is not None:
            typed[name] = datetime.fromisoformat(typed[name])
    typed["tags"] = tuple(typed["tags"])
    return typed
