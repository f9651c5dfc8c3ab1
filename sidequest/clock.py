"""EVERY PROCESS. The one place that asks the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic = time.monotonic
"""Seconds that never jump: for durations and deadlines, never stored."""


def utc_now() -> datetime:
    """The host's idea of now, aware, in UTC."""
    return datetime.now(UTC)


def from_epoch_us(microseconds: int) -> datetime:
    """The instant that many microseconds after 1970 (how instants cross the wire)."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def epoch_us() -> int:
    """Now, in microseconds since 1970."""
    return time.time_ns() // 1000
