"""How an attempt ended, and what is kept of what went wrong."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from sidequest import Fail, JobError, Retry, Snooze
from sidequest.jobs.outcome import LONGEST_MESSAGE, LONGEST_TRACE, MOST_ERRORS, append_error, read_errors

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_retry_says_why_and_when() -> None:
    retry = Retry("429", delay=30)
    assert (str(retry), retry.reason, retry.delay) == ("429", "429", timedelta(seconds=30))


def test_retry_without_a_delay_leaves_it_to_the_backoff() -> None:
    assert Retry().delay is None


def test_snooze_says_when() -> None:
    snooze = Snooze(timedelta(minutes=5))
    assert (str(snooze), snooze.delay) == ("come back in 300 s", timedelta(minutes=5))


def test_fail_says_why() -> None:
    assert (str(Fail("gone")), Fail("gone").reason) == ("gone", "gone")


@pytest.mark.parametrize("raised", [Retry("429", delay=30), Fail("gone"), Retry()])
def test_what_a_job_raises_can_be_copied(raised: Retry | Fail) -> None:
    for twin in (copy.copy(raised), pickle.loads(pickle.dumps(raised))):
        assert vars(twin) == vars(raised)


def test_a_bad_delay_is_refused_where_it_is_raised() -> None:
    with pytest.raises(ValueError, match="delay must be 0 seconds up to a century, not -1"):
        Snooze(-1)
    with pytest.raises(TypeError, match="delay must be a number of seconds or a timedelta"):
        Retry(delay="soon")  # type: ignore[arg-type]


def test_a_reason_is_a_text() -> None:
    with pytest.raises(TypeError, match="reason must be a string, not ValueError"):
        Fail(ValueError("gone"))  # type: ignore[arg-type]


def test_an_error_comes_back_from_json_equal() -> None:
    error = JobError("timeout", "TimeoutError", "30 s", "Traceback …", 3, NOON)
    assert JobError.from_json(json.loads(json.dumps(error.to_json()))) == error


def test_an_error_without_a_time_comes_back_equal() -> None:
    error = JobError("error", "ValueError", "no")
    assert JobError.from_json(error.to_json()) == error


def test_an_error_of_an_older_version_is_read_as_far_as_it_goes() -> None:
    assert JobError.from_json({"message": "no"}) == JobError("error", "", "no")


def test_errors_are_read_oldest_first() -> None:
    one, two = JobError("error", "A", "1"), JobError("crash", "B", "2")
    assert read_errors(append_error(append_error(None, one), two)) == (one, two)


def test_no_errors_are_none() -> None:
    assert read_errors(None) == ()


def test_the_last_twenty_errors_are_kept() -> None:
    errors: str | None = None
    for n in range(25):
        errors = append_error(errors, JobError("error", "E", str(n)))
    assert [error.message for error in read_errors(errors)] == [str(n) for n in range(25 - MOST_ERRORS, 25)]


def test_a_long_message_loses_its_end() -> None:
    [error] = read_errors(append_error(None, JobError("error", "E", "x" * 5_000)))
    assert error.message == "x" * (LONGEST_MESSAGE - 1) + "…"


def test_a_long_traceback_loses_its_middle() -> None:
    [error] = read_errors(append_error(None, JobError("error", "E", "", "head" + "x" * 20_000 + "tail")))
    assert len(error.trace) <= LONGEST_TRACE
    assert error.trace.startswith("head")
    assert error.trace.endswith("tail")
    assert "[…]" in error.trace


@pytest.mark.parametrize("text", ["caf\udce9.txt", "a\0b", "☃" * 9_000])
def test_whatever_an_exception_says_can_be_stored_as_utf8(text: str) -> None:
    stored = append_error(None, JobError("error", text, text, text))
    assert "\0" not in stored.encode().decode()


def test_a_lone_surrogate_is_shown_as_its_code() -> None:
    [error] = read_errors(append_error(None, JobError("error", "E", "caf\udce9.txt")))
    assert error.message == "caf\\udce9.txt"
