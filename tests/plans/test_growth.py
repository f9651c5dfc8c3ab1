"""What a claim and an end cost in a database of millions, beside one of ten thousand.

The assertions are about work, in the database's own unit: times move with the machine and its
neighbours, and are shown at the end of the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from itertools import cycle
from random import Random
from statistics import median
from time import perf_counter
from typing import NamedTuple, TypeVar

import pytest

from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.record import ClaimedJob
from tests.plans.place import Place
from tests.plans.stock import NOW, QUEUES

T = TypeVar("T")
ROUNDS = {1: 40, 10: 40, 100: 12}
"""By the number of jobs in one claim; the small database has no more of them."""
WATCHED = 4
"""Rounds in which work is counted, each in another queue, before those that are timed."""


class Cost(NamedTuple):
    """Medians of many calls."""

    milliseconds: float
    work: float


class Figures(NamedTuple):
    claim: Cost
    end: Cost


@pytest.mark.parametrize("count", ROUNDS)
async def test_a_claim_costs_no_more_than_twice_as_much_with_millions_of_jobs(small, large, count, table):
    few, many = await figures(count, small, large)
    for what, before, after in (("claim", few.claim, many.claim), ("end", few.end, many.end)):
        table(
            f"{what:>5} of {count:>3}   {before.milliseconds:8.2f} ms {after.milliseconds:8.2f} ms   "
            f"× {after.milliseconds / before.milliseconds:5.2f}   "
            f"{before.work:10.0f} {after.work:10.0f} {large.unit:<10} × {after.work / before.work:5.2f}"
        )
    assert many.claim.work <= 2 * few.claim.work
    assert many.end.work <= 2 * few.end.work


async def figures(count: int, *places: Place) -> Sequence[Figures]:
    """The places take turns, so that a noisy neighbour troubles all of them."""
    times: dict[tuple[Place, str], list[float]] = {(place, what): [] for place in places for what in ("claim", "end")}
    works: dict[tuple[Place, str], list[int]] = {key: [] for key in times}
    queues = cycle(QUEUES)
    for turn in range(WATCHED + ROUNDS[count]):
        queue = next(queues)
        for place in places[:: 1 if turn % 2 else -1]:
            claim = place.backend.claim("e9", f"l{turn}", {queue: count})
            jobs: Sequence[ClaimedJob]
            if turn < WATCHED:
                jobs = await counted(place, claim, works[place, "claim"])
            else:
                jobs = await timed(claim, times[place, "claim"])
            assert len(jobs) == count
            end = place.backend.apply([transitions.finish(job, Completed("null"), NOW, NOW, Random(7)) for job in jobs])
            refused = await (counted(place, end, works[place, "end"]) if turn < WATCHED else timed(end, times[place, "end"]))
            assert refused == frozenset()
    cost = {key: Cost(median(times[key]), median(works[key])) for key in times}
    return [Figures(cost[place, "claim"], cost[place, "end"]) for place in places]


async def timed(call: Awaitable[T], milliseconds: list[float]) -> T:
    begun = perf_counter()
    answer = await call
    milliseconds.append((perf_counter() - begun) * 1_000)
    return answer


async def counted(place: Place, call: Awaitable[T], work: list[int]) -> T:
    async with place.watch() as plans:
        answer = await call
    work.append(sum(plan.cost for plan in plans))
    return answer
