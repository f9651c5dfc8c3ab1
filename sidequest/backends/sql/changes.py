"""THE STORE, in SQL: how one statement writes changes of one shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sidequest.backends.shapes import Shape
from sidequest.backends.sql.rows import ToColumn
from sidequest.jobs.states import FINAL, State
from sidequest.jobs.transitions import Change

INSTANTS = frozenset({"available_at", "claimed_at", "started_at", "finished_at", "cancel_requested_at"})


def row_values(shape: Shape) -> tuple[str, ...]:
    """The names of the values that differ from change to change, beside `the_id` and `the_lease`."""
    return (*shape.columns, "ready") if "available_at" in shape.columns else shape.columns


def assignments(shape: Shape, value: Callable[[str], str] = ":{}".format) -> str:
    """What follows SET: the columns named, and those that the state brings with it.

    `value` says how the statement refers to one of `row_values`; `:now` is the same for all.
    """
    parts = [f"{column} = {value(column)}" for column in shape.columns]
    if shape.state is not None:
        parts.append(f"state = '{shape.state.value}'")
        if shape.state is State.WAITING:
            parts.append(f"ready = {_ready_of_waiting(shape, value)}")
        elif State.WAITING in shape.before:  # else it is NULL: SQLite would look into each index that has it
            parts.append("ready = NULL")
    elif "available_at" in shape.columns:
        parts.append(f"ready = CASE WHEN ready IS NULL THEN NULL ELSE {value('ready')} END")
    if shape.state in FINAL:
        parts.append("unique_lock = NULL")
    return ", ".join(parts)


def guard(shape: Shape) -> str:
    """The part of the fence that all of these changes share."""
    not_canceled = " AND cancel_requested_at IS NULL" if shape.state is State.WAITING else ""
    return f"state IN ({listed(shape.before)}){not_canceled}"


def listed(states: Collection[State]) -> str:
    """The states as SQL literals with commas in between, always in the same order: so a statement is always the same."""
    return ", ".join(f"'{state.value}'" for state in State if state in states)


def columns_of(
    changes: Sequence[Change], now: datetime, to_column: ToColumn
) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """The parameters of changes of one shape, by name: `row_values`, `the_id`, `the_lease` and `now`.

    First the values that all of them share, then a sequence of each name that has several, among
    them `the_id`: what is the same for all is turned once, and need not travel again and again.
    """
    shape = changes[0]
    columns: dict[str, Sequence[Any]] = {name: [change.columns[name] for change in changes] for name in shape.columns}
    if "available_at" in columns:
        columns["ready"] = [due <= now for due in columns["available_at"]]
    columns["the_lease"] = [change.lease for change in changes]

    def in_column(name: str, values: Sequence[Any]) -> Sequence[Any]:
        return [None if value is None else to_column(value) for value in values] if name in INSTANTS else values

    shared = {name: in_column(name, values[:1])[0] for name, values in columns.items() if all_the_same(values)}
    several = {name: in_column(name, values) for name, values in columns.items() if name not in shared}
    return {**shared, "now": to_column(now)}, {"the_id": [change.id for change in changes], **several}


def rows_of(changes: Sequence[Change], now: datetime, to_column: ToColumn) -> Sequence[dict[str, Any]]:
    """The same, a row for each change."""
    shared, several = columns_of(changes, now, to_column)
    return [{**shared, **dict(zip(several, row, strict=True))} for row in zip(*several.values(), strict=True)]


def all_the_same(values: Sequence[object]) -> bool:
    """Whether they are one object. Equality will not do: an hour that comes twice is equal to itself, with any `fold`."""
    return len(set(map(id, values))) == 1


def _ready_of_waiting(shape: Shape, value: Callable[[str], str]) -> str:
    return value("ready") if "available_at" in shape.columns else "(available_at <= :now)"
