"""What becomes of the jobs of a worker that died."""

from __future__ import annotations

import pytest

from sidequest.engine.lane import Held
from sidequest.engine.verdicts import verdicts
from sidequest.engine.worker_process import Death
from sidequest.jobs.outcome import Crashed, Errored, Interrupted, JobError, Outcome, Released, SharedCrash, Stopped
from sidequest.wire.messages import Role, StopReason
from tests.unit.engine.fakes import claimed

EXIT = Death(3)
SEGFAULT = Death(-11)
KILLED = Death(-9)


def jobs(count: int) -> list[Held]:
    return [Held(claimed(id)) for id in range(1, count + 1)]


def judged(held: list[Held], current: Held | None, role: Role | None, death: Death) -> list[Outcome | None]:
    found = list(verdicts(held, current, role, death))
    assert [each for each, _ in found] == held, "every job is judged once, in order"
    return [verdict for _, verdict in found]


def kinds(held: list[Held], current: Held | None, role: Role | None, death: Death) -> list[type[Outcome] | None]:
    return [None if verdict is None else type(verdict) for verdict in judged(held, current, role, death)]


@pytest.mark.parametrize("death", [EXIT, SEGFAULT, KILLED, Death(None)])
@pytest.mark.parametrize("stepped", [True, False])
def test_an_async_job_alone_in_its_worker_crashed(death: Death, stepped: bool) -> None:
    [job] = jobs(1)
    assert kinds([job], job if stepped else None, Role.ASYNC, death) == [Crashed]


@pytest.mark.parametrize("death", [EXIT, SEGFAULT])
def test_of_several_async_jobs_the_one_being_stepped_is_blamed(death: Death) -> None:
    held = jobs(3)
    assert kinds(held, held[1], Role.ASYNC, death) == [Released, Crashed, Released]


@pytest.mark.parametrize("death", [KILLED, Death(None)])
def test_a_sigkill_out_of_the_blue_or_what_may_have_been_one_blames_none_of_several_async_jobs(death: Death) -> None:
    held = jobs(3)
    assert kinds(held, held[1], Role.ASYNC, death) == [SharedCrash] * 3


def test_a_death_between_two_steps_blames_none_of_several_async_jobs() -> None:
    assert kinds(jobs(2), None, Role.ASYNC, EXIT) == [SharedCrash] * 2


def test_a_job_that_is_not_in_the_worker_is_not_blamed() -> None:
    assert kinds(jobs(2), Held(claimed(9)), Role.ASYNC, EXIT) == [SharedCrash] * 2


@pytest.mark.parametrize("death", [EXIT, SEGFAULT, KILLED])
def test_a_sync_job_that_was_running_crashed_and_those_behind_it_had_not_started(death: Death) -> None:
    held = jobs(3)
    assert kinds(held, held[0], Role.SYNC, death) == [Crashed, None, None]


def test_a_sync_worker_that_died_between_two_jobs_blames_nobody() -> None:
    assert kinds(jobs(2), None, Role.SYNC, EXIT) == [None, None]


def test_a_worker_without_jobs_has_no_verdicts() -> None:
    assert judged([], None, None, EXIT) == []


def test_a_crash_names_the_exit_code() -> None:
    [job] = jobs(1)
    assert judged([job], job, Role.SYNC, Death(3, stacks="Thread 1")) == [
        Crashed(JobError("crash", "WorkerDied", "the worker process exited with code 3", "Thread 1"))
    ]


def test_a_crash_names_the_signal() -> None:
    [job] = jobs(1)
    assert judged([job], job, Role.SYNC, SEGFAULT) == [
        Crashed(JobError("crash", "WorkerDied", "the worker process was killed by SIGSEGV"))
    ]


def test_a_kill_that_we_did_not_send_is_probably_out_of_memory() -> None:
    [job] = jobs(1)
    message = "the worker process was killed by SIGKILL, which nobody here sent: probably out of memory"
    assert judged([job], job, Role.SYNC, KILLED) == [Crashed(JobError("crash", "WorkerDied", message))]


def test_a_shared_crash_says_how_many_shared_it() -> None:
    message = "the worker process exited with code 3, with 2 jobs in it; this one runs alone next time"
    assert judged(jobs(2), None, Role.ASYNC, EXIT) == [SharedCrash(JobError("crash", "WorkerDied", message))] * 2


