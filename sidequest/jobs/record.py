"""PURE CENTRE. The stored shapes of a job: what is inserted, what an engine holds, what is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sidequest.jobs import codec
from sidequest.jobs.outcome import JobError, read_errors
from sidequest.jobs.states import State


class NewJob(NamedTuple):
    """A job on its way into the store: checked, complete, every default resolved.

    A NamedTuple because tens of thousands a second are made. `args` and `meta` are JSON text. The
    job is due `delay` after the database's now, or at `at`; with neither it is due at once.
    """

    name: str
    args: str = "{}"
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    timeout: timedelta | None = None
    kill_grace: timedelta | None = None
    backoff: str = "exponential"
    retry_delay: timedelta = timedelta(seconds=1)
    isolated: bool = False
    tags: tuple[str, ...] = ()
    meta: str | None = None
    delay: timedelta | None = None
    at: datetime | None = None

    @property
    def way(self) -> tuple[Any, ...]:
        """All but its name and its arguments."""
        return self[2:]


class ClaimedJob(NamedTuple):
    """What an engine holds of a job that it has claimed: enough to run it and to end it.

    A NamedTuple because tens of thousands a second are made from database rows. `args`, `tags`,
    `meta` and `errors` are JSON text that the engine carries and never reads, except for
    appending to `errors`. `attempt` counts the claim already.
    """

    id: int
    lease: str
    name: str
    queue: str
    args: str
    attempt: int
    max_attempts: int
    timeout_ms: int | None
    kill_grace_ms: int | None
    backoff: str
    retry_delay_ms: int
    isolated: bool
    tags: str | None
    meta: str | None
    errors: str | None
    interrupts: int
    crashes: int
    snoozes: int
    enqueued_us: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job says it is."""

    done: float
    total: float | None = None
    note: str = ""

    def to_json(self) -> str:
        return json.dumps({"done": self.done, "total": self.total, "note": self.note}, ensure_ascii=False)

    @staticmethod
    def from_json(text: str | None) -> Progress | None:
        if text is None:
            return None
        data = json.loads(text)
        return Progress(data["done"], data["total"], data["note"])


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands in the store.

    `args_json`, `result_json`, `meta_json` and `errors_json` are the stored texts; `args`,
    `result`, `meta` and `errors` read them. Instants are aware, in UTC.
    """

    id: int
    name: str
    queue: str
    state: State
    priority: int
    available_at: datetime
    attempt: int
    max_attempts: int
    timeout: timedelta | None
    kill_grace: timedelta | None
    backoff: str
    retry_delay: timedelta
    isolated: bool
    tags: tuple[str, ...]
    engine: str | None
    lease: str | None
    inserted_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    interrupts: int
    crashes: int
    snoozes: int
    progress: Progress | None
    args_json: str
    meta_json: str | None
    result_json: str | None
    errors_json: str | None

    @property
    def args(self) -> Mapping[str, Any]:
        """The stored arguments: `args` (positional), `kwargs`, and `init` for a class job with a
        constructor; absent when empty. Dataclasses, enums and models show as plain mappings."""
        args: Mapping[str, Any] = codec.read_plain(self.args_json)
        return args

    @property
    def result(self) -> Any:
        """What the job returned (dataclasses, enums and models as plain mappings), or None."""
        return None if self.result_json is None else codec.read_plain(self.result_json)

    @property
    def meta(self) -> Mapping[str, Any]:
        """The mapping given with `meta=` when the job was enqueued."""
        meta: Mapping[str, Any] = {} if self.meta_json is None else codec.read_plain(self.meta_json)
        return meta

    @property
    def errors(self) -> tuple[JobError, ...]:
        """What went wrong in earlier attempts, oldest first, at most the last twenty."""
        return read_errors(self.errors_json)


class JobEnd(NamedTuple):
    """How a job ended: all that someone who waits for it needs."""

    id: int
    name: str
    state: State
    result: str | None
    errors: str | None
