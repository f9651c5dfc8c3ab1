"""THE STORE, in SQL: how one statement writes changes of one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sidequest.backends.shapes import Shape
from sidequest.backends.sql.rows import ToColumn, column_values
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
        parts.append(f"ready = {_ready_of_waiting(shape, value)}" if shape.state is State.WAITING else "ready = NULL")
    elif "available_at" in shape.columns:
        parts.append(f"ready = CASE WHEN ready IS NULL THEN NULL ELSE {value('ready')} END")
    if shape.state in FINAL:
        parts.append("unique_lock = NULL")
    return ", ".join(parts)


def guard(shape: Shape) -> str:
    """The part of the fence that all of these changes share."""
    not_canceled = " AND cancel_requested_at IS NULL" if shape.state is State.WAITING else ""
    return f"state IN ({listed(shape.before)}){not_canceled}"


def listed(states: Iterable[State]) -> str:
    """The states as SQL literals with commas in between."""
    return ", ".join(f"'{state.value}'" for state in states)


def values(change: Change, now: datetime, to_column: ToColumn) -> dict[str, Any]:
    """The parameters of one change: its columns, `the_id`, `the_lease`, and `ready` or `now` if asked for."""
    found = column_values(change.columns, to_column)
    found["the_id"], found["the_lease"] = change.id, change.lease
    due = change.columns.get("available_at")
    if isinstance(due, datetime):
        found["ready"] = due <= now
    elif change.state is State.WAITING:
        found["now"] = to_column(now)
    return found


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
