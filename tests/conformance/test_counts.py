"""Counting: by state, and over time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sidequest.backends.base import Bucket, JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError, Stopped
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


async def test_an_empty_database_counts_zeros(backend):
    assert await backend.count(JobFilter()) == dict.fromkeys(State, 0)


async def test_every_state_is_counted(backend, insert):
    for state in State:
        for id in await insert(*(NewJob("shop:pay") for _ in range(2))):
            await backend.apply([transitions.Change(id, None, (State.WAITING,), state, {"crashes": 0})])
    assert await backend.count(JobFilter()) == dict.fromkeys(State, 2)


async def test_jobs_that_wait_for_their_time_are_counted_as_waiting(backend, insert, clock):
    await insert(NewJob("shop:a"), NewJob("shop:b", delay=MINUTE), NewJob("shop:c", delay=MINUTE))
    nothing = dict.fromkeys(State, 0)
    assert await backend.count(JobFilter()) == nothing | {State.WAITING: 3}
    assert await backend.count(JobFilter(queue="default")) == nothing | {State.WAITING: 3}


async def test_counts_follow_a_job_through_its_life(backend, insert, claim, clock, chance):
    nothing = dict.fromkeys(State, 0)
    await insert()
    assert await backend.count(JobFilter()) == nothing | {State.WAITING: 1}
    (held,) = await claim()
    assert await backend.count(JobFilter()) == nothing | {State.CLAIMED: 1}
    await backend.apply([transitions.start(held, clock.time)])
    assert await backend.count(JobFilter()) == nothing | {State.RUNNING: 1}
    await backend.apply([transitions.finish(held, Completed(), None, clock.time, chance)])
    assert await backend.count(JobFilter()) == nothing | {State.COMPLETED: 1}
    await backend.delete([held.id])
    assert await backend.count(JobFilter()) == nothing


async def test_counts_obey_the_filter(backend, insert, clock):
    await insert(NewJob("shop:pay", queue="a"), NewJob("shop:ship", queue="a"), NewJob("shop:pay", queue="b"))
    nothing = dict.fromkeys(State, 0)
    assert await backend.count(JobFilter(queue="a")) == nothing | {State.WAITING: 2}
    assert await backend.count(JobFilter(queue="a", name="shop:pay")) == nothing | {State.WAITING: 1}
    assert await backend.count(JobFilter(states=(State.FAILED,))) == nothing
    assert await backend.count(JobFilter(since=clock.time + MINUTE)) == nothing


async def test_buckets_without_jobs_are_zero_and_in_order(backend, clock):
    assert await backend.count_over_time(clock.time, MINUTE, 3, None) == [
        Bucket(clock.time + n * MINUTE, 0, 0, 0, 0) for n in range(3)
    ]


async def test_jobs_are_counted_where_they_came_and_where_they_ended(backend, insert, claim, clock, chance):
    start = clock.time
    await insert(*(NewJob("shop:pay") for _ in range(5)))
    done, failed, canceled, _held = await claim(4)
    now = clock.advance(minutes=1)
    await insert()
    await backend.apply([transitions.finish(done, Completed(), start, now, chance)])
    now = clock.advance(minutes=1)
    error = JobError("error", "E", "no")
    await backend.apply(
        [
            transitions.finish(failed, Failed(error), start, now, chance),
            transitions.finish(canceled, Stopped(), start, now, chance),
        ]
    )
    assert await backend.count_over_time(start, MINUTE, 3, None) == [
        Bucket(start, 5, 0, 0, 0),
        Bucket(start + MINUTE, 1, 1, 0, 0),
        Bucket(start + 2 * MINUTE, 0, 0, 1, 1),
    ]


async def test_the_edges_of_a_bucket_are_exact_to_the_tick(backend, insert, clock, tick):
    start = clock.advance(seconds=10)
    for instant in (start - tick, start, start + MINUTE - tick, start + MINUTE):
        clock.time = instant
        await insert()
    clock.time = start.replace(microsecond=0) + SECOND - tick
    await insert()
    assert [bucket.enqueued for bucket in await backend.count_over_time(start, MINUTE, 1, None)] == [3]
    assert [bucket.enqueued for bucket in await backend.count_over_time(start, MINUTE, 2, None)] == [3, 1]


@pytest.mark.parametrize("width", [SECOND, timedelta(minutes=5), timedelta(hours=1), timedelta(days=1), timedelta(days=7)])
async def test_buckets_are_as_wide_as_asked(backend, insert, clock, width):
    start = clock.time
    for bucket in (0, 1, 1, 3, 3, 3, 3):
        clock.time = start + bucket * width
        await insert()
    found = await backend.count_over_time(start, width, 4, None)
    assert found == [Bucket(start + n * width, number, 0, 0, 0) for n, number in enumerate((1, 2, 0, 4))]
    assert {type(number) for bucket in found for number in bucket[1:]} == {int}
    assert await backend.count_over_time(start + width, width, 2, None) == found[1:3]


async def test_one_queue_can_be_counted_alone(backend, insert, claim, clock, chance):
    await insert(NewJob("shop:pay", queue="a"), NewJob("shop:pay", queue="a"), NewJob("shop:pay", queue="b"))
    (held,) = await claim(queue="b")
    await backend.apply([transitions.finish(held, Completed(), None, clock.time, chance)])
    assert await backend.count_over_time(clock.time, MINUTE, 1, "a") == [Bucket(clock.time, 2, 0, 0, 0)]
    assert await backend.count_over_time(clock.time, MINUTE, 1, "b") == [Bucket(clock.time, 1, 1, 0, 0)]


async def test_a_retried_job_is_not_counted_as_ended(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Completed(), None, clock.time, chance)])
    await backend.apply([transitions.Change(held.id, "l1", (State.COMPLETED,), State.WAITING, {})])
    assert await backend.count_over_time(clock.time, MINUTE, 1, None) == [Bucket(clock.time, 1, 0, 0, 0)]
