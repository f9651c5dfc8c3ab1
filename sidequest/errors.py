"""EVERY PROCESS. The exceptions that Sidequest raises.

    SidequestError
    ├── ConfigError              a setting, URL or job definition is wrong (also a ValueError)
    ├── BackendUnavailable       the database cannot be reached, or refuses to work
    │   └── BackendFull          it has no room left: a full disk, a quota
    ├── SchemaMismatch           the tables are older or newer than this code
    ├── EngineStartError         the engine process did not become ready
    ├── EngineUnreachable        the engine that could answer is on another host, or does not answer
    ├── PayloadError             arguments, a result or meta cannot be stored
    │   ├── NotSerializable      (also a TypeError) a value has no JSON form; names its path
    │   └── TooLarge             (also a ValueError) the JSON text is over the limit
    ├── DuplicateJob             a unique job exists already
    ├── JobNotFound              (also a LookupError) no job has this id
    ├── QueueNotFound            (also a LookupError) no queue has this name
    ├── JobStateError            the job is not in a state that allows this move
    ├── JobFailed                raised by `handle.result()`: the job ended as failed
    └── JobCanceled              raised by `handle.result()`: the job was canceled

    JobStopped (a BaseException) is raised inside a running sync job that must stop.

Arguments of a wrong type or value raise plain `TypeError` or `ValueError` naming the argument.
"""

from __future__ import annotations


class SidequestError(Exception):
    """The root of all errors that Sidequest raises on purpose."""


class ConfigError(SidequestError, ValueError):
    """A setting, a URL or a job definition is wrong; the message says what would be right."""


class BackendUnavailable(SidequestError):
    """The database cannot be reached or refuses to work; trying again later may help."""


class BackendFull(BackendUnavailable):
    """The database has no room left (a full disk, a quota): it will not help to try again at once."""


class SchemaMismatch(SidequestError):
    """The tables in the database do not fit this version of Sidequest."""


class EngineStartError(SidequestError):
    """The engine process did not become ready; the message carries the child's own error."""


class EngineUnreachable(SidequestError):
    """The engine that could answer is on another host, or does not answer; the message names both."""


class PayloadError(SidequestError):
    """Arguments, a result or meta data cannot be stored."""


class NotSerializable(PayloadError, TypeError):
    """A value has no JSON form that would bring it back equal; the message names its path."""


class TooLarge(PayloadError, ValueError):
    """The JSON text of arguments, result or meta is over the limit (1 MiB by default)."""


class DuplicateJob(SidequestError):
    """A unique job with the same key exists already."""


class JobNotFound(SidequestError, LookupError):
    """No job has this id (it never existed, was deleted, or was cleaned up)."""

    def __init__(self, id: int) -> None:
        super().__init__(f"job {id} does not exist")
        self.id = id


class QueueNotFound(SidequestError, LookupError):
    """No queue has this name: no job was ever enqueued in it and nobody created it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"queue {name!r} does not exist")
        self.name = name


class JobStateError(SidequestError):
    """The job exists, but is not in a state that allows what was asked."""


class JobFailed(SidequestError):
    """The job ended as failed. The message carries the remote traceback.

    `id` and `name` say which job; `error_type` and `error_message` what its last attempt raised.
    """

    def __init__(self, id: int, name: str, error_type: str, error_message: str, trace: str = "") -> None:
        text = f"job {id} ({name}) failed: {error_type}: {error_message}".rstrip(": ")
        super().__init__(f"{text}\n\n{trace.rstrip()}" if trace else text)
        self.id = id
        self.name = name
        self.error_type = error_type
        self.error_message = error_message


class JobCanceled(SidequestError):
    """The job was canceled before it could finish."""

    def __init__(self, id: int, name: str) -> None:
        super().__init__(f"job {id} ({name}) was canceled")
        self.id = id
        self.name = name


def first_cause(error: BaseException) -> BaseException:
    """The error itself, or the first one in a task group's group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


class JobStopped(BaseException):
    """Raised inside a running sync job that must stop: timeout, cancel or shutdown.

    Like `asyncio.CancelledError` it is no `Exception`, so that `except Exception` in a job does
    not swallow it. Use `finally` to clean up; what does not end within `kill_grace` is killed.
    """
