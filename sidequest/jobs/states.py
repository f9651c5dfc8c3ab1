"""PURE CENTRE. The six states of a job.

    waiting → claimed → running → completed
       ↑         │         ├────→ failed
       │         │         ├────→ canceled
       └─────────┴─────────┘  released, retried or snoozed

"Scheduled" and "snoozed" jobs are waiting ones whose `available_at` lies in the future.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. The values are what the database column holds."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether the job has ended: nothing but a deliberate retry moves it again."""
        return self in FINAL


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})
HELD = frozenset({State.CLAIMED, State.RUNNING})
"""States in which an engine holds the job under a lease."""
