"""THE STORE, in SQL: how one statement writes changes of one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, cast

from sidequest.backends.shapes import Shape
from sidequest.backends.sql.rows import ToColumn
from sidequest.backends.sql.session import Session
from sidequest.jobs.states import FINAL, State
from sidequest.jobs.transitions import Change


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


def rows_of(changes: Sequence[Change], now: datetime, to_column: ToColumn) -> Sequence[dict[str, Any]]:
    """The parameters of changes of one shape: their columns, `the_id`, `the_lease`, and `ready` or `now` if asked for."""
    shape = changes[0]
    columns = {name: _in_column([change.columns[name] for change in changes], to_column) for name in shape.columns}
    columns["the_id"] = [change.id for change in changes]
    columns["the_lease"] = [change.lease for change in changes]
    if "available_at" in shape.columns:
        columns["ready"] = [cast("datetime", change.columns["available_at"]) <= now for change in changes]
    elif shape.state is State.WAITING:
        columns["now"] = [to_column(now)] * len(changes)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _in_column(values: Sequence[object], to_column: ToColumn) -> Sequence[Any]:
    """The values as the column holds them. What all have in common is turned once: an instant may take microseconds."""
    if all_the_same(values):
        first = values[0]
        return [to_column(first) if isinstance(first, datetime) else first] * len(values)
    return [to_column(value) if isinstance(value, datetime) else value for value in values]


def all_the_same(values: Sequence[object]) -> bool:
    """Whether they are one object. Equality will not do: an hour that comes twice is equal to itself, with any `fold`."""
    return len(set(map(id, values))) == 1


async def write_together(
    session: Session,
    changes: Sequence[Change],
    write: Callable[[Sequence[Change]], Awaitable[int]],
    holding: Callable[[], Awaitable[Collection[int]]],
) -> Sequence[int]:
    """Write changes as if all their fences held, as nearly all do; the ids of those that were not written.

    For databases whose statements tell only how many rows they found: so `write` does. Was it too
    few, that is undone, and `holding` finds the ids whose fence holds and sees to it that it stays so.
    """
    await session.savepoint()
    if await write(changes) == len(changes):
        return ()
    await session.rollback_to_savepoint()
    found = await holding()
    if found:
        await write([change for change in changes if change.id in found])
    return [change.id for change in changes if change.id not in found]


def _ready_of_waiting(shape: Shape, value: Callable[[str], str]) -> str:
    return value("ready") if "available_at" in shape.columns else "(available_at <= :now)"
