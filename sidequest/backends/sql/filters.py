"""THE STORE. A `JobFilter` as a WHERE clause: what users typed goes into parameters only."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sidequest.backends.base import JobFilter
from sidequest.backends.sql.rows import ToColumn
from sidequest.jobs.states import State

InStates = Callable[[Collection[State]], str]
"""The dialect's condition that a job is in one of these states."""
Contains = Callable[[str, str], str]
"""The dialect's condition that a column contains the text of a parameter, whatever the ASCII case."""


def where(
    which: JobFilter, to_column: ToColumn, in_states: InStates, contains: Contains, has_tag: str
) -> tuple[str, dict[str, Any]]:
    """The clause, with the word WHERE unless it is empty, and its parameters.

    `has_tag` is the dialect's condition that the job has the tag of the parameter `:tag`.
    """
    parts: list[str] = []
    values: dict[str, Any] = {}
    if which.states:
        parts.append(in_states(which.states))
    for column, value in (("queue", which.queue), ("name", which.name)):
        if value is not None:
            parts.append(f"{column} = :{column}")
            values[column] = value
    if which.tag is not None:
        parts.append(has_tag)
        values["tag"] = which.tag
    if which.text is not None:
        parts.append(f"({' OR '.join(contains(column, 'text') for column in ('name', 'args', 'errors'))})")
        values["text"] = which.text
    if which.since is not None:
        parts.append("inserted_at >= :since")
        values["since"] = to_column(which.since)
    if which.until is not None:
        parts.append("inserted_at < :until")
        values["until"] = to_column(which.until)
    return (f"WHERE {' AND '.join(parts)}" if parts else "", values)
