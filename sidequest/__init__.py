"""Sidequest: background jobs in the database that you already run.

The public names, nothing else. They are imported on first use, so that a worker process, which
needs `job` but no client, does not pay for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidequest.app.sidequest import Sidequest
    from sidequest.app.status import ClientStatus, DatabaseStatus, EngineStatus, Status, WakeUpStatus
    from sidequest.backends.base import EngineRecord
    from sidequest.errors import (
        BackendFull,
        BackendUnavailable,
        ConfigError,
        DuplicateJob,
        EngineStartError,
        EngineUnreachable,
        JobCanceled,
        JobFailed,
        JobNotFound,
        JobStateError,
        JobStopped,
        NotSerializable,
        PayloadError,
        QueueNotFound,
        SchemaMismatch,
        SidequestError,
        TooLarge,
    )
    from sidequest.jobs.client import CancelAnswer, Client, JobCall, JobHandle
    from sidequest.jobs.context import JobContext
    from sidequest.jobs.job import Job, JobDef, call_by_name, job
    from sidequest.jobs.outcome import Fail, JobError, Retry, Snooze
    from sidequest.jobs.queue import QueueRecord
    from sidequest.jobs.record import JobRecord, Progress
    from sidequest.jobs.states import State

__version__ = "0.1.0"

_HOMES = {
    "sidequest.app.sidequest": ("Sidequest",),
    "sidequest.app.status": ("ClientStatus", "DatabaseStatus", "EngineStatus", "Status", "WakeUpStatus"),
    "sidequest.backends.base": ("EngineRecord",),
    "sidequest.errors": (
        "BackendFull", "BackendUnavailable", "ConfigError", "DuplicateJob", "EngineStartError", "EngineUnreachable",
        "JobCanceled", "JobFailed", "JobNotFound", "JobStateError", "JobStopped", "NotSerializable", "PayloadError",
        "QueueNotFound",
        "SchemaMismatch", "SidequestError", "TooLarge",
    ),
    "sidequest.jobs.client": ("CancelAnswer", "Client", "JobCall", "JobHandle"),
    "sidequest.jobs.context": ("JobContext",),
    "sidequest.jobs.job": ("Job", "JobDef", "call_by_name", "job"),
    "sidequest.jobs.outcome": ("Fail", "JobError", "Retry", "Snooze"),
    "sidequest.jobs.queue": ("QueueRecord",),
    "sidequest.jobs.record": ("JobRecord", "Progress"),
    "sidequest.jobs.states": ("State",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BackendFull", "BackendUnavailable", "CancelAnswer", "Client", "ClientStatus", "ConfigError", "DatabaseStatus",
    "DuplicateJob", "EngineRecord", "EngineStartError", "EngineStatus", "EngineUnreachable", "Fail", "Job", "JobCall",
    "JobCanceled", "JobContext", "JobDef", "JobError", "JobFailed", "JobHandle", "JobNotFound", "JobRecord", "JobStateError",
    "JobStopped", "NotSerializable", "PayloadError", "Progress", "QueueNotFound", "QueueRecord", "Retry", "SchemaMismatch",
    "Sidequest", "SidequestError", "Snooze", "State", "Status", "TooLarge", "WakeUpStatus", "__version__", "call_by_name",
    "job",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'sidequest' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
