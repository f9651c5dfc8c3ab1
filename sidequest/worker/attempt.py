"""WORKER PROCESS. One attempt of a job: from its stored text to a call, from its end to an outcome."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any

from sidequest.clock import from_epoch_us
from sidequest.errors import PayloadError
from sidequest.jobs import checks, codec
from sidequest.jobs.client import Client
from sidequest.jobs.context import JobContext, Reporter
from sidequest.jobs.definition import Definition, load_arguments
from sidequest.jobs.job import Complete
from sidequest.jobs.outcome import (
    Completed,
    Errored,
    Fail,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    Retry,
    Snooze,
    Snoozed,
    Stopped,
)
from sidequest.wire.messages import RETURNED_NOTHING, Attempt, StopReason
from sidequest.worker.loading import Loader, StartedInWorker, describe

OURS = ("sidequest.worker", "asyncio.", "concurrent.futures.thread")
"""What stands between our call and the job's first line."""
UNKNOWN_WAIT = timedelta(seconds=30)
"""How long a job whose name no worker here knows goes back to waiting: a deploy may be under way."""


@dataclass(slots=True)
class Call:
    """A job ready to be called; `run()` is the user's code, `context` what it may ask, if it is one that does."""

    attempt: Attempt
    definition: Definition
    context: JobContext | None
    run: Callable[[], Any]
    stop: StopReason | None = None

    def tell_stop(self, reason: StopReason) -> None:
        """The job is to stop; it learns of it from its context, and in a moment from an exception."""
        self.stop = reason
        if self.context is not None:
            self.context.canceled = reason is StopReason.CANCEL

    def tell_shutdown(self) -> None:
        """The engine has begun to stop."""
        if self.context is not None:
            self.context.shutting_down = True

    def ended(self, value: Any) -> Outcome:
        """The outcome of a call that returned."""
        if isinstance(value, Retry | Snooze | Fail):
            return self.raised(value)
        if value is None:
            return RETURNED_NOTHING
        try:
            return Completed(codec.dump(value, "the result", self.definition.result_classes))
        except PayloadError as error:
            return Failed(JobError("result", type(error).__name__, str(error)))

    def raised(self, error: BaseException) -> Outcome:
        """The outcome of a call that raised."""
        if isinstance(error, Complete):
            return self.ended(error.result)
        if self.stop is StopReason.CANCEL:
            return Stopped()
        match error:
            case Snooze():
                return Snoozed(error.delay)
            case Retry():
                return Errored(self._error("error", error, error.reason), error.delay)
            case Fail():
                return Failed(self._error("error", error, error.reason))
            case _ if self.stop is StopReason.TIMEOUT:
                limit = None if self.attempt.timeout_ms is None else self.attempt.timeout_ms / 1000
                return Errored(JobError("timeout", "JobTimeout", self.stop.describe(limit), _trace(error)))
            case _ if self.stop is StopReason.SHUTDOWN:
                return Interrupted(JobError("interrupt", "EngineStopped", self.stop.describe(), _trace(error)))
            case _ if self.stop is StopReason.LEASE:
                return Interrupted(JobError("interrupt", "LeaseLost", self.stop.describe(), _trace(error)))
            case _:
                return self._judged(error)

    def _judged(self, error: BaseException) -> Outcome:
        """An error of the job's own: `retry_on`, `discard_on` and a backoff function have a say."""
        definition, told = self.definition, self._error("error", error, _message(error))
        if definition.retry_on is not None and not isinstance(error, definition.retry_on):
            return Failed(told)
        if isinstance(error, definition.discard_on):
            return Failed(told)
        if not callable(definition.backoff):
            return Errored(told)
        try:
            wait = definition.backoff(self.attempt.attempt, error)
            return Failed(told) if wait is None else Errored(told, checks.duration("the backoff function's answer", wait))
        except Exception as wrong:
            trace = f"{told.trace}\nThe backoff function failed:\n{describe(wrong)}"
            return Errored(JobError("error", told.type, told.message, trace))

    def _error(self, kind: str, error: BaseException, message: str) -> JobError:
        name = type(error).__qualname__
        module = type(error).__module__
        told = name if module in ("builtins", "sidequest.jobs.outcome") else f"{module}.{name}"
        return JobError(kind, told, message, _trace(error))


def prepare(attempt: Attempt, loader: Loader, reporter: Reporter, client: Client) -> Call | Outcome:
    """The call to make, or the outcome of an attempt whose code or arguments are not right."""
    definition = loader.find(attempt.name)
    if definition is None:
        return _not_found(attempt, loader.failure(attempt.name))
    try:
        wanted = definition.takes_context or definition.is_class
        context = _context(attempt, reporter, client) if wanted else None
        run = _bind(definition, context, attempt.args)
    except Exception as error:
        return Errored(JobError("import", type(error).__name__, _message(error), describe(error)))
    return Call(attempt, definition, context, run)


def _not_found(attempt: Attempt, failure: BaseException | None) -> Outcome:
    if isinstance(failure, StartedInWorker):
        return Failed(JobError("import", "StartedInWorker", str(failure), describe(failure)))
    if failure is not None:
        module = attempt.name.partition(":")[0]
        message = f"{module} cannot be imported: {type(failure).__name__}: {_message(failure)}"
        return Errored(JobError("import", type(failure).__name__, message, describe(failure)))
    message = f"no worker of this engine knows a job named {attempt.name!r}; looked at again in 30 s"
    return Released(UNKNOWN_WAIT, JobError("unknown", "UnknownJob", message))


def _context(attempt: Attempt, reporter: Reporter, client: Client) -> JobContext:
    return JobContext(
        id=attempt.id,
        name=attempt.name,
        queue=attempt.queue,
        attempt=attempt.attempt,
        max_attempts=attempt.max_attempts,
        tags=tuple(json.loads(attempt.tags)) if attempt.tags else (),
        meta=codec.read_plain(attempt.meta) if attempt.meta else None,
        enqueued_at=from_epoch_us(attempt.enqueued_us),
        reporter=reporter,
        client=client,
    )


def _bind(definition: Definition, context: JobContext | None, text: str) -> Callable[[], Any]:
    """User code ready to be called, its arguments checked against the signature it has today."""
    stored = load_arguments(definition, text)
    args, kwargs = stored.get("args", ()), stored.get("kwargs", {})
    definition.parameters.check(args, kwargs)
    if not definition.is_class:
        first = (context,) if definition.takes_context else ()
        return partial(definition.run, *first, *args, **kwargs)
    init = stored.get("init", {})
    init_args, init_kwargs = init.get("args", ()), init.get("kwargs", {})
    if definition.init_parameters is not None:
        definition.init_parameters.check(init_args, init_kwargs)

    def run() -> Any:
        instance = definition.target(*init_args, **init_kwargs)
        instance.ctx = context
        return instance.run(*args, **kwargs)

    return run


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(the error has no readable text)"


def _trace(error: BaseException) -> str:
    """The traceback from the job's own first frame on; our frames above it say nothing to its author."""
    try:
        lines = traceback.TracebackException.from_exception(_without_our_frames(error), compact=True)
        return "".join(lines.format())
    except Exception:
        return f"{type(error).__qualname__} (its traceback cannot be formatted)"


def _without_our_frames(error: BaseException) -> BaseException:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(OURS):
        trace = trace.tb_next
    return error.with_traceback(trace) if trace is not None else error
