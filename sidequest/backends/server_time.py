"""THE STORE. The clock of a database server, as one process knows it.

The server is asked now and then; in between its time is carried on by the monotonic clock, so a
host whose own clock is wrong or jumps does not matter. The answer is taken to be from the middle of
the round trip, so it is wrong by less than half of one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sidequest.backends.base import Clock
from sidequest.clock import monotonic, utc_now

MEASURE_AFTER = 60.0
"""Seconds after which the server is asked again: two good clocks drift apart by milliseconds in that time."""


class ServerTime:
    """`fixed` stands in for the server's clock (tests): then nothing is ever measured."""

    def __init__(self, fixed: Clock | None = None) -> None:
        self._fixed = fixed
        self._said: datetime | None = None
        self._at = 0.0

    def now(self) -> datetime:
        """The server's now; the host's as long as the server was never asked."""
        if self._fixed is not None:
            return self._fixed()
        if self._said is None:
            return utc_now()
        return self._said + timedelta(seconds=monotonic() - self._at)

    def ahead(self) -> timedelta:
        """How far the server's clock is ahead of the host's."""
        return self.now() - utc_now() if self._said is not None else timedelta(0)

    @property
    def stale(self) -> bool:
        """Whether it is time to ask the server."""
        if self._fixed is not None:
            return False
        return self._said is None or monotonic() - self._at > MEASURE_AFTER

    def measured(self, said: datetime, asked_at: float) -> None:
        """The server has just said its time, an aware instant; it was asked at `asked_at` (monotonic)."""
        self._said = said
        self._at = (asked_at + monotonic()) / 2
