"""ENGINE PROCESS. A loop's trouble with the database: how long it waits, and what is said about it, and how often.

The first failure is told, then one line every half minute, and the end of it; a database without
room is an ERROR, and is left in peace for longer, because trying does not make room.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sidequest.clock import monotonic
from sidequest.errors import BackendFull, BackendUnavailable

TOLD_EVERY = 30.0
"""Seconds between two lines about one trouble."""
FULL_WAIT = 30.0
"""Seconds until a database without room is tried again."""
WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Trouble:
    """`met` at each failure, `over` at each success; `doing` says what failed, as in "cannot {doing}"."""

    def __init__(self, logger: logging.Logger, doing: str, waits: Sequence[float] = WAITS) -> None:
        self.since: float | None = None
        """Since when it lasts (monotonic); None: all is well."""
        self.error: Exception | None = None
        """What it failed with last; None: all is well."""
        self._logger = logger
        self._doing = doing
        self._waits = waits
        self._tries = 0
        self._kind: type[Exception] | None = None
        self._told_at = 0.0

    def met(self, error: Exception, detail: str = "") -> float:
        """It failed; the seconds until it may be tried again."""
        now, kind = monotonic(), _kind(error)
        self.error = error
        if self.since is None:
            self.since, self._tries = now, 0
        if kind is not self._kind or now - self._told_at >= TOLD_EVERY:
            self._kind, self._told_at = kind, now
            level = logging.WARNING if kind is BackendUnavailable else logging.ERROR
            self._logger.log(level, "cannot %s%s: %s", self._doing, detail, error)
        self._tries += 1
        return FULL_WAIT if kind is BackendFull else self._waits[min(self._tries, len(self._waits)) - 1]

    def over(self) -> None:
        """It worked."""
        if self.since is not None:
            self._logger.warning("can %s again, after %.1f s", self._doing, monotonic() - self.since)
            self.since = self.error = self._kind = None


def _kind(error: Exception) -> type[Exception]:
    """What decides about the wait and the level: no room, not there now, or something that does not pass by itself."""
    if isinstance(error, BackendFull):
        return BackendFull
    return BackendUnavailable if isinstance(error, BackendUnavailable) else type(error)
