"""The wait before the next attempt."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidequest.jobs.backoff import wait

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Middle(Random):
    """Chance that always says the middle: the wait without its jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (12, 2048), (13, 3600), (99, 3600)])
def test_the_exponential_wait_doubles_up_to_an_hour(attempt: int, seconds: int) -> None:
    assert wait("exponential", SECOND, attempt, Middle()) == timedelta(seconds=seconds)


def test_the_base_scales_the_exponential_wait() -> None:
    assert wait("exponential", timedelta(seconds=0.5), 3, Middle()) == timedelta(seconds=2)


@given(attempt=st.integers(1, 10_000), base=st.timedeltas(timedelta(0), timedelta(days=36_500)), seed=st.integers())
def test_jitter_is_half_up_or_down_and_never_negative(attempt: int, base: timedelta, seed: int) -> None:
    middle = wait("exponential", base, attempt, Middle())
    jittered = wait("exponential", base, attempt, Random(seed))
    rounding = timedelta(microseconds=1)
    assert 0.5 * middle - rounding <= jittered <= 1.5 * middle + rounding
    assert middle <= HOUR


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    chance = Random(7)
    assert len({wait("exponential", HOUR, 1, chance) for _ in range(100)}) > 90


@pytest.mark.parametrize("attempt", [1, 2, 50])
def test_the_fixed_wait_is_the_base_every_time(attempt: int) -> None:
    assert wait("fixed", timedelta(hours=5), attempt, Random(1)) == timedelta(hours=5)


def test_where_no_worker_is_left_to_ask_a_custom_backoff_is_exponential() -> None:
    assert wait("custom", SECOND, 3, Middle()) == timedelta(seconds=4)


def test_a_base_of_zero_means_no_wait() -> None:
    assert wait("exponential", timedelta(0), 9, Random(1)) == timedelta(0)
