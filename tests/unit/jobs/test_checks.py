"""Values are refused with the argument's name, what was wrong and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sidequest.jobs import checks

Check = Callable[..., Any]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

GOOD: list[tuple[Check, tuple[Any, ...], Any]] = [
    (checks.integer, (1, 1, 9), 1),
    (checks.integer, (9, 1, 9), 9),
    (checks.number, (0.5,), 0.5),
    (checks.number, (3,), 3),
    (checks.job_id, (2**63 - 1,), 2**63 - 1),
    (checks.flag, (False,), False),
    (checks.duration, (0,), timedelta(0)),
    (checks.duration, (1.5,), timedelta(seconds=1.5)),
    (checks.duration, (timedelta(minutes=5),), timedelta(minutes=5)),
    (checks.duration, (36_500 * 86_400,), timedelta(days=36_500)),
    (checks.instant, (NOON,), NOON),
    (checks.name, ("mail.v2:high_prio-1",), "mail.v2:high_prio-1"),
    (checks.name, ("x" * 100,), "x" * 100),
    (checks.text, ("", 3), ""),
    (checks.text, ("grüß", 4), "grüß"),
    (checks.names, (["b", "a", "b"],), ("b", "a")),
    (checks.names, ((),), ()),
    (checks.choice, ("fixed", ("exponential", "fixed")), "fixed"),
]

BAD: list[tuple[Check, tuple[Any, ...], type[Exception], str]] = [
    (checks.integer, (True, 0, 9), TypeError, "x must be an integer, not bool (True)"),
    (checks.integer, (1.0, 0, 9), TypeError, "x must be an integer, not float (1.0)"),
    (checks.integer, (None, 0, 9), TypeError, "x must be an integer, not None"),
    (checks.integer, ("3", 0, 9), TypeError, "x must be an integer, not str ('3')"),
    (checks.integer, (0, 1, 9), ValueError, "x must be between 1 and 9, not 0"),
    (checks.integer, (10, 1, 9), ValueError, "x must be between 1 and 9, not 10"),
    (checks.number, (True,), TypeError, "x must be a number, not bool (True)"),
    (checks.number, ("1",), TypeError, "x must be a number, not str ('1')"),
    (checks.number, (float("nan"),), ValueError, "x must be a finite number, not nan"),
    (checks.number, (float("inf"),), ValueError, "x must be a finite number, not inf"),
    (checks.number, (10**400,), ValueError, "x must be a finite number, not 1000"),
    (checks.job_id, (0,), ValueError, "x must be between 1 and"),
    (checks.job_id, (2**63,), ValueError, "x must be between 1 and"),
    (checks.flag, (1,), TypeError, "x must be True or False, not int (1)"),
    (checks.duration, ("5",), TypeError, "x must be a number of seconds or a timedelta, not str ('5')"),
    (checks.duration, (True,), TypeError, "x must be a number of seconds or a timedelta, not bool (True)"),
    (checks.duration, (None,), TypeError, "x must be a number of seconds or a timedelta, not None"),
    (checks.duration, (-1,), ValueError, "x must be 0 seconds up to a century, not -1"),
    (checks.duration, (timedelta(seconds=-1),), ValueError, "x must be 0 seconds up to a century, not -1"),
    (checks.duration, (timedelta(days=36_501),), ValueError, "x must be 0 seconds up to a century"),
    (checks.duration, (float("nan"),), ValueError, "x must be a number of seconds up to a century, not nan"),
    (checks.duration, (float("inf"),), ValueError, "x must be a number of seconds up to a century, not inf"),
    (checks.duration, (1e300,), ValueError, "x must be a number of seconds up to a century, not 1e+300"),
    (checks.duration, (10**400,), ValueError, "x must be a number of seconds up to a century, not 1000"),
    (checks.instant, ("2026-11-23",), TypeError, "x must be a datetime, not str"),
    (checks.instant, (NOON.date(),), TypeError, "x must be a datetime, not date"),
    (checks.instant, (NOON.replace(tzinfo=None),), ValueError, "x must carry a time zone"),
    (checks.instant, (datetime(1969, 12, 31, tzinfo=UTC),), ValueError, "x must lie between the years 1970 and 9000"),
    (checks.instant, (datetime(9001, 1, 1, tzinfo=UTC),), ValueError, "x must lie between the years 1970 and 9000"),
    (checks.name, (7,), TypeError, "x must be a string, not int (7)"),
    (checks.name, ("",), ValueError, "x must be 1 to 100 letters"),
    (checks.name, ("a b",), ValueError, "not 'a b'"),
    (checks.name, ("mail\n",), ValueError, "x must be 1 to 100 letters"),
    (checks.name, ("größe",), ValueError, "x must be 1 to 100 letters"),
    (checks.name, ("x" * 101,), ValueError, "x must be 1 to 100 letters"),
    (checks.text, (b"a", 3), TypeError, "x must be a string, not bytes"),
    (checks.text, ("abcd", 3), ValueError, "x must be at most 3 characters long, not 4"),
    (checks.text, ("a\0b", 3), ValueError, "x must not contain NUL characters or lone surrogates"),
    (checks.text, ("a\udcff", 3), ValueError, "x must not contain NUL characters or lone surrogates"),
    (checks.names, ("ab",), TypeError, "x must be a sequence of strings, not str ('ab')"),
    (checks.names, (7,), TypeError, "x must be a sequence of strings, not int (7)"),
    (checks.names, (["ok", 7],), TypeError, "x[1] must be a string, not int (7)"),
    (checks.names, (["ok", "no way"],), ValueError, "x[1] must be 1 to 100 letters"),
    (checks.names, (["a"] * 51,), ValueError, "x must hold at most 50 strings, not 51"),
    (checks.choice, (3, ("a", "b")), TypeError, "x must be a string, not int (3)"),
    (checks.choice, ("fixd", ("exponential", "fixed")), ValueError, "'fixd'; did you mean 'fixed'?"),
]


@pytest.mark.parametrize(("check", "arguments", "expected"), GOOD)
def test_a_good_value_comes_back(check: Check, arguments: tuple[Any, ...], expected: object) -> None:
    assert check("x", *arguments) == expected


@pytest.mark.parametrize(("check", "arguments", "error", "message"), BAD)
def test_a_bad_value_is_refused_by_name(check: Check, arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        check("x", *arguments)


def test_a_duration_may_have_to_be_more_than_zero() -> None:
    with pytest.raises(ValueError, match="x must be more than 0 seconds"):
        checks.duration("x", 0, zero=False)


def test_a_text_may_have_to_say_something() -> None:
    with pytest.raises(ValueError, match="x must not be empty"):
        checks.text("x", "", 3, empty=False)


def test_an_instant_keeps_its_own_zone() -> None:
    lisbon_like = datetime(2026, 7, 1, 9, tzinfo=timezone(timedelta(hours=1)))
    assert checks.instant("at", lisbon_like).utcoffset() == timedelta(hours=1)


def test_an_unknown_word_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^'quee' is not an option; did you mean 'queue'\?$"):
        checks.known("an option", ["quee"], ["queue", "priority"])


def test_an_unknown_word_near_to_nothing_is_refused_with_all_that_exist() -> None:
    with pytest.raises(TypeError, match="^'zzz' is not an option; there are priority, queue$"):
        checks.known("an option", ["zzz"], ["queue", "priority"])


def test_a_key_that_is_no_string_is_refused_like_an_unknown_word() -> None:
    with pytest.raises(TypeError, match="^1 is not an option"):
        checks.known("an option", [1], ["queue"])  # type: ignore[list-item]


def test_known_words_pass() -> None:
    checks.known("an option", ["queue"], ["queue", "priority"])
