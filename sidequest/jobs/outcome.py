"""PURE CENTRE. How one attempt ended, as a value, and what a job may raise to steer its end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from sidequest.jobs import checks
from sidequest.jobs.checks import Seconds

LONGEST_MESSAGE = 4_000
LONGEST_TRACE = 16_000
MOST_ERRORS = 20
"""Errors kept on a job: the last twenty."""


class Retry(Exception):
    """Raise or return it in a job to try again: the attempt is consumed.

    `delay` is the exact wait (seconds or timedelta); without it the job's backoff decides.
    When no attempts are left the job fails with `reason`.
    """

    def __init__(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        super().__init__(reason)
        self.reason = checks.text("reason", reason, 1_000_000)
        self.delay = None if delay is None else checks.duration("delay", delay)


class Snooze(Exception):
    """Raise or return it in a job to run again after `delay` seconds: the attempt is given back."""

    def __init__(self, delay: Seconds) -> None:
        self.delay = checks.duration("delay", delay)
        super().__init__(f"come back in {self.delay.total_seconds():g} s")


class Fail(Exception):
    """Raise or return it in a job to fail at once, whatever attempts are left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = checks.text("reason", reason, 1_000_000)


@dataclass(frozen=True, slots=True)
class JobError:
    """What went wrong in one attempt; the last twenty stand in `JobRecord.errors`.

    `kind` is `error` (the job raised), `timeout`, `crash` (its worker died), `interrupt` (its
    engine or host was lost or stopped), `result` (not storable), `import` (the job could not be
    loaded or called), `unknown` (no worker knows the name).
    """

    kind: str
    type: str
    message: str
    trace: str = ""
    attempt: int = 0
    at: datetime | None = None

    def clipped(self) -> JobError:
        """The same error with message and traceback cut to what is stored, as text that is UTF-8."""
        return JobError(
            self.kind, _clip(self.type, 200), _clip(self.message, LONGEST_MESSAGE), _clip_middle(self.trace, LONGEST_TRACE),
            self.attempt, self.at,
        )  # fmt: skip

    def to_json(self) -> dict[str, object]:
        at = self.at.isoformat() if self.at else None
        return {
            "kind": self.kind, "type": self.type, "message": self.message, "trace": self.trace,
            "attempt": self.attempt, "at": at,
        }  # fmt: skip

    @staticmethod
    def from_json(data: dict[str, object]) -> JobError:
        at, attempt = data.get("at"), data.get("attempt", 0)
        return JobError(
            str(data.get("kind", "error")), str(data.get("type", "")), str(data.get("message", "")),
            str(data.get("trace", "")), attempt if isinstance(attempt, int) else 0,
            datetime.fromisoformat(at) if isinstance(at, str) else None,
        )  # fmt: skip


def append_error(errors: str | None, error: JobError) -> str:
    """The stored JSON text of a job's errors with one more, the oldest dropped over the limit."""
    kept: list[dict[str, object]] = json.loads(errors) if errors else []
    kept.append(error.clipped().to_json())
    return json.dumps(kept[-MOST_ERRORS:], ensure_ascii=False, separators=(",", ":"))


def read_errors(errors: str | None) -> tuple[JobError, ...]:
    """The errors that a stored JSON text holds, oldest first."""
    return tuple(JobError.from_json(entry) for entry in json.loads(errors)) if errors else ()


@dataclass(frozen=True, slots=True)
class Completed:
    """The job returned; `result` is JSON text (None for a result of None)."""

    result: str | None = None


@dataclass(frozen=True, slots=True)
class Errored:
    """The attempt went wrong and is consumed; the job runs again while attempts are left.

    `delay`, if set, is the exact wait before the next attempt; else the job's backoff decides.
    """

    error: JobError
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt went wrong for good: no retry, whatever attempts are left."""

    error: JobError


@dataclass(frozen=True, slots=True)
class Crashed:
    """The worker died while it ran this job alone."""

    error: JobError


@dataclass(frozen=True, slots=True)
class SharedCrash:
    """The worker died with several jobs in it and it is not certain whose fault it was."""

    error: JobError


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The job was running and its engine or host was lost or stopped: not the job's fault."""

    error: JobError


@dataclass(frozen=True, slots=True)
class Released:
    """The job was claimed and never started: back to waiting as if nothing had happened."""

    delay: timedelta = timedelta(0)
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The job asked to come back later: the attempt is given back."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job stopped because someone canceled it."""


Outcome = Completed | Errored | Failed | Crashed | SharedCrash | Interrupted | Released | Snoozed | Stopped


def _clip(text: str, longest: int) -> str:
    text = _valid(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _clip_middle(text: str, longest: int) -> str:
    """The head says where it began, the tail what broke: a long traceback loses its middle."""
    text = _valid(text)
    if len(text) <= longest:
        return text
    half = longest // 2 - 10
    return f"{text[:half]}\n   […]\n{text[-half:]}"


def _valid(text: str) -> str:
    """Without lone surrogates, which an exception's text may hold (file names that are no UTF-8)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
