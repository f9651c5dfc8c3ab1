"""How a statement and its parameters reach aiomysql, and into how many statements rows go."""

from __future__ import annotations

import pytest
from pymysql.err import InterfaceError, InternalError, OperationalError

from sidequest.backends.mysql.session import STATEMENT, Several, as_positional, parts, size, translated
from sidequest.backends.work import Conflict
from sidequest.errors import BackendFull, BackendUnavailable, SchemaMismatch


def test_parameters_go_where_their_names_stand() -> None:
    assert as_positional("SELECT :a, '100%', :b, :a", {"b": 2, "a": 1, "unused": 3}) == (
        "SELECT %s, '100%%', %s, %s",
        (1, 2, 1),
    )


def test_one_parameter_can_stand_for_many() -> None:
    rows = Several("(%s, %s)", [(1, "a"), (2, "%s")])
    text, parameters = as_positional("INSERT '5%' VALUES :rows WHERE :x", {"rows": rows, "x": None})
    assert (text, parameters) == ("INSERT '5%%' VALUES (%s, %s), (%s, %s) WHERE %s", (1, "a", 2, "%s", None))


def test_what_stands_between_them_can_be_said() -> None:
    assert as_positional("CASE id :cases END", {"cases": Several("WHEN %s THEN %s", [(1, 2), (3, 4)], " ")}) == (
        "CASE id WHEN %s THEN %s WHEN %s THEN %s END", (1, 2, 3, 4),
    )  # fmt: skip


def test_rows_keep_their_order_and_none_is_lost() -> None:
    assert [list(part) for part in parts([1, 2, 3, 4, 5], most=2)] == [[1, 2], [3, 4], [5]]
    assert list(parts([])) == []


def test_heavy_rows_go_into_statements_of_their_own() -> None:
    half = STATEMENT // 2
    assert [list(part) for part in parts([half, half, 1, 3 * half, 1, 1], lambda row: row)] == [
        [half, half],
        [1],
        [3 * half],
        [1, 1],
    ]


@pytest.mark.parametrize(
    "text", ["", "a" * 999, "'\\\"\n" * 1000, "🦄" * 999, "漢" * 5000, "x" * 5000, "".join(map(chr, range(1, 5000)))]
)
def test_a_value_takes_no_more_than_its_size(text: str) -> None:
    from pymysql.converters import escape_string

    needed = len(f"'{escape_string(text)}'".encode())
    assert needed <= size(text)
    if len(text) >= 1000:
        assert needed == size(text)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (OperationalError(1213, "Deadlock found"), Conflict),
        (OperationalError(1205, "Lock wait timeout exceeded"), Conflict),
        (OperationalError(3572, "NOWAIT"), Conflict),
        (OperationalError(1406, "Data too long"), ValueError),
        (OperationalError(1146, "Table doesn't exist"), SchemaMismatch),
        *((OperationalError(code, "…"), BackendUnavailable) for code in (1040, 1053, 1153, 1290, 1836, 1927)),
        *((OperationalError(code, "…"), BackendFull) for code in (3, 28, 1021, 1114)),
        *((OperationalError(code, "…"), BackendUnavailable) for code in (2003, 2006, 2013, 3024, 4031, 64_000)),
        (InterfaceError("(0, 'Not connected')"), BackendUnavailable),
        (InternalError("Packet sequence number wrong - got 1 expected 2"), BackendUnavailable),
        (ConnectionResetError("reset"), BackendUnavailable),
        (TimeoutError(), BackendUnavailable),
        (KeyError("a mistake of ours"), KeyError),
    ],
)
def test_errors_are_told_apart_by_their_numbers(error: Exception, meaning: type[Exception]) -> None:
    assert type(translated(error, "mysql://host/db")) is meaning