# Killed by us


def test_the_job_for_which_a_worker_was_killed_timed_out_and_its_neighbours_are_released() -> None:
    held = jobs(3)
    held[1] = Held(claimed(2, timeout_ms=1_500), stop=StopReason.TIMEOUT)
    message = "the timeout of 1.5 s was reached; it did not stop when asked, so its worker was killed"
    assert judged(held, held[1], Role.ASYNC, Death(-9, killed_for=2, stacks="here")) == [
        Released(),
        Errored(JobError("timeout", "JobTimeout", message, "here")),
        Released(),
    ]


def test_a_canceled_job_whose_worker_was_killed_is_stopped() -> None:
    held = [Held(claimed(1), stop=StopReason.CANCEL)]
    assert judged(held, held[0], Role.SYNC, Death(-9, killed_for=1)) == [Stopped()]


def test_a_job_killed_at_shutdown_is_interrupted() -> None:
    held = [Held(claimed(1), stop=StopReason.SHUTDOWN)]
    error = JobError("interrupt", "EngineStopped", "the engine is shutting down", "here")
    assert judged(held, held[0], Role.SYNC, Death(-9, killed_for=1, stacks="here")) == [Interrupted(error)]


def test_two_jobs_that_had_to_stop_each_end_for_their_own_reason() -> None:
    held = [Held(claimed(1), stop=StopReason.TIMEOUT), Held(claimed(2), stop=StopReason.CANCEL), Held(claimed(3))]
    assert kinds(held, held[0], Role.ASYNC, Death(-9, killed_for=1)) == [Errored, Stopped, Released]


def test_a_worker_killed_for_no_jobs_sake_releases_what_was_in_it() -> None:
    assert kinds(jobs(2), None, Role.ASYNC, Death(-9, killed_for=0)) == [Released] * 2


def test_even_alone_a_job_is_not_blamed_for_a_kill_of_ours() -> None:
    [job] = jobs(1)
    assert judged([job], job, Role.ASYNC, Death(-9, killed_for=0)) == [Released()]


def test_sync_jobs_behind_the_one_that_was_killed_had_not_started() -> None:
    held = jobs(2)
    held[0].stop = StopReason.TIMEOUT
    assert kinds(held, held[0], Role.SYNC, Death(-9, killed_for=1)) == [Errored, None]


def test_a_running_sync_job_whose_worker_was_killed_for_another_is_released() -> None:
    held = jobs(3)
    held[1].stop = StopReason.CANCEL
    assert kinds(held, held[0], Role.SYNC, Death(-9, killed_for=2)) == [Released, Stopped, None]


# Killed for a cause: what the worker did as a whole

CAUSE = Death(-9, cause="it used 900 MB", suspect=2)
MESSAGE = "the worker process was killed: it used 900 MB"


@pytest.mark.parametrize("role", Role)
def test_a_job_alone_in_a_worker_that_was_killed_for_a_cause_crashed(role: Role) -> None:
    [job] = jobs(1)
    assert judged([job], None, role, CAUSE) == [Crashed(JobError("crash", "WorkerDied", MESSAGE))]


def test_of_sync_jobs_the_one_that_ran_when_the_cause_was_seen_crashed_whoever_runs_now() -> None:
    held = jobs(3)
    assert kinds(held[1:], held[2], Role.SYNC, CAUSE) == [Crashed, Released]


def test_of_sync_jobs_the_first_crashed_when_none_ran_as_the_cause_was_seen() -> None:
    assert kinds(jobs(2), None, Role.SYNC, Death(-9, cause="half a message")) == [Crashed, None]


def test_of_several_async_jobs_a_cause_blames_none() -> None:
    held = jobs(3)
    assert kinds(held, held[1], Role.ASYNC, CAUSE) == [SharedCrash] * 3


# Told to stop, and the worker died by itself


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [(StopReason.TIMEOUT, Errored), (StopReason.CANCEL, Stopped), (StopReason.SHUTDOWN, Interrupted)],
)
def test_a_guilty_job_that_had_to_stop_ends_for_that_reason(reason: StopReason, outcome: type[Outcome]) -> None:
    held = [Held(claimed(1), stop=reason)]
    assert kinds(held, held[0], Role.SYNC, EXIT) == [outcome]
