"""EVERY PROCESS. What an engine says about itself when it is asked: the content of a PONG."""

from __future__ import annotations

from typing import Any, NamedTuple


class Vitals(NamedTuple):
    """An engine's numbers at one moment."""

    held: int
    """Jobs that it has in hand: running, or claimed and about to run."""
    running: int
    outbox: int
    """Changes of jobs on their way into the database."""
    workers: int
    not_claiming: str | None
    """Why it claims no more jobs at the moment; None when it does."""

    def to_json(self) -> list[Any]:
        return list(self)

    @staticmethod
    def from_json(data: list[Any]) -> Vitals:
        return Vitals(*data)
