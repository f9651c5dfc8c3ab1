"""Two at once on one job: whoever comes second is told so, and no order of the two makes a state that must not be.

Each race is run many times on two connections, with the two let go at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from sidequest.backends import moves
from sidequest.backends.base import Backend, JobFilter
from sidequest.errors import JobNotFound, JobStateError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Errored, Interrupted, JobError, Released, Snoozed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import FINAL, State

REPEATS = 40
OOPS = JobError("error", "ValueError", "oops")


FINISHES = {
    "completes": Completed("1"),
    "is tried again": Errored(OOPS, timedelta(0)),
    "snoozes": Snoozed(timedelta(0)),
    "is released": Released(),
    "is rescued": Interrupted(OOPS),
}


async def at_once(*works: Awaitable[object]) -> list[object]:
    """What they give, let go at the same moment."""
    barrier = asyncio.Barrier(len(works))

    async def run(work: Awaitable[object]) -> object:
        await barrier.wait()
        return await work

    return await asyncio.gather(*(run(work) for work in works))


async def started(store: Backend, held: ClaimedJob, clock) -> None:
    assert await store.apply([transitions.start(held, clock.time)]) == frozenset()


async def test_a_cancel_that_races_a_claim_either_ends_the_job_or_asks_its_engine(
    backend, insert, connect, claim, clock, chance
):
    rival = await connect()
    for n in range(REPEATS):
        (id,) = await insert()
        held, answer = await at_once(claim(1, lease=f"l{n}", by=rival), moves.cancel(backend, id))
        job = await backend.get(id)
        if held:
            assert (job.state, answer) == (State.CLAIMED, "requested")
            assert job.cancel_requested_at is not None
            assert await rival.cancel_requests("e1") == [id]
            await rival.apply([transitions.finish(held[0], Completed(None), None, clock.time, chance)])
        else:
            assert (job.state, answer) == (State.CANCELED, "canceled")
    assert await claim(9, lease="late") == []


async def test_a_cancel_that_races_a_start_is_a_request(backend, insert, connect, claim, clock):
    rival = await connect()
    for n in range(REPEATS):
        (id,) = await insert()
        (held,) = await claim(1, lease=f"l{n}")
        refused, answer = await at_once(rival.apply([transitions.start(held, clock.time)]), moves.cancel(backend, id))
        job = await backend.get(id)
        assert (refused, answer, job.state) == (frozenset(), "requested", State.RUNNING)
        assert job.cancel_requested_at is not None


@pytest.mark.parametrize("how", FINISHES)
@pytest.mark.parametrize("running", [True, False], ids=["running", "claimed"])
async def test_a_cancel_that_races_an_end_is_answered_by_who_was_first(
    backend, insert, connect, claim, clock, chance, how, running
):
    """Completed wins over a request; whatever would wait again does not, once a cancel was requested."""
    rival = await connect()
    for n in range(REPEATS):
        (id,) = await insert()
        (held,) = await claim(1, lease=f"l{n}")
        if running:
            await started(backend, held, clock)
        end = transitions.finish(held, FINISHES[how], clock.time, clock.time, chance)
        refused, answer = await at_once(rival.apply([end]), moves.cancel(backend, id))
        job = await backend.get(id)
        match how, bool(refused):
            case "completes", False:
                assert (job.state, answer) in {(State.COMPLETED, "too_late"), (State.COMPLETED, "requested")}
            case _, False:
                assert (job.state, answer) == (State.CANCELED, "canceled")
            case _:
                assert answer == "requested"
                assert job.state is (State.RUNNING if running else State.CLAIMED)
                assert job.cancel_requested_at is not None
    assert await claim(9, lease="late") == []


async def test_of_two_cancels_at_once_both_say_what_became_of_the_job(backend, insert, connect):
    rival = await connect()
    for _ in range(REPEATS):
        (id,) = await insert()
        answers = await at_once(moves.cancel(backend, id), moves.cancel(rival, id))
        assert sorted(map(str, answers)) == ["canceled", "too_late"]
        assert (await backend.get(id)).state is State.CANCELED


async def test_of_two_who_retry_an_ended_job_one_is_told_that_it_waits_already(backend, insert, connect, clock):
    """Row 38: two dashboards, one button."""
    rival = await connect()

    async def retry(store: Backend, id: int) -> str:
        try:
            return str((await moves.move(store, id, transitions.retry)).state)
        except JobStateError as error:
            return str(error)

    for _ in range(REPEATS):
        (id,) = await insert()
        await moves.cancel(backend, id)
        answers = await at_once(retry(backend, id), retry(rival, id))
        assert sorted(map(str, answers)) == [
            f"job {id} is waiting: only a completed, failed or canceled job can be retried",
            "waiting",
        ]
        await backend.delete([id])


async def test_a_delete_that_races_a_claim_takes_the_job_or_leaves_it(backend, insert, connect, claim):
    rival = await connect()
    for n in range(REPEATS):
        (id,) = await insert()
        held, deleted = await at_once(claim(1, lease=f"l{n}", by=rival), backend.delete([id]))
        job = await backend.get(id)
        if held:
            assert deleted == frozenset()
            assert job.state is State.CLAIMED
        else:
            assert deleted == {id}
            assert job is None


async def test_a_delete_that_races_a_retry_leaves_a_waiting_job_or_none(backend, insert, connect):
    rival = await connect()

    async def retry(id: int) -> str:
        try:
            return str((await moves.move(rival, id, transitions.retry)).state)
        except (JobNotFound, JobStateError) as error:
            return type(error).__name__

    for _ in range(REPEATS):
        (id,) = await insert()
        await moves.cancel(backend, id)
        answer, deleted = await at_once(retry(id), backend.delete([id]))
        job = await backend.get(id)
        assert deleted == ({id} if job is None else frozenset())
        assert answer in ("waiting", "JobNotFound")
        if job is not None:
            assert job.state is State.WAITING
            await backend.delete([id])


async def test_a_pause_and_a_new_limit_at_once_are_both_kept(backend, connect):
    rival = await connect()
    await backend.create_queue(QueueRecord("mail", 5))
    for n in range(REPEATS):
        paused = n % 2 == 0
        await at_once(
            backend.update_queue("mail", paused=paused),
            rival.update_queue("mail", concurrency=n + 1),
        )
        queue = await backend.get_queue("mail")
        assert (queue.paused, queue.concurrency) == (paused, n + 1)


async def test_ended_jobs_never_change_by_what_their_old_owners_do(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Completed("1"), clock.time, clock.time, chance)])
    ended = await backend.get(id)
    assert ended.state in FINAL
    late = [transitions.finish(held, outcome, clock.time, clock.time, chance) for outcome in FINISHES.values()]
    for change in [transitions.start(held, clock.time), *late]:
        assert await backend.apply([change]) == {id}
    assert await moves.cancel(backend, id) == "too_late"
    assert await backend.get(id) == ended
    assert sum((await backend.count(JobFilter())).values()) == 1
    assert await backend.insert([NewJob("shop:pay")], QueueRecord("*")) != [id]
