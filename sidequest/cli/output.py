"""CLI. What commands print: aligned text for people, one JSON document for programs.

Jobs hold whatever users put there: text for people is cleaned of control characters, so that a
job's arguments cannot speak to the terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sidequest.backends.base import EngineRecord
from sidequest.jobs.outcome import JobError
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord
from sidequest.jobs.states import State


def print_json(document: object) -> None:
    """One JSON document; ASCII only where the terminal or pipe cannot take more."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    print(json.dumps(document, indent=2, ensure_ascii=encoding != "utf8"))


def drop_output() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, or Python would complain about it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for line in table(head, rows, terminal_width()):
        print(line)


def terminal_width() -> int | None:
    """Columns of the terminal; None when the output goes elsewhere and nothing is to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines with aligned columns, each cut to `width`; the last column is as long as it likes."""
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head) - 1)]
    padded = [[*(f"{cell:<{w}}" for cell, w in zip(line[:-1], widths, strict=True)), line[-1]] for line in lines]
    return [cut("  ".join(line), width) for line in padded]


def cut(line: str, width: int | None) -> str:
    line = line.rstrip()
    return line if width is None or len(line) <= width else f"{line[: max(width - 1, 0)]}…"


def printable(text: str) -> str:
    """The text on one line: control characters, line breaks and what reorders text are shown, not sent."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)


def iso(instant: datetime | None, timespec: str = "microseconds") -> str | None:
    return None if instant is None else instant.isoformat(timespec=timespec)


# Jobs


def job_document(record: JobRecord) -> dict[str, Any]:
    """A job as JSON says it: always the same keys; args, result and meta exactly as they are stored."""
    return {
        "id": record.id,
        "name": record.name,
        "queue": record.queue,
        "state": record.state.value,
        "priority": record.priority,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "enqueued_at": iso(record.inserted_at),
        "available_at": iso(record.available_at),
        "claimed_at": iso(record.claimed_at),
        "started_at": iso(record.started_at),
        "finished_at": iso(record.finished_at),
        "cancel_requested_at": iso(record.cancel_requested_at),
        "timeout": _seconds(record.timeout),
        "kill_grace": _seconds(record.kill_grace),
        "backoff": record.backoff,
        "retry_delay": _seconds(record.retry_delay),
        "isolated": record.isolated,
        "tags": list(record.tags),
        "engine": record.engine,
        "interrupts": record.interrupts,
        "crashes": record.crashes,
        "snoozes": record.snoozes,
        "progress": None if record.progress is None else asdict(record.progress),
        "args": stored(record.args_json),
        "meta": stored(record.meta_json),
        "result": stored(record.result_json),
        "errors": [error.to_json() for error in record.errors],
    }


def stored(text: str | None) -> Any:
    """What a stored JSON text says, tags included; the text itself when it is no JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


JOB_HEAD = ("ID", "STATE", "QUEUE", "NAME", "ATTEMPT", "ENQUEUED", "NOTE")


def job_row(record: JobRecord, now: datetime) -> Sequence[str]:
    enqueued = record.inserted_at.isoformat(timespec="seconds")
    attempt = f"{record.attempt}/{record.max_attempts}"
    return (str(record.id), record.state.value, record.queue, record.name, attempt, enqueued, job_note(record, now))


def job_note(record: JobRecord, now: datetime) -> str:
    """The one thing that somebody who looks at this job wants to know."""
    error = record.errors[-1] if record.errors else None
    if record.cancel_requested_at is not None and not record.state.final:
        return "cancel requested"
    if record.state is State.FAILED and error is not None:
        return _headline(error)
    if record.state is State.RUNNING and record.progress is not None:
        progress = record.progress
        total = "" if progress.total is None else f"/{progress.total:g}"
        return f"{progress.done:g}{total} {progress.note}".strip()
    if record.state is State.WAITING:
        due = f"due {record.available_at.isoformat(timespec='seconds')}" if record.available_at > now else ""
        return "; ".join(filter(None, (due, _headline(error) if error is not None else "")))
    return ""


ALWAYS_SHOWN = ("attempt", "args", "result")
"""Of the other keys, what is zero, false or empty says nothing."""


def job_lines(record: JobRecord) -> list[str]:
    """Everything about a job, for people; what was never set is left out."""
    document = job_document(record)
    errors = document.pop("errors")
    shown = {key: value for key, value in document.items() if value is not None and (value or key in ALWAYS_SHOWN)}
    lines = [f"{key:<{max(map(len, shown))}}  {_shown(value)}" for key, value in shown.items()]
    for error in errors:
        what = f"{error['kind']}: {error['type']}: {error['message']}"
        lines += ["", printable(f"attempt {error['attempt']} at {error['at']}: {what}")]
        lines += [f"    {printable(line)}" for line in error["trace"].splitlines()]
    return lines


def _headline(error: JobError) -> str:
    return f"{error.type}: {error.message}".partition("\n")[0]


def _shown(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


# Queues

QUEUE_HEAD = ("QUEUE", "CONCURRENCY", "PRIORITY", "PAUSED")


def queue_document(queue: QueueRecord) -> dict[str, Any]:
    return asdict(queue)


def queue_row(queue: QueueRecord) -> Sequence[str]:
    return (queue.name, str(queue.concurrency), str(queue.priority), "yes" if queue.paused else "no")


# Engines

ENGINE_HEAD = ("ENGINE", "HOST", "PID", "VERSION", "QUEUES", "RUNNING", "LAST BEAT")


def engine_document(engine: EngineRecord) -> dict[str, Any]:
    return {**asdict(engine), "started_at": iso(engine.started_at), "heartbeat_at": iso(engine.heartbeat_at)}


def engine_row(engine: EngineRecord) -> Sequence[str]:
    beat = engine.heartbeat_at.isoformat(timespec="seconds")
    return (engine.id, engine.host, str(engine.pid), engine.version, engine.queues, str(engine.running), beat)


def counts_document(counts: Mapping[State, int]) -> dict[str, int]:
    return {state.value: counts.get(state, 0) for state in State}
