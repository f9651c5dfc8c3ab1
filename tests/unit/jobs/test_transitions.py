"""The state machine: every move, from every state, with every outcome."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from sidequest.errors import JobStateError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
    append_error,
    read_errors,
)
from sidequest.jobs.record import ClaimedJob, JobRecord
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STARTED = NOW - timedelta(seconds=3)
SECOND = timedelta(seconds=1)
HELD = (State.CLAIMED, State.RUNNING)
ERROR = JobError("error", "ValueError", "no", "Traceback …")


class Middle(Random):
    """Chance that always says the middle: waits without their jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def claimed(**changes: Any) -> ClaimedJob:
    job = ClaimedJob(
        id=7, lease="lease-1", name="shop:send", queue="mail", args="{}", attempt=1, max_attempts=5, timeout_ms=None,
        kill_grace_ms=None, backoff="exponential", retry_delay_ms=1_000, isolated=False, tags=None, meta=None, errors=None,
        interrupts=0, crashes=0, snoozes=0, enqueued_us=0,
    )  # fmt: skip
    return job._replace(**changes)


def stored(state: State, **changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": 7, "name": "shop:send", "queue": "mail", "state": state, "priority": 0, "available_at": NOW, "attempt": 1,
        "max_attempts": 5, "timeout": None, "kill_grace": None, "backoff": "exponential", "retry_delay": SECOND,
        "isolated": False, "tags": (), "engine": "engine-1", "lease": "lease-1", "inserted_at": NOW, "claimed_at": None,
        "started_at": None, "finished_at": None, "cancel_requested_at": None, "interrupts": 0, "crashes": 0, "snoozes": 0,
        "progress": None, "args_json": "{}", "meta_json": None, "result_json": None, "errors_json": None,
    }  # fmt: skip
    return JobRecord(**values | changes)


def finish(outcome: Outcome, **job: Any) -> Change:
    return transitions.finish(claimed(**job), outcome, STARTED, NOW, Middle())


def ended(state: State, **columns: object) -> Change:
    return Change(7, "lease-1", HELD, state, {"started_at": STARTED, "finished_at": NOW, "cancel_requested_at": None} | columns)


def waiting(due: datetime, **columns: object) -> Change:
    return Change(7, "lease-1", HELD, State.WAITING, {"available_at": due} | columns)


def noted(error: JobError = ERROR, attempt: int = 1, earlier: str | None = None) -> str:
    return append_error(earlier, JobError(error.kind, error.type, error.message, error.trace, attempt, NOW))


# Starting and ending an attempt.


def test_start_moves_a_claimed_job_to_running_under_its_lease() -> None:
    assert transitions.start(claimed(), STARTED) == Change(
        7, "lease-1", (State.CLAIMED,), State.RUNNING, {"started_at": STARTED}
    )


def test_a_job_that_returned_is_completed_with_its_result() -> None:
    assert finish(Completed('"hi"')) == ended(State.COMPLETED, result='"hi"')


def test_a_job_that_was_told_to_fail_fails_whatever_attempts_are_left() -> None:
    assert finish(Failed(ERROR)) == ended(State.FAILED, errors=noted())


def test_a_result_that_cannot_be_stored_fails_the_job_without_a_retry() -> None:
    error = JobError("result", "NotSerializable", "$.x is a Plain")
    assert finish(Failed(error)) == ended(State.FAILED, errors=noted(error))


def test_a_job_that_stopped_on_request_is_canceled() -> None:
    assert finish(Stopped()) == ended(State.CANCELED)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_an_error_consumes_the_attempt_and_waits_for_the_backoff(attempt: int, seconds: int) -> None:
    expected = waiting(NOW + seconds * SECOND, errors=noted(attempt=attempt))
    assert finish(Errored(ERROR), attempt=attempt) == expected


def test_an_error_on_the_last_attempt_fails_the_job() -> None:
    assert finish(Errored(ERROR), attempt=5) == ended(State.FAILED, errors=noted(attempt=5))


def test_a_delay_asked_for_is_exact() -> None:
    assert finish(Errored(ERROR, timedelta(hours=9))) == waiting(NOW + timedelta(hours=9), errors=noted())


def test_a_delay_asked_for_does_not_add_attempts() -> None:
    assert finish(Errored(ERROR, SECOND), attempt=5).state is State.FAILED


def test_a_fixed_backoff_is_the_jobs_own_delay() -> None:
    assert (
        finish(Errored(ERROR), backoff="fixed", retry_delay_ms=90_000, attempt=4).columns["available_at"] == NOW + 90 * SECOND
    )


