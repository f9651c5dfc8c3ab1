"""Counting: by state, and over time."""

from __future__ import annotations

from datetime import timedelta

from sidequest.backends.base import Bucket, JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError, Stopped
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

MINUTE = timedelta(minutes=1)


async def test_an_empty_database_counts_zeros(backend):
    assert await backend.count(JobFilter()) == dict.fromkeys(State, 0)


async def test_every_state_is_counted(backend, insert):
    for state in State:
        for id in await insert(*(NewJob("shop:pay") for _ in range(2))):
            await backend.apply([transitions.Change(id, None, (State.WAITING,), state, {"crashes": 0})])
    assert await backend.count(JobFilter()) == dict.fromkeys(State, 2)


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


async def test_the_edges_of_a_bucket_are_exact_to_the_microsecond(backend, insert, clock):
    start = clock.advance(seconds=10)
    for instant in (start - timedelta(microseconds=1), start, start + MINUTE - timedelta(microseconds=1), start + MINUTE):
        clock.time = instant
        await insert()
    clock.time = start.replace(microsecond=999_999)
    await insert()
    assert [bucket.enqueued for bucket in await backend.count_over_time(start, MINUTE, 1, None)] == [3]
    assert [bucket.enqueued for bucket in await backend.count_over_time(start, MINUTE, 2, None)] == [3, 1]


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
    await backend.apply([transitions.retry(await backend.get(held.id), clock.time)])
    assert await backend.count_over_time(clock.time, MINUTE, 1, None) == [Bucket(clock.time, 1, 0, 0, 0)]
