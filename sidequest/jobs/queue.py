"""PURE CENTRE. A queue's stored settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue: how many of its jobs one engine runs at once, and how it ranks among the others.

    `priority`: higher is served first, without starving the others. A paused queue accepts jobs
    and starts none.
    """

    name: str
    concurrency: int = 10
    priority: int = 0
    paused: bool = False
