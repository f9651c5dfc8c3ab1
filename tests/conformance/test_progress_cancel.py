"""Progress reports and requests to cancel."""

from __future__ import annotations

from dataclasses import replace

from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Released, Stopped
from sidequest.jobs.record import NewJob, Progress
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change


async def test_progress_is_stored_for_claimed_and_running_jobs(backend, insert, claim, clock):
    await insert(NewJob("shop:a"), NewJob("shop:b"))
    first, second = await claim(2)
    await backend.apply([transitions.start(second, clock.time)])
    report = Progress(1, 4, "ünder way")
    await backend.save_progress([(first.id, "l1", report.to_json()), (second.id, "l1", report.to_json())])
    assert [job.progress for job in await backend.get_many([first.id, second.id])] == [report, report]


async def test_progress_of_a_former_owner_is_ignored(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim(lease="old")
    await backend.save_progress([(id, "other", Progress(1).to_json())])
    await backend.apply([transitions.finish(held, Released(), None, clock.time, chance)])
    await backend.save_progress([(id, "old", Progress(2).to_json())])
    await claim(lease="new")
    await backend.save_progress([(id, "old", Progress(3).to_json())])
    assert (await backend.get(id)).progress is None


async def test_progress_of_an_ended_job_is_ignored(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Completed(), None, clock.time, chance)])
    await backend.save_progress([(id, "l1", Progress(3).to_json()), (999, "l1", Progress(3).to_json())])
    assert (await backend.get(id)).progress is None


async def test_no_reports_is_no_work(backend):
    assert await backend.save_progress([]) is None


async def test_a_request_to_cancel_is_seen_by_its_engine_only(backend, insert, claim, clock):
    ids = await insert(*(NewJob("shop:pay") for _ in range(4)))
    await claim(2, engine="e1")
    await claim(1, engine="e2", lease="l2")
    (running,) = [job for job in await backend.held_by("e1", 10) if job.id == ids[1]]
    await backend.apply([transitions.start(running, clock.time)])
    for job in await backend.get_many(ids[:3]):
        assert not await backend.apply([transitions.cancel(job, clock.time)])
    assert await backend.cancel_requests("e1") == list(ids[:2])
    assert await backend.cancel_requests("e2") == [ids[2]]
    assert await backend.cancel_requests("e3") == []


async def test_a_request_to_cancel_is_over_when_the_job_is_no_longer_held(backend, insert, claim, clock):
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    held = await claim(3)
    for job in held:
        assert not await backend.apply([transitions.cancel(await backend.get(job.id), clock.time)])
    await backend.apply([Change(held[0].id, "l1", (State.CLAIMED,), State.FAILED, {})])
    await backend.apply([Change(held[1].id, "l1", (State.CLAIMED,), None, {"engine": "e2", "lease": "l2"})])
    assert await backend.cancel_requests("e1") == [held[2].id]
    assert await backend.cancel_requests("e2") == [held[1].id]


async def test_a_request_to_cancel_changes_nothing_but_itself(backend, insert, claim, clock):
    (id,) = await insert()
    await claim()
    before = await backend.get(id)
    now = clock.advance(seconds=1)
    await backend.apply([transitions.cancel(before, now)])
    assert await backend.get(id) == replace(before, cancel_requested_at=now)


async def test_an_answered_request_is_gone(backend, insert, claim, clock, chance):
    (id,) = await insert()
    (held,) = await claim()
    await backend.apply([transitions.cancel(await backend.get(id), clock.time)])
    await backend.apply([transitions.finish(held, Stopped(), clock.time, clock.time, chance)])
    record = await backend.get(id)
    assert (record.state, record.cancel_requested_at) == (State.CANCELED, None)
    assert await backend.cancel_requests("e1") == []


async def test_a_canceled_waiting_job_is_never_claimed(backend, insert, claim, clock):
    due, later = await insert(NewJob("shop:a"), NewJob("shop:b", delay=clock.time - clock.time.replace(second=0)))
    for job in await backend.get_many([due, later]):
        assert not await backend.apply([transitions.cancel(job, clock.time)])
    clock.advance(days=1)
    assert await backend.promote(10) == 0
    assert list(await claim(10)) == []
    assert (await backend.look()).next_due_in is None
