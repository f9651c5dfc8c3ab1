"""THE STORE. Which changes can be written together: those of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

CHANGEABLE = frozenset({
    "priority", "available_at", "attempt", "max_attempts", "isolated", "engine", "lease", "claimed_at", "started_at",
    "finished_at", "result", "errors", "progress", "cancel_requested_at", "interrupts", "crashes", "snoozes",
})  # fmt: skip
"""The columns that a change may name. They become part of a statement: nothing else may."""


class Shape(NamedTuple):
    """What changes have in common that one statement can write."""

    before: tuple[State, ...]
    state: State | None
    columns: tuple[str, ...]


Group = tuple[Shape, Sequence[Change]]


def groups(changes: Iterable[Change]) -> Sequence[Group]:
    """The changes by shape, such that those of one job keep their order."""
    found: list[tuple[Shape, list[Change]]] = []
    shapes: dict[Shape, list[Change]] = {}
    seen: set[int] = set()
    shape: Shape | None = None
    members: list[Change] = []
    for change in changes:
        if change.id in seen:
            shapes, seen, shape = {}, set(), None
        seen.add(change.id)
        if shape is None or not _has(change, shape):
            shape = Shape(change.before, change.state, tuple(change.columns))
            if shape not in shapes:
                _check(shape)
                shapes[shape] = []
                found.append((shape, shapes[shape]))
            members = shapes[shape]
        members.append(change)
    return found


def _has(change: Change, shape: Shape) -> bool:
    """Whether it has this shape, as most have that of the one before: a hash, which of states is slow, is then spared."""
    return change.state is shape.state and change.before is shape.before and tuple(change.columns) == shape.columns


def _check(shape: Shape) -> None:
    if unknown := set(shape.columns) - CHANGEABLE:
        raise AssertionError(f"a change names columns that no change may write: {', '.join(sorted(unknown))}")
    if not shape.before:
        raise AssertionError("a change names no state that the job may be in")
    if not shape.columns and shape.state is None:
        raise AssertionError("a change changes nothing")
