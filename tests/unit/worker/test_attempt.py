"""One attempt: what a return or an exception makes of a job, and what cannot even be called."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from sidequest import Fail, Job, JobContext, Retry, Snooze, job
from sidequest.errors import JobStopped
from sidequest.jobs.client import Client
from sidequest.jobs.context import Reporter
from sidequest.jobs.definition import Definition
from sidequest.jobs.job import definition_of
from sidequest.jobs.outcome import Completed, Errored, Failed, Interrupted, JobError, Outcome, Released, Snoozed, Stopped
from sidequest.wire.messages import Attempt, StopReason
from sidequest.worker.attempt import UNKNOWN_WAIT, Call, prepare
from sidequest.worker.loading import Loader, StartedInWorker

SECOND = timedelta(seconds=1)


class FakeLoader:
    """Knows the jobs of this file, and may have a module that could not be imported."""

    def __init__(self, broken: BaseException | None = None) -> None:
        self.broken = broken

    def find(self, name: str) -> Definition | None:
        return None if self.broken else definition_of(globals().get(name))

    def failure(self, name: str) -> BaseException | None:
        return self.broken


def attempt(name: str = "plain", args: str = "{}", **changes: Any) -> Attempt:
    made = Attempt(7, 2, 5, 1_500, 1_000_000, name, "mail", args, '["a","b"]', '{"tenant":"x"}')
    return made._replace(**changes)


def prepared(name: str = "plain", args: str = "{}", broken: BaseException | None = None, **changes: Any) -> Call | Outcome:
    loader = cast("Loader", FakeLoader(broken))
    return prepare(attempt(name, args, **changes), loader, cast("Reporter", None), cast("Client", None))


def call(name: str = "plain", args: str = "{}", stop: StopReason | None = None, **changes: Any) -> Call:
    made = prepared(name, args, **changes)
    assert isinstance(made, Call)
    made.stop = stop
    return made


def raised(error: BaseException, name: str = "plain", stop: StopReason | None = None) -> Outcome:
    """The outcome of a job whose code raises this."""
    try:
        raise error
    except BaseException as caught:
        return call(name, stop=stop).raised(caught)


def told(outcome: Outcome) -> tuple[str, str, str]:
    """Kind, type and message of the error in an outcome."""
    assert isinstance(outcome, Errored | Failed | Interrupted | Released)
    assert outcome.error is not None
    return outcome.error.kind, outcome.error.type, outcome.error.message


class Hiccup(Exception):
    pass


class WorseHiccup(Hiccup):
    pass


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


def waits(attempt: int, error: BaseException) -> float | timedelta | None:
    match str(error):
        case "span":
            return SECOND
        case "number":
            return attempt * 10
        case "zero":
            return 0
        case "negative":
            return -1
        case "none":
            return None
        case _:
            raise ZeroDivisionError("bad function")


@job
def plain() -> None: ...


@job(retry_on=(Hiccup,))
def retries() -> None: ...


@job(discard_on=(Hiccup,))
def discards() -> None: ...


@job(retry_on=(Exception,), discard_on=(WorseHiccup,))
def picky() -> None: ...


@job(backoff=waits)
def own_backoff() -> None: ...


@job
def adds(a: int, b: int = 1) -> int:
    return a + b


@job
async def adds_async(a: int) -> int:
    return a + 1


@job
def with_context(ctx: JobContext, a: int) -> tuple[JobContext, int]:
    return ctx, a


class Tenant(Job):
    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, number: int = 0) -> tuple[str, int, int]:
        return self.name, number, self.ctx.id


class Small(Job):
    def run(self) -> int:
        return self.ctx.attempt


# What a job returns


@pytest.mark.parametrize(
    ("value", "result"), [(None, None), (0, "0"), ("żółw", '"żółw"'), ([1, {"a": None}], '[1,{"a":null}]'), (False, "false")]
)
def test_a_value_is_the_result(value: object, result: str | None) -> None:
    assert call().ended(value) == Completed(result)


def test_a_value_that_cannot_be_stored_fails_the_job_and_names_its_path() -> None:
    kind, name, message = told(outcome := call().ended({"a": [object()]}))
    assert (type(outcome), kind, name, "a" in message and "object" in message) == (Failed, "result", "NotSerializable", True)


def test_a_value_that_is_too_large_fails_the_job() -> None:
    assert told(outcome := call().ended("x" * 2_000_000))[:2] == ("result", "TooLarge")
    assert isinstance(outcome, Failed)


def test_a_returned_snooze_is_a_snooze() -> None:
    assert call().ended(Snooze(5)) == Snoozed(5 * SECOND)


def test_a_returned_retry_is_a_retry() -> None:
    outcome = call().ended(Retry("later", delay=5))
    assert isinstance(outcome, Errored)
    assert (told(outcome), outcome.delay) == (("error", "Retry", "later"), 5 * SECOND)


def test_a_returned_fail_is_a_failure() -> None:
    assert told(outcome := call().ended(Fail("no"))) == ("error", "Fail", "no")
    assert isinstance(outcome, Failed)


# What a job raises


def test_a_raised_snooze_is_a_snooze() -> None:
    assert raised(Snooze(5)) == Snoozed(5 * SECOND)


def test_a_raised_retry_without_a_delay_leaves_it_to_the_backoff() -> None:
    outcome = raised(Retry("later"))
    assert isinstance(outcome, Errored)
    assert outcome.delay is None


def test_a_raised_fail_is_a_failure_whatever_may_be_retried() -> None:
    assert isinstance(raised(Fail("no"), "retries"), Failed)


def test_an_exception_is_an_error_with_its_traceback() -> None:
    outcome = raised(Hiccup("again"))
    assert isinstance(outcome, Errored)
    assert (outcome.error.kind, outcome.error.type, outcome.error.message) == ("error", f"{__name__}.Hiccup", "again")
    assert outcome.error.trace.endswith("Hiccup: again\n")


def test_a_built_in_exception_is_named_without_its_module() -> None:
    assert told(raised(ValueError("no"))) == ("error", "ValueError", "no")


def test_a_traceback_begins_in_the_jobs_own_code() -> None:
    failing = call("adds", '{"args":["1"]}')
    with pytest.raises(TypeError) as caught:
        failing.run()
    assert caught.tb.tb_next is not None
    outcome = failing.raised(caught.value.with_traceback(caught.tb.tb_next))  # without this test's own frame
    assert isinstance(outcome, Errored)
    assert (outcome.error.trace.count('File "'), ", in adds\n" in outcome.error.trace) == (1, True)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), JobStopped()])
def test_what_would_end_a_process_is_an_error_of_the_job(error: BaseException) -> None:
    assert isinstance(raised(error), Errored)


def test_an_exception_without_readable_text_is_told_all_the_same() -> None:
    assert told(raised(Unreadable())) == ("error", f"{__name__}.Unreadable", "(the error has no readable text)")


def test_complete_ends_the_job_with_its_result() -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is does not matter outside
        Small().complete([1])
    assert call().raised(caught.value) == Completed("[1]")


# Which errors are worth another try


def test_an_error_that_retry_on_names_is_retried() -> None:
    assert isinstance(raised(WorseHiccup(), "retries"), Errored)


def test_an_error_that_retry_on_does_not_name_fails_the_job() -> None:
    assert isinstance(raised(ValueError(), "retries"), Failed)


def test_an_error_that_discard_on_names_fails_the_job() -> None:
    assert isinstance(raised(WorseHiccup(), "discards"), Failed)


def test_an_error_that_discard_on_does_not_name_is_retried() -> None:
    assert isinstance(raised(ValueError(), "discards"), Errored)


def test_discard_on_wins_over_retry_on() -> None:
    assert [type(raised(error, "picky")) for error in (Hiccup(), WorseHiccup())] == [Errored, Failed]


@pytest.mark.parametrize(("text", "delay"), [("span", SECOND), ("number", 20 * SECOND), ("zero", 0 * SECOND)])
def test_a_backoff_function_says_how_long_to_wait(text: str, delay: timedelta) -> None:
    outcome = raised(Hiccup(text), "own_backoff")
    assert isinstance(outcome, Errored)
    assert outcome.delay == delay


def test_a_backoff_function_that_says_none_fails_the_job() -> None:
    assert isinstance(raised(Hiccup("none"), "own_backoff"), Failed)


@pytest.mark.parametrize(
    ("text", "why"), [("raise", "ZeroDivisionError: bad function"), ("negative", "ValueError: the backoff")]
)
def test_a_backoff_function_that_goes_wrong_leaves_it_to_the_default_and_is_told(text: str, why: str) -> None:
    outcome = raised(Hiccup(text), "own_backoff")
    assert isinstance(outcome, Errored)
    assert (outcome.delay, outcome.error.message) == (None, text)
    assert "The backoff function failed:\n" in outcome.error.trace
    assert why in outcome.error.trace


# Stopped


def test_whatever_a_canceled_job_raises_it_is_stopped() -> None:
    errors = (JobStopped(), asyncio.CancelledError(), ValueError(), Snooze(1), Retry(), Fail())
    assert [raised(error, stop=StopReason.CANCEL) for error in errors] == [Stopped()] * 6


def test_a_canceled_job_that_returned_all_the_same_is_completed() -> None:
    assert call(stop=StopReason.CANCEL).ended(1) == Completed("1")


def test_a_job_over_its_timeout_is_retried_and_says_where_it_was() -> None:
    outcome = raised(JobStopped("now"), stop=StopReason.TIMEOUT)
    assert told(outcome) == ("timeout", "JobTimeout", "the timeout of 1.5 s was reached")
    assert isinstance(outcome, Errored)
    assert ", in raised\n" in outcome.error.trace


def test_a_job_that_was_stopped_at_shutdown_is_interrupted() -> None:
    assert told(outcome := raised(JobStopped(), stop=StopReason.SHUTDOWN)) == (
        "interrupt", "EngineStopped", "the engine is shutting down",
    )  # fmt: skip
    assert isinstance(outcome, Interrupted)


@pytest.mark.parametrize("stop", [StopReason.TIMEOUT, StopReason.SHUTDOWN])
def test_a_job_that_must_stop_may_still_say_how_it_ends(stop: StopReason) -> None:
    outcomes = [type(raised(error, stop=stop)) for error in (Snooze(1), Retry(), Fail())]
    assert outcomes == [Snoozed, Errored, Failed]


# From stored text to a call


def test_a_function_is_called_with_its_stored_arguments() -> None:
    assert call("adds", '{"args":[1],"kwargs":{"b":5}}').run() == 6


def test_a_coroutine_function_is_called_with_its_stored_arguments() -> None:
    assert asyncio.run(call("adds_async", '{"args":[1]}').run()) == 2


def test_the_context_says_what_is_known_of_the_job() -> None:
    ctx, a = call("with_context", '{"args":[3]}').run()
    assert (a, ctx.id, ctx.name, ctx.queue, ctx.attempt, ctx.max_attempts, ctx.tags, ctx.meta, ctx.enqueued_at) == (
        3, 7, "with_context", "mail", 2, 5, ("a", "b"), {"tenant": "x"}, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
    )  # fmt: skip


def test_no_tags_and_no_meta_are_empty() -> None:
    context = call("with_context", '{"args":[3]}', tags="", meta="").context
    assert context is not None
    assert (context.tags, context.meta) == ((), {})


def test_a_job_that_asks_for_no_context_has_none() -> None:
    assert call().context is None


def test_a_context_learns_that_its_job_is_to_stop() -> None:
    made = call("with_context", '{"args":[3]}')
    assert made.context is not None
    made.tell_shutdown()
    made.tell_stop(StopReason.CANCEL)
    assert (made.stop, made.context.canceled, made.context.shutting_down) == (StopReason.CANCEL, True, True)


def test_a_class_job_is_built_again_and_run_with_its_context() -> None:
    assert call("Tenant", '{"init":{"args":["acme"]},"kwargs":{"number":3}}').run() == ("acme", 3, 7)


def test_a_class_job_without_a_constructor_runs() -> None:
    assert call("Small").run() == 2


def test_arguments_are_checked_before_user_code_runs() -> None:
    outcome = prepared("adds", '{"args":[1,2,3]}')
    assert isinstance(outcome, Errored)
    message = f"{__name__}:adds: too many positional arguments; it takes (a: 'int', b: 'int' = 1) -> 'int'"
    assert told(outcome) == ("import", "TypeError", message)


def test_the_arguments_of_a_constructor_are_checked_as_well() -> None:
    outcome = prepared("Tenant", "{}")
    assert isinstance(outcome, Errored)
    message = "Tenant(): missing a required argument: 'name'; it takes (name: 'str') -> 'None'"
    assert told(outcome) == ("import", "TypeError", message)


UNREADABLE = ["", "{", "[]", "1", '"x"', '{"kwargs":[]}', '{"kwargs":{"c":1}}', '{"args":5}', '{"args":[1]', "[" * 100_000]


@pytest.mark.parametrize("args", UNREADABLE)
def test_stored_arguments_that_cannot_be_read_are_an_error_not_a_crash(args: str) -> None:
    outcome = prepared("adds", args)
    assert isinstance(outcome, Errored)
    assert outcome.error.kind == "import"


@pytest.mark.parametrize("changes", [{"tags": "{"}, {"meta": "["}])
def test_stored_tags_and_meta_that_cannot_be_read_are_an_error_not_a_crash(changes: dict[str, Any]) -> None:
    assert isinstance(prepared("with_context", '{"args":[3]}', **changes), Errored)


# No code to call


def test_a_job_that_no_worker_knows_waits_for_a_deploy() -> None:
    message = "no worker of this engine knows a job named 'shop:gone'; looked at again in 30 s"
    assert prepared("shop:gone") == Released(UNKNOWN_WAIT, JobError("unknown", "UnknownJob", message))


def test_a_job_whose_module_cannot_be_imported_is_an_error() -> None:
    outcome = prepared("shop:send", broken=SyntaxError("invalid syntax"))
    assert isinstance(outcome, Errored)
    assert told(outcome) == ("import", "SyntaxError", "shop cannot be imported: SyntaxError: invalid syntax")


def test_a_script_that_starts_sidequest_when_it_is_imported_fails_its_jobs() -> None:
    outcome = prepared("shop:send", broken=StartedInWorker("put it under if __name__ …"))
    assert isinstance(outcome, Failed)
    assert told(outcome) == ("import", "StartedInWorker", "put it under if __name__ …")
