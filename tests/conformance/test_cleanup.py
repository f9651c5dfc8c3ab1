"""Deleting: chosen jobs, old ended jobs, and a queue's waiting jobs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sidequest.backends.base import JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

DAY = timedelta(days=1)
ENDED = (State.COMPLETED, State.FAILED, State.CANCELED)


@pytest.fixture
def job_in(backend, insert, clock):
    """Inserts a job that is in this state, ended now if it has ended."""

    async def job_in(state: State) -> int:
        (id,) = await insert()
        columns = {"finished_at": clock.time if state.final else None}
        await backend.apply([transitions.Change(id, None, (State.WAITING,), state, columns)])
        return id

    return job_in


async def ids_left(backend) -> list[int]:
    return [job.id for job in await backend.list_after(0, None, 1000)]


async def test_delete_spares_what_an_engine_holds(backend, job_in):
    ids = {state: await job_in(state) for state in State}
    assert await backend.delete([*ids.values(), 999]) == {
        ids[state] for state in State if state not in transitions.CLAIMED_OR_RUNNING
    }
    assert await ids_left(backend) == [ids[State.CLAIMED], ids[State.RUNNING]]
    assert await backend.delete([]) == frozenset()


async def test_old_ended_jobs_are_deleted_and_others_are_not(backend, job_in, clock):
    old = {state: await job_in(state) for state in State}
    cutoff = clock.advance(days=1)
    young = [await job_in(state) for state in State]
    assert await backend.delete_finished(cutoff, cutoff, 0, 100) == (3, None)
    assert await ids_left(backend) == [id for state, id in old.items() if state not in ENDED] + young


async def test_the_two_cutoffs_are_obeyed_separately(backend, job_in, clock):
    ids = {state: await job_in(state) for state in ENDED}
    later = clock.time + DAY
    assert await backend.delete_finished(later, clock.time, 0, 100) == (2, None)
    assert await ids_left(backend) == [ids[State.FAILED]]
    assert await backend.delete_finished(clock.time, later, 0, 100) == (1, None)


async def test_a_job_that_ended_at_the_cutoff_stays(backend, job_in, clock, tick):
    id = await job_in(State.COMPLETED)
    assert await backend.delete_finished(clock.time, clock.time, 0, 100) == (0, None)
    assert await ids_left(backend) == [id]
    cutoff = clock.advance(tick)
    assert await backend.delete_finished(cutoff, cutoff, 0, 100) == (1, None)


async def test_it_goes_window_by_window_to_the_end(backend, job_in, insert, clock):
    ids = [await job_in(State.COMPLETED) for _ in range(4)] + [await job_in(State.WAITING) for _ in range(3)]
    cutoff = clock.advance(days=1)
    assert await backend.delete_finished(cutoff, cutoff, 0, 3) == (3, ids[2])
    assert await backend.delete_finished(cutoff, cutoff, ids[2], 3) == (1, ids[5])
    assert await backend.delete_finished(cutoff, cutoff, ids[5], 3) == (0, None)
    assert await ids_left(backend) == ids[4:]


async def test_it_stops_where_all_came_after_both_cutoffs(backend, job_in, clock):
    for _ in range(2):
        await job_in(State.COMPLETED)
    first = clock.advance(days=1)
    second = clock.advance(days=1)
    ids = [await job_in(State.COMPLETED) for _ in range(5)]
    assert await backend.delete_finished(second, first, 0, 2) == (2, ids[0] - 1)
    assert await backend.delete_finished(second, first, ids[0] - 1, 2) == (0, None)
    assert await backend.delete_finished(second, second + DAY, ids[0] - 1, 2) == (0, ids[1])


async def test_a_window_with_one_job_older_than_a_cutoff_goes_on(backend, job_in, clock):
    old = await job_in(State.WAITING)
    cutoff = clock.advance(days=1)
    young = await job_in(State.WAITING)
    await job_in(State.WAITING)
    assert young == old + 1
    assert await backend.delete_finished(cutoff, cutoff, 0, 2) == (0, young)


async def test_an_empty_database_is_clean(backend, clock):
    assert await backend.delete_finished(clock.time, clock.time, 0, 100) == (0, None)


async def test_a_retried_job_is_not_cleaned_up(backend, job_in, clock):
    id = await job_in(State.FAILED)
    await backend.apply([transitions.retry(await backend.get(id), clock.time)])
    cutoff = clock.advance(days=9)
    assert await backend.delete_finished(cutoff, cutoff, 0, 100) == (0, None)
    assert await ids_left(backend) == [id]


async def test_purging_a_queue_deletes_its_waiting_jobs_only(backend, insert, job_in, claim):
    kept = [await job_in(state) for state in State if state is not State.WAITING]
    await insert(NewJob("shop:pay"), NewJob("shop:pay", delay=DAY))
    kept += await insert(queue="other")
    assert await backend.purge_queue("default") == 2
    assert await ids_left(backend) == kept
    assert await backend.purge_queue("nowhere") == 0
    assert list(await claim(10)) == []
    assert (await backend.look()).next_due_in is None
    assert (await backend.count(JobFilter(queue="default")))[State.WAITING] == 0
