"""Parameters in the way that each driver wants them."""

from __future__ import annotations

from sidequest.backends.sql import parameters


def test_numbered_parameters_are_named_once_and_used_again() -> None:
    text, names = parameters.numbered("SELECT :a, :b WHERE x = :a")
    assert (text, names) == ("SELECT $1, $2 WHERE x = $1", ("a", "b"))


def test_positional_parameters_are_named_as_often_as_they_occur() -> None:
    text, names = parameters.positional("SELECT :a, :b WHERE x = :a")
    assert (text, names) == ("SELECT %s, %s WHERE x = %s", ("a", "b", "a"))


def test_a_cast_is_no_parameter() -> None:
    assert parameters.numbered("SELECT :ids::bigint[], x::text") == ("SELECT $1::bigint[], x::text", ("ids",))


def test_a_percent_sign_is_not_taken_for_a_parameter() -> None:
    assert parameters.positional("SELECT 7 % 2, :a") == ("SELECT 7 %% 2, %s", ("a",))


def test_a_name_that_begins_like_another_is_its_own() -> None:
    assert parameters.numbered(":now, :now_us") == ("$1, $2", ("now", "now_us"))