def test_errors_are_kept_with_their_attempt_and_time() -> None:
    first = noted(attempt=1)
    change = finish(Errored(JobError("timeout", "TimeoutError", "30 s")), attempt=2, errors=first)
    assert [(e.kind, e.attempt, e.at) for e in read_errors(str(change.columns["errors"]))] == [
        ("error", 1, NOW),
        ("timeout", 2, NOW),
    ]


# Crashes.


def test_a_crash_consumes_the_attempt_and_waits_ten_seconds_at_least() -> None:
    assert finish(Crashed(ERROR)) == waiting(NOW + 10 * SECOND, errors=noted(), crashes=1)


def test_a_crash_waits_for_a_longer_backoff() -> None:
    assert finish(Crashed(ERROR), attempt=2, retry_delay_ms=60_000).columns["available_at"] == NOW + 120 * SECOND


def test_the_third_crash_fails_the_job_even_with_attempts_left() -> None:
    assert finish(Crashed(ERROR), crashes=2) == ended(State.FAILED, errors=noted(), crashes=3)


def test_a_crash_on_the_last_attempt_fails_the_job() -> None:
    assert finish(Crashed(ERROR), attempt=5) == ended(State.FAILED, errors=noted(attempt=5), crashes=1)


def test_a_crash_shared_with_others_costs_nothing_and_the_job_runs_alone_next() -> None:
    assert finish(SharedCrash(ERROR), attempt=3) == waiting(NOW, attempt=2, isolated=True, errors=noted(attempt=3))


# Interrupts.


@pytest.mark.parametrize(("before", "seconds"), [(0, 0), (1, 5), (2, 30)])
def test_the_first_three_interrupts_cost_no_attempt(before: int, seconds: int) -> None:
    assert finish(Interrupted(ERROR), attempt=2, interrupts=before) == waiting(
        NOW + seconds * SECOND, attempt=1, errors=noted(attempt=2), interrupts=before + 1, lease=None, engine=None
    )


def test_the_fourth_interrupt_consumes_the_attempt() -> None:
    assert finish(Interrupted(ERROR), attempt=2, interrupts=3) == waiting(
        NOW + 30 * SECOND, errors=noted(attempt=2), interrupts=4, lease=None, engine=None
    )


def test_a_later_interrupt_waits_for_a_longer_backoff() -> None:
    change = finish(Interrupted(ERROR), attempt=1, interrupts=3, retry_delay_ms=60_000)
    assert change.columns["available_at"] == NOW + 60 * SECOND


def test_the_fourth_interrupt_of_the_last_attempt_fails_the_job() -> None:
    assert finish(Interrupted(ERROR), attempt=5, interrupts=3).state is State.FAILED


def test_a_free_interrupt_of_the_last_attempt_does_not_fail_the_job() -> None:
    assert finish(Interrupted(ERROR), attempt=5, interrupts=2).state is State.WAITING


def test_the_tenth_interrupt_fails_the_job() -> None:
    change = finish(Interrupted(ERROR), attempt=2, max_attempts=100, interrupts=9)
    assert (change.state, change.columns["interrupts"]) == (State.FAILED, 10)


def test_an_interrupted_job_lets_go_of_its_lease() -> None:
    for interrupts in (0, 5):
        columns = finish(Interrupted(ERROR), interrupts=interrupts).columns
        assert (columns["lease"], columns["engine"]) == (None, None)


# Going back.


def test_a_released_job_goes_back_as_if_nothing_had_happened() -> None:
    assert finish(Released(), attempt=3) == waiting(NOW, attempt=2)


def test_a_job_that_no_worker_knows_is_looked_at_again_and_says_why() -> None:
    unknown = JobError("unknown", "UnknownJob", "no worker knows shop:send")
    assert finish(Released(30 * SECOND, unknown)) == waiting(NOW + 30 * SECOND, attempt=0, errors=noted(unknown))


def test_a_job_that_no_worker_knows_says_why_only_once() -> None:
    unknown = JobError("unknown", "UnknownJob", "no worker knows shop:send")
    earlier = noted(unknown)
    assert finish(Released(30 * SECOND, unknown), errors=earlier) == waiting(NOW + 30 * SECOND, attempt=0, errors=earlier)


def test_a_snooze_gives_the_attempt_back_and_is_counted() -> None:
    assert finish(Snoozed(300 * SECOND), attempt=5, snoozes=8) == waiting(NOW + 300 * SECOND, attempt=4, snoozes=9)


