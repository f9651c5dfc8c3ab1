"""ENGINE PROCESS. What becomes of the jobs that were in a worker when it died.

A worker that dies takes along only what was running in it. Where one job is certainly to blame, it
is blamed; where that is not certain, nobody is, and all run alone next time, so that the guilty
one names itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sidequest.engine.lane import Held
from sidequest.engine.worker_process import Death
from sidequest.jobs.outcome import Crashed, Errored, Interrupted, JobError, Outcome, Released, SharedCrash, Stopped
from sidequest.wire.messages import Role, StopReason

Verdict = Outcome | None
"""None: it had not started; let it run elsewhere as if nothing had happened."""


def verdicts(jobs: Sequence[Held], current: Held | None, role: Role | None, death: Death) -> Iterator[tuple[Held, Verdict]]:
    """Each job with its verdict. `current` is the job that the worker was stepping, if it said so."""
    guilty = _guilty(jobs, current, role, death)
    for held in jobs:
        if death.lease_expired and (role is Role.ASYNC or held is current):
            yield held, _unleased(death)
        elif held.stop is not None and (death.killed_for is not None or held is guilty):
            yield held, _stopped(held, death)
        elif held is guilty:
            yield held, Crashed(_crash(death))
        elif role is Role.SYNC and held is not current:
            yield held, None  # jobs queue in a sync lane: the others had not started
        elif guilty is not None or death.killed_for is not None:
            yield held, Released()
        else:
            yield held, SharedCrash(_crash(death, len(jobs)))


def _guilty(jobs: Sequence[Held], current: Held | None, role: Role | None, death: Death) -> Held | None:
    if death.killed_for is not None:
        return None
    if role is Role.ASYNC and len(jobs) == 1:
        return jobs[0]
    if role is Role.SYNC and death.cause and jobs:
        return next((held for held in jobs if held.job.id == death.suspect), jobs[0])
    if current is None or current not in jobs:
        return None
    if role is Role.ASYNC and death.out_of_the_blue:
        return None  # several shared the memory: being stepped proves nothing
    return current


def _stopped(held: Held, death: Death) -> Outcome:
    """It was asked to stop and its worker is gone: the reason counts, not the exit code."""
    match held.stop:
        case StopReason.CANCEL:
            return Stopped()
        case StopReason.SHUTDOWN:
            return Interrupted(JobError("interrupt", "EngineStopped", held.stop.describe(), death.stacks))
        case StopReason.LEASE:
            return _unleased(death)
        case _:
            timeout = None if held.job.timeout_ms is None else held.job.timeout_ms / 1000
            message = f"{StopReason.TIMEOUT.describe(timeout)}; it did not stop when asked, so its worker was killed"
            return Errored(JobError("timeout", "JobTimeout", message, death.stacks))


def _unleased(death: Death) -> Outcome:
    return Interrupted(JobError("interrupt", "LeaseLost", StopReason.LEASE.describe(), death.stacks))


def _crash(death: Death, neighbours: int = 1) -> JobError:
    message = death.describe()
    if neighbours > 1:
        message += f", with {neighbours} jobs in it; this one runs alone next time"
    return JobError("crash", "WorkerDied", message, death.stacks)
