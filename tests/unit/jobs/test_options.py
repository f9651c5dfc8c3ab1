"""Options: what may be given where, who wins, and how wrong ones are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidequest.jobs.client import JobCall, with_options
from sidequest.jobs.definition import Definition
from sidequest.jobs.options import (
    DEFAULT_OPTIONS,
    DEFINITION_OPTIONS,
    ENQUEUE_OPTIONS,
    check_enqueue_options,
    check_options,
)
from sidequest.jobs.record import NewJob

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def constant(attempt: int, error: BaseException) -> float:
    return 1


CONNECTION = object()

GOOD: list[tuple[str, object, object]] = [
    ("connection", CONNECTION, CONNECTION),
    ("name", "shop:send", "shop:send"),
    ("name", "x" * 200, "x" * 200),
    ("aliases", ["old:send", "older:send"], ("old:send", "older:send")),
    ("aliases", ["x" * 200], ("x" * 200,)),
    ("queue", "mail", "mail"),
    ("priority", -5, -5),
    ("priority", 2**31 - 1, 2**31 - 1),
    ("max_attempts", 1, 1),
    ("timeout", None, None),
    ("timeout", 0.5, timedelta(seconds=0.5)),
    ("timeout", timedelta(hours=1), timedelta(hours=1)),
    ("kill_grace", None, None),
    ("kill_grace", 0, timedelta(0)),
    ("backoff", "exponential", "exponential"),
    ("backoff", "fixed", "fixed"),
    ("backoff", constant, constant),
    ("retry_delay", 0, timedelta(0)),
    ("retry_delay", 2, 2 * SECOND),
    ("retry_on", ValueError, (ValueError,)),
    ("retry_on", (), ()),
    ("discard_on", [KeyError, OSError], (KeyError, OSError)),
    ("delay", 60, 60 * SECOND),
    ("at", NOON, NOON),
    ("isolated", True, True),
    ("tags", ["a", "b", "a"], ("a", "b")),
    ("meta", {"tenant": "acme", 1: {2}}, '{"$type":"dict","value":[["tenant","acme"],[1,{"$type":"set","value":[2]}]]}'),
]

BAD: list[tuple[str, object, type[Exception], str]] = [
    ("name", 7, TypeError, "name must be a string"),
    ("name", "x" * 201, ValueError, "name must be 1 to 200"),
    ("name", "a b", ValueError, "name must be 1 to 200"),
    ("aliases", "old:send", TypeError, "aliases must be a sequence of strings"),
    ("aliases", [""], ValueError, "aliases[0] must be 1 to 200"),
    ("queue", None, TypeError, "queue must be a string, not None"),
    ("queue", "no way", ValueError, "queue must be 1 to 100"),
    ("priority", 1.5, TypeError, "priority must be an integer"),
    ("priority", 2**31, ValueError, "priority must be between"),
    ("max_attempts", 0, ValueError, "max_attempts must be between 1 and 10000, not 0"),
    ("max_attempts", True, TypeError, "max_attempts must be an integer"),
    ("timeout", 0, ValueError, "timeout must be more than 0 seconds"),
    ("timeout", -1, ValueError, "timeout must be more than 0 seconds"),
    ("timeout", "30", TypeError, "timeout must be a number of seconds or a timedelta"),
    ("kill_grace", -1, ValueError, "kill_grace must be 0 seconds up to a century"),
    ("backoff", "linear", ValueError, "backoff must be one of 'exponential', 'fixed'"),
    ("backoff", "custom", ValueError, "backoff must be one of 'exponential', 'fixed'"),
    ("backoff", 3, TypeError, "backoff must be a string"),
    ("retry_delay", None, TypeError, "retry_delay must be a number of seconds"),
    ("retry_on", "ValueError", TypeError, "retry_on must be an exception class or a sequence of them, not 'ValueError'"),
    ("retry_on", [ValueError()], TypeError, "retry_on must be an exception class"),
    ("discard_on", int, TypeError, "discard_on must be an exception class"),
    ("delay", -1, ValueError, "delay must be 0 seconds up to a century, not -1"),
    ("delay", None, TypeError, "delay must be a number of seconds"),
    ("at", NOON.replace(tzinfo=None), ValueError, "at must carry a time zone"),
    ("at", 60, TypeError, "at must be a datetime"),
    ("isolated", 1, TypeError, "isolated must be True or False"),
    ("tags", "a", TypeError, "tags must be a sequence of strings"),
    ("tags", [None], TypeError, "tags[0] must be a string"),
    ("connection", "sqlite:///app.db", TypeError, "connection must be your own open connection or session, not str"),
    ("meta", [1], TypeError, "meta must be a mapping, not list"),
    ("meta", {"a": object()}, TypeError, "meta cannot be stored: $.a is an object"),
    ("meta", {"a": "x" * 2**20}, ValueError, "meta takes 1,048,584 bytes"),
]  # fmt: skip

EVERYWHERE = DEFINITION_OPTIONS | ENQUEUE_OPTIONS


@pytest.mark.parametrize(("option", "value", "expected"), GOOD)
def test_a_good_option_is_taken_in_its_stored_form(option: str, value: object, expected: object) -> None:
    assert check_options({option: value}, EVERYWHERE, "an option") == {option: expected}


@pytest.mark.parametrize(("option", "value", "error", "message"), BAD)
def test_a_bad_option_is_refused_by_name(option: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        check_options({option: value}, EVERYWHERE, "an option")


def test_the_tables_here_know_every_option() -> None:
    assert {option for option, *_ in GOOD} == EVERYWHERE == {option for option, *_ in BAD}


def test_delay_and_at_together_are_refused() -> None:
    with pytest.raises(ValueError, match="delay and at are two ways to say when: give one of them"):
        check_enqueue_options({"delay": 1, "at": NOON})


@pytest.mark.parametrize(
    ("given", "allowed", "message"),
    [
        ("quee", ENQUEUE_OPTIONS, "'quee' is not an option; did you mean 'queue'?"),
        ("max_attemps", DEFINITION_OPTIONS, "did you mean 'max_attempts'?"),
        ("retry", DEFINITION_OPTIONS, "did you mean 'retry_on'?"),
        ("at", DEFINITION_OPTIONS, "'at' is not an option"),
        ("name", ENQUEUE_OPTIONS, "'name' is not an option"),
        ("tags", DEFAULT_OPTIONS, "'tags' is not an option"),
    ],
)
def test_an_option_that_does_not_exist_there_is_refused(given: str, allowed: frozenset[str], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        check_options({given: 1}, allowed, "an option")


def test_a_backoff_function_is_refused_at_enqueue_because_a_row_holds_no_code() -> None:
    with pytest.raises(TypeError, match=r"a function belongs to the decorator, @job\(backoff=…\)"):
        check_enqueue_options({"backoff": constant})


# The nearest wins.


def resolved(*, at_call: dict[str, Any], at_job: dict[str, Any], defaults: dict[str, Any]) -> NewJob:
    definition = Definition(constant, constant, check_options(at_job, DEFINITION_OPTIONS, "an option"))
    call: JobCall[float] = JobCall("n", "{}", check_enqueue_options(at_call), definition)
    return call.resolved(check_options(defaults, DEFAULT_OPTIONS, "an option"))


def test_with_nothing_given_the_defaults_are_those_of_a_new_job() -> None:
    assert resolved(at_call={}, at_job={}, defaults={}) == NewJob(
        "n", "{}", "default", 0, 5, None, None, "exponential", SECOND, isolated=False, tags=(), meta=None, delay=None, at=None
    )


LAYERS: list[tuple[str, Any, Any, Any]] = [
    ("queue", "call", "job", "defaults"),
    ("priority", 1, 2, 3),
    ("max_attempts", 1, 2, 3),
    ("timeout", 1 * SECOND, 2 * SECOND, 3 * SECOND),
    ("kill_grace", 1 * SECOND, 2 * SECOND, 3 * SECOND),
    ("backoff", "fixed", "exponential", "fixed"),
    ("retry_delay", 1 * SECOND, 2 * SECOND, 3 * SECOND),
    ("isolated", False, True, False),
]


@pytest.mark.parametrize(("option", "near", "middle", "far"), LAYERS)
def test_the_call_wins_over_the_job_and_the_job_over_the_defaults(option: str, near: Any, middle: Any, far: Any) -> None:
    def which(call: dict[str, Any], job: dict[str, Any]) -> Any:
        return getattr(resolved(at_call=call, at_job=job, defaults={option: far}), option)

    assert which({option: near}, {option: middle}) == near
    assert which({}, {option: middle}) == middle
    assert which({}, {}) == far


def test_the_call_may_lift_the_jobs_timeout() -> None:
    assert resolved(at_call={"timeout": None}, at_job={"timeout": 5}, defaults={}).timeout is None


def test_an_instant_at_the_call_wins_over_the_jobs_delay() -> None:
    new = resolved(at_call={"at": NOON}, at_job={"delay": 60}, defaults={})
    assert (new.at, new.delay) == (NOON, None)


def test_a_delay_at_the_call_wins_over_the_jobs_delay() -> None:
    assert resolved(at_call={"delay": 0}, at_job={"delay": 60}, defaults={}).delay == timedelta(0)


def test_a_later_delay_replaces_an_earlier_instant() -> None:
    assert with_options(with_options({}, {"at": NOON}), {"delay": 5}) == {"delay": 5 * SECOND}


def test_a_later_instant_replaces_an_earlier_delay() -> None:
    assert with_options(with_options({}, {"delay": 5}), {"at": NOON}) == {"at": NOON}


def test_later_options_are_added_to_earlier_ones() -> None:
    assert with_options(with_options({}, {"queue": "a", "priority": 1}), {"queue": "b"}) == {"queue": "b", "priority": 1}


def test_a_jobs_own_backoff_function_is_stored_by_the_word_custom() -> None:
    assert resolved(at_call={}, at_job={"backoff": constant}, defaults={}).backoff == "custom"


def test_a_call_may_replace_the_jobs_backoff_function() -> None:
    assert resolved(at_call={"backoff": "fixed"}, at_job={"backoff": constant}, defaults={}).backoff == "fixed"


@pytest.mark.parametrize("option", ["name", "aliases", "retry_on", "discard_on"])
def test_what_belongs_to_the_code_is_not_stored_with_a_job(option: str) -> None:
    values: dict[str, Any] = {"name": "x", "aliases": ["y"], "retry_on": ValueError, "discard_on": ValueError}
    new: Callable[[], NewJob] = lambda: resolved(at_call={}, at_job={option: values[option]}, defaults={})  # noqa: E731
    assert new() == resolved(at_call={}, at_job={}, defaults={})
