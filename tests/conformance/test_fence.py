"""The fence: who lost a job writes nothing to it, and is told so exactly."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from sidequest.jobs import transitions
from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
)
from sidequest.jobs.record import NewJob, Progress
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

DONE = Completed("1")
ERROR = JobError("error", "E", "no")


async def refused(backend, change: Change) -> None:
    """The change alone, and in a batch with one that is fine, is refused and leaves the row as it is."""
    before = await backend.get(change.id)
    assert await backend.apply([change]) == {change.id}
    assert await backend.apply([change, change._replace(id=change.id + 1_000_000)]) == {change.id, change.id + 1_000_000}
    assert await backend.get(change.id) == before


async def test_a_released_owner_cannot_finish(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Released(), None, clock.time, chance)])
    await refused(backend, transitions.finish(held, DONE, clock.time, clock.time, chance))


async def test_a_former_owner_cannot_finish_what_another_holds(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim(lease="old")
    await backend.apply([transitions.finish(held, Released(), None, clock.time, chance)])
    await claim(engine="e2", lease="new")
    await refused(backend, transitions.finish(held, DONE, clock.time, clock.time, chance))


async def test_a_former_owner_cannot_start_or_release_what_another_holds(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim(lease="old")
    await backend.apply([transitions.finish(held, Released(), None, clock.time, chance)])
    await claim(engine="e2", lease="new")
    await refused(backend, transitions.start(held, clock.time))
    await refused(backend, transitions.finish(held, Released(), None, clock.time, chance))


async def test_an_ended_job_does_not_end_again(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    assert not await backend.apply([transitions.finish(held, DONE, clock.time, clock.time, chance)])
    await refused(backend, transitions.finish(held, Failed(ERROR), clock.time, clock.time, chance))


async def test_an_ended_job_does_not_start(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, DONE, clock.time, clock.time, chance)])
    await refused(backend, transitions.start(held, clock.time))


async def test_no_lease_matches_no_lease_only(backend, insert, claim, clock):
    (id,) = await insert()
    await refused(backend, Change(id, "l1", (State.WAITING,), State.CANCELED, {"finished_at": clock.time}))
    await claim()
    await refused(backend, Change(id, None, (State.CLAIMED,), State.CANCELED, {"finished_at": clock.time}))


async def test_a_waiting_job_that_was_held_before_is_fenced_by_its_old_lease(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Released(), None, clock.time, chance)])
    await refused(backend, Change(id, None, (State.WAITING,), State.CANCELED, {"finished_at": clock.time}))
    assert not await backend.apply([transitions.cancel(await backend.get(id), clock.time)])
    assert (await backend.get(id)).state is State.CANCELED


async def test_a_job_that_does_not_exist_is_refused(backend):
    assert await backend.apply([Change(99, None, (State.WAITING,), State.CANCELED, {})]) == {99}


@pytest.mark.parametrize("outcome", [Released(), Snoozed(timedelta(seconds=1))])
async def test_a_job_asked_to_cancel_never_waits_again(backend, insert, claim, clock, chance, outcome):
    (id,) = await insert()
    (held,) = await claim()
    assert not await backend.apply([transitions.cancel(await backend.get(id), clock.time)])
    await refused(backend, transitions.finish(held, outcome, None, clock.time, chance))


async def test_a_job_asked_to_cancel_may_still_complete(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    await backend.apply([transitions.cancel(await backend.get(id), clock.time)])
    assert not await backend.apply([transitions.finish(held, DONE, clock.time, clock.time, chance)])
    record = await backend.get(id)
    assert (record.state, record.cancel_requested_at) == (State.COMPLETED, None)


async def test_a_cancel_that_read_waiting_does_not_hit_a_claimed_job(backend, insert, claim, clock):
    (id,) = await insert()
    seen = await backend.get(id)
    await claim()
    await refused(backend, transitions.cancel(seen, clock.time))


async def test_one_refused_change_does_not_hold_up_the_others(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(50)))
    held = await claim(50)
    batch = [transitions.finish(job, DONE, clock.time, clock.time, chance) for job in held]
    batch[7] = batch[7]._replace(lease="stolen")
    batch[30] = batch[30]._replace(id=999_999)
    assert await backend.apply(batch) == {held[7].id, 999_999}
    left = [job.id for job in await backend.held_by("e1", 100)]
    assert left == [held[7].id, held[30].id]


async def test_one_wrong_lease_does_not_hold_up_the_others(backend, insert, claim, clock, chance):
    """Wherever it stands, and although all else is the same."""
    left: list[int] = []
    for place, lease in product((0, 3, 9), ("stolen", None)):
        await insert(*(NewJob("shop:pay") for _ in range(10)))
        batch = [transitions.finish(job, DONE, clock.time, clock.time, chance) for job in await claim(10)]
        batch[place] = batch[place]._replace(lease=lease)
        left.append(batch[place].id)
        assert await backend.apply(batch) == {left[-1]}
        assert [job.id for job in await backend.held_by("e1", 100)] == left


async def test_jobs_of_several_claims_are_written_together(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(6)))
    held = [*await claim(3), *await claim(3, lease="l2")]
    batch = [transitions.finish(job, DONE, clock.time, clock.time, chance) for job in held]
    assert await backend.apply(batch) == frozenset()
    assert [job.state for job in await backend.get_many([job.id for job in held])] == [State.COMPLETED] * 6


async def test_refused_changes_of_every_shape_in_one_batch_are_told_exactly(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(9)))
    held = await claim(9)
    for job in held[:3]:
        await backend.apply([transitions.cancel(await backend.get(job.id), clock.time)])
    outcomes = [Released(), Released(), DONE, Released(), Snoozed(timedelta(1)), DONE, DONE, Failed(ERROR), Released()]
    batch = [transitions.finish(job, outcome, None, clock.time, chance) for job, outcome in zip(held, outcomes, strict=True)]
    batch[5] = batch[5]._replace(lease=None)
    assert await backend.apply(batch) == {held[0].id, held[1].id, held[5].id}
    states = [job.state.value for job in await backend.get_many(job.id for job in held)]
    assert states == [
        "claimed", "claimed", "completed", "waiting", "waiting", "claimed", "completed", "failed", "waiting",
    ]  # fmt: skip


OUTCOMES = (
    DONE, Failed(ERROR), Stopped(), Errored(ERROR), Errored(ERROR, timedelta(seconds=1)), Crashed(ERROR),
    Interrupted(ERROR), SharedCrash(ERROR), Released(), Released(timedelta(seconds=1), ERROR), Snoozed(timedelta(seconds=1)),
)  # fmt: skip


@pytest.mark.parametrize(
    "fate", ["waits again", "held by another", "held again", "completed", "canceled", "retried", "deleted"]
)
async def test_whoever_lost_a_job_writes_nothing_to_it(backend, insert, claim, clock, chance, fate):
    """Every kind of write that an engine makes, and a cancel that read the job before."""
    await insert(NewJob("shop:pay"), NewJob("shop:lost", max_attempts=9))
    other, lost = await claim(2)
    seen = await backend.get(lost.id)
    late = [
        transitions.start(lost, clock.time),
        *(transitions.finish(lost, outcome, clock.time, clock.time, chance) for outcome in OUTCOMES),
        transitions.finish(lost._replace(attempt=9), Errored(ERROR), None, clock.time, chance),
        transitions.cancel(seen, clock.time),
    ]
    await meet(backend, claim, lost, fate, clock, chance)
    before = await backend.get(lost.id)
    fine = Change(other.id, "l1", (State.CLAIMED,), None, {"crashes": 1})
    for change in late:
        assert await backend.apply([change]) == {lost.id}, change
        assert await backend.apply([fine, change]) == {lost.id}, change
        assert await backend.apply([change, fine, change]) == {lost.id}, change
        assert await backend.get(lost.id) == before, change
    assert await backend.apply([*late, fine]) == {lost.id}
    await backend.save_progress([(lost.id, "l1", Progress(1).to_json()), (other.id, "l1", Progress(2).to_json())])
    assert await backend.get(lost.id) == before
    assert (await backend.get(other.id)).progress == Progress(2)


async def meet(backend, claim, lost, fate, clock, chance) -> None:
    """Let the job that lease l1 held meet its fate."""
    match fate:
        case "completed" | "retried" | "deleted":
            await backend.apply([transitions.finish(lost, DONE, None, clock.time, chance)])
        case "canceled":
            await backend.apply([transitions.finish(lost, Stopped(), None, clock.time, chance)])
        case _:
            await backend.apply([transitions.finish(lost, Released(), None, clock.time, chance)])
    match fate:
        case "held by another":
            assert await claim(9, engine="e2", lease="l2")
        case "held again":
            assert await claim(9, lease="l2")
        case "retried":
            await backend.apply([transitions.retry(await backend.get(lost.id), clock.time)])
        case "deleted":
            assert await backend.delete([lost.id])
