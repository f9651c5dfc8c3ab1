"""Jobs that wait for their time: never early, made claimable by `promote`, seen by `look`."""

from __future__ import annotations

from datetime import timedelta

from sidequest.backends.base import Look, QueueLook
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change


async def test_a_future_job_is_not_claimed_until_promoted(backend, insert, claim, clock):
    (id,) = await insert(delay=timedelta(seconds=10))
    assert await backend.promote(10) == 0
    assert list(await claim()) == []
    clock.advance(seconds=10)
    assert await backend.promote(10) == 1
    assert [job.id for job in await claim()] == [id]


async def test_due_is_exact_to_the_tick(backend, insert, clock, tick):
    await insert(at=clock.time + tick)
    assert await backend.promote(10) == 0
    clock.advance(tick)
    assert await backend.promote(10) == 1


async def test_a_job_is_not_due_before_its_time_however_short_that_is(backend, insert, claim, clock, tick):
    """Also where the database cannot tell the two instants apart."""
    soon = clock.time + timedelta(microseconds=1)
    (new,) = await insert(at=soon)
    (back,) = await insert(priority=1)
    await claim()
    await backend.apply([Change(back, "l1", (State.CLAIMED,), State.WAITING, {"available_at": soon})])
    assert await backend.promote(10) == 0
    assert list(await claim(10)) == []
    clock.advance(tick)
    assert await backend.promote(10) == 2
    assert [job.id for job in await claim(10)] == [back, new]


async def test_a_job_due_now_or_in_the_past_needs_no_promotion(insert, claim, clock):
    ids = await insert(
        NewJob("shop:a", at=clock.time),
        NewJob("shop:b", at=clock.time - timedelta(days=1)),
        NewJob("shop:c", delay=timedelta(0)),
    )
    assert [job.id for job in await claim(10)] == [ids[1], ids[0], ids[2]]


async def test_promote_takes_the_earliest_first_up_to_its_limit(backend, insert, claim, clock):
    ids = await insert(*(NewJob("shop:pay", delay=timedelta(seconds=s)) for s in (3, 1, 2, 9)))
    clock.advance(seconds=5)
    assert await backend.promote(2) == 2
    assert [job.id for job in await claim(10)] == [ids[1], ids[2]]
    assert await backend.promote(10) == 1
    assert [job.id for job in await claim(10)] == [ids[0]]


async def test_a_promoted_job_keeps_its_due_time(backend, insert, clock):
    (id,) = await insert(delay=timedelta(seconds=1))
    before = await backend.get(id)
    clock.advance(seconds=5)
    await backend.promote(1)
    assert await backend.get(id) == before


async def test_look_on_an_empty_database_sees_nothing(backend):
    assert await backend.look() == Look([], None)


async def test_look_tells_settings_readiness_and_the_next_due_time(backend, insert):
    await backend.create_queue(QueueRecord("low", 1, -1))
    await backend.create_queue(QueueRecord("high", 2, 5, True))
    await backend.create_queue(QueueRecord("a", 3))
    await insert(queue="default")
    await insert(queue="low", delay=timedelta(seconds=7))
    await insert(queue="high", delay=timedelta(seconds=3))
    assert await backend.look() == Look(
        [
            QueueLook(QueueRecord("high", 2, 5, True), False),
            QueueLook(QueueRecord("a", 3), False),
            QueueLook(QueueRecord("default"), True),
            QueueLook(QueueRecord("low", 1, -1), False),
        ],
        timedelta(seconds=3),
    )


async def test_look_says_zero_or_less_when_a_promotion_is_due(backend, insert, clock):
    await insert(delay=timedelta(seconds=3))
    clock.advance(seconds=3)
    assert (await backend.look()).next_due_in == timedelta(0)
    clock.advance(seconds=2)
    assert (await backend.look()).next_due_in == timedelta(seconds=-2)
    await backend.promote(1)
    look = await backend.look()
    assert (look.next_due_in, look.queues[0].ready) == (None, True)


async def test_look_sees_no_ready_job_after_the_claim(backend, insert, claim):
    await insert()
    await claim()
    assert await backend.look() == Look([QueueLook(QueueRecord("default"), False)], None)


async def test_a_job_sent_back_for_later_waits_for_its_time(backend, insert, claim, clock):
    (id,) = await insert()
    await claim()
    due = clock.time + timedelta(seconds=4)
    assert not await backend.apply([Change(id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": due})])
    assert list(await claim()) == []
    assert (await backend.look()).next_due_in == timedelta(seconds=4)
    clock.advance(seconds=4)
    await backend.promote(1)
    assert [job.id for job in await claim()] == [id]


async def test_a_job_sent_back_for_now_is_claimable_at_once(backend, insert, claim, clock):
    (id,) = await insert()
    await claim()
    await backend.apply([Change(id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": clock.time})])
    assert [job.id for job in await claim(lease="l2")] == [id]


async def test_a_job_sent_back_without_a_time_keeps_the_one_it_had(backend, insert, claim, clock):
    (past,) = await insert()
    await claim()
    (future,) = await insert(delay=timedelta(seconds=5))
    await backend.apply([Change(past, "l1", (State.CLAIMED,), State.WAITING, {})])
    await backend.apply([Change(future, None, (State.WAITING,), State.CLAIMED, {})])
    await backend.apply([Change(future, None, (State.CLAIMED,), State.WAITING, {})])
    assert [job.id for job in await claim(10)] == [past]
    assert (await backend.look()).next_due_in == timedelta(seconds=5)


async def test_a_waiting_job_can_be_moved_to_now_and_to_later(backend, insert, claim, clock):
    (first,) = await insert(delay=timedelta(days=1))
    (second,) = await insert()
    now, later = clock.time, clock.time + timedelta(seconds=30)
    await backend.apply(
        [
            Change(first, None, (State.WAITING,), State.WAITING, {"available_at": now}),
            Change(second, None, (State.WAITING,), State.WAITING, {"available_at": later}),
        ]
    )
    assert [job.id for job in await claim(10)] == [first]
    assert (await backend.look()).next_due_in == timedelta(seconds=30)


async def test_a_new_due_time_without_a_state_moves_a_waiting_job_only(backend, insert, claim, clock):
    held, waiting = await insert(NewJob("shop:a", priority=1), NewJob("shop:b"))
    await claim()
    later = clock.time + timedelta(seconds=30)
    anywhere = (State.WAITING, State.CLAIMED)
    await backend.apply(
        [
            Change(held, "l1", anywhere, None, {"available_at": later}),
            Change(waiting, None, anywhere, None, {"available_at": later}),
        ]
    )
    assert list(await claim(10)) == []
    clock.advance(seconds=30)
    assert await backend.promote(10) == 1
    assert [job.id for job in await claim(10, lease="l2")] == [waiting]
    assert (await backend.get(held)).lease == "l1"


async def test_now_is_the_clock(backend, clock):
    assert backend.now() == clock.time
