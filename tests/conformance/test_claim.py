"""Claiming: who gets what, in which order, and what it does to the row."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sidequest.backends.instants import EPOCH, MICROSECOND
from sidequest.jobs.outcome import Completed, Errored, JobError
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change, finish


async def test_a_claimed_job_carries_all_that_its_engine_needs(insert, claim, clock):
    (id,) = await insert(
        NewJob(
            "shop:ship", '{"args":[1]}', max_attempts=2, timeout=timedelta(seconds=1), kill_grace=timedelta(seconds=2),
            backoff="fixed", retry_delay=timedelta(seconds=9), isolated=True, tags=("a", "b"), meta='{"who":"me"}',
        )
    )  # fmt: skip
    inserted = (clock.time - EPOCH) // MICROSECOND
    clock.advance(seconds=5)
    assert await claim() == [
        ClaimedJob(
            id, "l1", "shop:ship", "default", '{"args":[1]}', 1, 2, 1000, 2000, "fixed", 9000, True, '["a", "b"]',
            '{"who":"me"}', None, 0, 0, 0, inserted,
        )
    ]  # fmt: skip


async def test_a_claim_changes_state_holder_attempt_and_time_and_nothing_else(backend, insert, claim, clock):
    (id,) = await insert()
    before = await backend.get(id)
    now = clock.advance(seconds=5)
    await claim(engine="e7", lease="l7")
    assert await backend.get(id) == replace(before, state=State.CLAIMED, engine="e7", lease="l7", attempt=1, claimed_at=now)


async def test_a_claim_clears_start_and_progress_of_the_attempt_before(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    error = Errored(JobError("error", "E", "no"), timedelta(0))
    await backend.save_progress([(id, "l1", '{"done":1,"total":2,"note":""}')])
    await backend.apply([Change(id, "l1", (State.CLAIMED,), State.RUNNING, {"started_at": clock.time})])
    await backend.apply([finish(held, error, clock.time, clock.time, chance)])
    waiting = await backend.get(id)
    (again,) = await claim(lease="l2")
    claimed = await backend.get(id)
    assert (waiting.started_at, waiting.progress.done) == (clock.time, 1)
    assert (claimed.started_at, claimed.progress, claimed.attempt) == (None, None, 2)
    assert (again.attempt, again.errors) == (2, claimed.errors_json)


async def test_order_is_priority_then_due_time_then_id(backend, insert, claim, clock, tick):
    ids = []
    for priority, late in [(0, 0), (5, 2), (5, 1), (5, 1), (-1, 0), (2**31 - 1, 3), (0, 0)]:
        ids += await insert(priority=priority, at=clock.time - (9 - late) * tick)
    order = [ids[n] for n in (5, 2, 3, 1, 0, 6, 4)]
    assert [job.id for job in await claim(100)] == order


@pytest.mark.parametrize("room", [1, 2, 5])
async def test_no_more_than_the_room_and_the_first_in_order(insert, claim, room):
    ids = await insert(*(NewJob("shop:pay", priority=-n) for n in range(5)))
    assert [job.id for job in await claim(room)] == list(ids[:room])
    assert [job.id for job in await claim(10)] == list(ids[room:])


async def test_the_first_in_order_are_taken_whatever_their_ids(insert, claim, clock):
    """The order decides who is claimed, and not only how the claimed ones are returned."""
    priorities, ages = (0, 0, 0, 1, 1, 2), (1, 2, 3, 1, 2, 1)
    ids = await insert(
        *(NewJob("shop:pay", priority=n, at=clock.time - timedelta(days=age)) for n, age in zip(priorities, ages, strict=True))
    )
    assert [[job.id for job in await claim()] for _ in ids] == [[ids[n]] for n in (5, 4, 3, 2, 1, 0)]


async def test_a_claim_leaves_the_others_as_they_are(backend, insert, claim, clock):
    ids = await insert(NewJob("shop:a"), NewJob("shop:b"), NewJob("shop:c", queue="q"), NewJob("shop:d", delay=timedelta(1)))
    before = await backend.get_many(ids[1:])
    clock.advance(seconds=1)
    await claim(1)
    assert await backend.get_many(ids[1:]) == before


async def test_no_room_claims_nothing(backend, insert):
    await insert()
    assert list(await backend.claim("e1", "l1", {"default": 0})) == []
    assert list(await backend.claim("e1", "l1", {})) == []
    assert (await backend.look()).queues[0].ready


async def test_only_the_queues_asked_for_and_each_has_its_own_room(backend, insert):
    ids = await insert(*(NewJob("shop:pay", queue=queue) for queue in "aabbcc"))
    found = await backend.claim("e1", "l1", {"c": 1, "a": 5, "nowhere": 5})
    assert [(job.id, job.queue) for job in found] == [(ids[4], "c"), (ids[0], "a"), (ids[1], "a")]


async def test_an_empty_database_gives_nothing(claim):
    assert list(await claim(10)) == []


async def test_a_job_is_claimed_once(insert, claim):
    await insert()
    assert len(await claim()) == 1
    assert len(await claim(lease="l2")) == 0


@pytest.mark.parametrize("state", [state for state in State if state is not State.WAITING])
async def test_only_waiting_jobs_are_claimed(backend, insert, claim, state):
    (id,) = await insert()
    await backend.apply([Change(id, None, (State.WAITING,), state, {"finished_at": None})])
    assert list(await claim(10, lease="l2")) == []
    assert (await backend.get(id)).state is state


async def test_queue_names_are_told_apart_by_case_and_in_full(insert, claim):
    await insert(queue="Mail")
    await insert(queue="mail2")
    for room in (1, 10):
        for queue in ("mail", "MAIL", "Mail2", "mai", "mail ", "mail%", "m___"):
            assert list(await claim(room, queue=queue)) == []


async def test_a_job_back_in_waiting_is_claimed_again_with_the_next_attempt(backend, insert, claim, clock, chance):
    (id,) = await insert()
    for attempt in (1, 2, 3):
        (held,) = await claim(lease=f"l{attempt}")
        assert (held.id, held.lease, held.attempt) == (id, f"l{attempt}", attempt)
        outcome = Errored(JobError("error", "E", "no"), timedelta(0))
        assert not await backend.apply([finish(held, outcome, None, clock.time, chance)])


async def test_a_completed_job_is_not_claimed(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([finish(held, Completed(), None, clock.time, chance)])
    assert list(await claim(10)) == []
