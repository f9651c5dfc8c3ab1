"""PURE CENTRE. What a running job knows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from sidequest.jobs import checks
from sidequest.jobs.client import Client
from sidequest.jobs.record import Progress


class Reporter(Protocol):
    """Where a context's reports go: the worker sends them to its engine."""

    def report_progress(self, id: int, progress: Progress) -> None: ...

    def report_log(self, context: JobContext, message: str) -> None: ...


class JobContext:
    """Given to a job whose first parameter is annotated `JobContext`; `self.ctx` in a class job."""

    id: int
    """The job's id, given by the database."""
    name: str
    queue: str
    attempt: int
    """1 on the first run."""
    max_attempts: int
    tags: tuple[str, ...]
    meta: Mapping[str, Any]
    """The mapping given with `meta=` when the job was enqueued."""
    enqueued_at: datetime
    canceled: bool
    """True from the moment somebody asked to cancel this job."""
    shutting_down: bool
    """True from the moment the engine began to stop: finish soon, or `raise Snooze(...)`."""

    def __init__(
        self,
        *,
        id: int = 0,
        name: str = "",
        queue: str = "default",
        attempt: int = 1,
        max_attempts: int = 5,
        tags: tuple[str, ...] = (),
        meta: Mapping[str, Any] | None = None,
        enqueued_at: datetime | None = None,
        reporter: Reporter | None = None,
        client: Client | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.queue = queue
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.tags = tags
        self.meta = meta or {}
        if enqueued_at is not None:
            self.enqueued_at = enqueued_at
        self.canceled = False
        self.shutting_down = False
        self._reporter = reporter
        self._client = client

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this job: give it to services that drop repeats."""
        return f"sidequest-{self.id}"

    @property
    def sidequest(self) -> Client:
        """A client of the engine that runs this job, to enqueue more jobs or wait for others."""
        if self._client is None:
            raise RuntimeError("this JobContext was made by hand: it has no engine to speak to")
        return self._client

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the job is; shown in `JobRecord.progress`. Cheap: only the latest is stored.

        Raises TypeError or ValueError for a `done` or `total` that is no finite number.
        """
        report = Progress(
            checks.number("done", done),
            None if total is None else checks.number("total", total),
            checks.text("note", note, 1_000),
        )
        if self._reporter is not None:
            self._reporter.report_progress(self.id, report)

    def log(self, message: str) -> None:
        """Log a line for this job, at level INFO of the logger `sidequest.job`."""
        checks.text("message", message, 1_000_000)
        if self._reporter is not None:
            self._reporter.report_log(self, message)
