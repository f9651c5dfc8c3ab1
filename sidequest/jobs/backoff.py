"""PURE CENTRE. The wait before the next attempt."""

from __future__ import annotations

from datetime import timedelta
from random import Random

STRATEGIES = ("exponential", "fixed", "custom")
"""What a row may name. A custom function runs in the worker; where no worker is left to ask
(it crashed), the exponential wait takes its place."""

LONGEST = timedelta(hours=1)
JITTER = 0.5


def wait(strategy: str, base: timedelta, attempt: int, chance: Random) -> timedelta:
    """The wait after attempt number `attempt` failed.

    `fixed` is `base`; `exponential` is min(1 h, base · 2^(attempt−1)), half of it up or down by
    chance so that jobs which failed together do not come back together.
    """
    if strategy == "fixed":
        return base
    doublings = min(attempt - 1, 40)  # 2**40 s is far past the cap; keeps timedelta from overflowing
    seconds = min(LONGEST.total_seconds(), base.total_seconds() * 2**doublings)
    return timedelta(seconds=seconds * chance.uniform(1 - JITTER, 1 + JITTER))