OUTCOMES: list[Outcome] = [
    Completed(), Errored(ERROR), Failed(ERROR), Crashed(ERROR), SharedCrash(ERROR), Interrupted(ERROR), Released(),
    Released(SECOND, ERROR), Snoozed(SECOND), Stopped(),
]  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_every_end_is_written_only_where_the_lease_still_holds_the_job(outcome: Outcome) -> None:
    change = finish(outcome)
    assert (change.id, change.lease, change.before) == (7, "lease-1", HELD)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
@pytest.mark.parametrize("attempt", [1, 5])
def test_every_end_leads_to_waiting_or_to_a_final_state(outcome: Outcome, attempt: int) -> None:
    change = finish(outcome, attempt=attempt)
    assert change.state is not None
    assert ("available_at" in change.columns) == (change.state is State.WAITING)
    assert ("finished_at" in change.columns) == change.state.final


# What people ask for.


def test_a_waiting_job_is_canceled_at_once() -> None:
    expected = Change(7, "lease-1", (State.WAITING,), State.CANCELED, {"finished_at": NOW})
    assert transitions.cancel(stored(State.WAITING), NOW) == expected


@pytest.mark.parametrize("state", HELD)
def test_a_held_job_is_asked_to_stop_and_keeps_its_state(state: State) -> None:
    expected = Change(7, "lease-1", HELD, None, {"cancel_requested_at": NOW})
    assert transitions.cancel(stored(state), NOW) == expected


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELED])
def test_it_is_too_late_to_cancel_a_job_that_has_ended(state: State) -> None:
    assert transitions.cancel(stored(state), NOW) is None


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELED])
def test_a_retry_gives_an_ended_job_another_life(state: State) -> None:
    record = stored(state, attempt=2, crashes=2, interrupts=9, result_json="1", finished_at=NOW)
    assert transitions.retry(record, NOW) == Change(
        7, "lease-1", (state,), State.WAITING,
        {
            "available_at": NOW, "max_attempts": 5, "lease": None, "engine": None, "started_at": None, "finished_at": None,
            "result": None, "progress": None, "crashes": 0, "interrupts": 0,
        },
    )  # fmt: skip


def test_a_retry_of_a_job_that_used_up_its_attempts_grants_one_more() -> None:
    assert transitions.retry(stored(State.FAILED, attempt=5), NOW).columns["max_attempts"] == 6


@pytest.mark.parametrize("state", [State.WAITING, State.CLAIMED, State.RUNNING])
def test_a_job_that_has_not_ended_cannot_be_retried(state: State) -> None:
    with pytest.raises(JobStateError, match=f"^job 7 is {state}: only a completed, failed or canceled job can be retried$"):
        transitions.retry(stored(state), NOW)


def test_run_now_makes_a_scheduled_job_due() -> None:
    record = stored(State.WAITING, available_at=NOW + timedelta(days=1))
    assert transitions.run_now(record, NOW) == Change(7, "lease-1", (State.WAITING,), State.WAITING, {"available_at": NOW})


def test_run_now_does_not_send_a_due_job_to_the_end_of_the_line() -> None:
    earlier = NOW - timedelta(hours=1)
    assert transitions.run_now(stored(State.WAITING, available_at=earlier), NOW).columns == {"available_at": earlier}


def test_snooze_makes_a_waiting_job_due_later() -> None:
    expected = Change(7, "lease-1", (State.WAITING,), State.WAITING, {"available_at": NOW + 60 * SECOND})
    assert transitions.snooze(stored(State.WAITING), 60 * SECOND, NOW) == expected


@pytest.mark.parametrize("state", [state for state in State if state is not State.WAITING])
@pytest.mark.parametrize(
    ("move", "words"),
    [
        (transitions.run_now, "be run now"),
        (lambda record, now: transitions.snooze(record, SECOND, now), "be snoozed"),
    ],
)
def test_only_a_waiting_job_can_be_moved_in_time(
    move: Callable[[JobRecord, datetime], Change], words: str, state: State
) -> None:
    with pytest.raises(JobStateError, match=f"^job 7 is {state}: only a waiting job can {words}$"):
        move(stored(state), NOW)


@pytest.mark.parametrize("state", list(State))
def test_no_move_ever_changes_a_job_that_has_moved_meanwhile(state: State) -> None:
    for move in (transitions.cancel, transitions.retry, transitions.run_now):
        try:
            change = move(stored(state), NOW)
        except JobStateError:
            continue
        assert change is None or (state in change.before and change.lease == "lease-1")
