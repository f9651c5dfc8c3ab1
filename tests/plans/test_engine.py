"""What engines ask of the store: each costs what it returns, however many jobs there are beside."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from random import Random

from sidequest.backends.base import JobFilter, Look
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError
from sidequest.jobs.record import ClaimedJob
from sidequest.jobs.states import State
from tests.plans.place import Place
from tests.plans.plan import PRIMARY
from tests.plans.stock import ENGINES, NOW, QUEUES, SMALL_QUEUE, YOUNG_ENGINE, Kind

PROGRESS = '{"done": 1, "total": 2, "note": null}'
FEW = 20
"""Rows that a statement may look at beside those that it is about."""
TWICE = 2
"""Entries that MongoDB looks at for each id: it notices only at the next one that there are no more."""


async def claimed(place: Place, count: int, queue: str = QUEUES[0]) -> list[ClaimedJob]:
    return list(await place.backend.claim("e9", "l9", {queue: count}))


async def test_a_claim_reads_the_jobs_that_it_returns(see):
    seen = await see(lambda place: claimed(place, 100))
    assert len(seen.answer) == 100
    assert seen.indexes <= {"claim", PRIMARY}
    assert not seen.unbounded, str(seen)
    assert not seen.sorts, str(seen)
    assert seen.rows("claim") <= 100 + FEW, str(seen)
    assert seen.rows(PRIMARY) <= TWICE * 100, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_a_claim_of_one_job_reads_one(see):
    seen = await see(lambda place: claimed(place, 1))
    assert len(seen.answer) == 1
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 2, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_a_claim_from_four_queues_reads_the_jobs_that_it_returns(see):
    seen = await see(lambda place: place.backend.claim("e9", "l9", dict.fromkeys(QUEUES, 25)))
    assert len(seen.answer) == 100
    assert seen.indexes <= {"claim", PRIMARY}
    assert not seen.unbounded, str(seen)
    assert not seen.sorts, str(seen)
    assert seen.rows("claim") <= 100 + FEW, str(seen)
    assert seen.rows(PRIMARY) <= TWICE * 100, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_a_claim_from_an_empty_queue_reads_nothing(see):
    seen = await see(lambda place: claimed(place, 100, "nothing-in-it"))
    assert not seen.answer
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 1, str(seen)


async def test_a_look_reads_one_job_of_each_queue(see):
    seen = await see(lambda place: place.backend.look())
    assert isinstance(seen.answer, Look)
    assert {entry.queue.name for entry in seen.answer.queues if entry.ready} == {*QUEUES, SMALL_QUEUE}
    assert seen.answer.next_due_in < timedelta(0)
    assert seen.indexes == {"claim", "due"}
    assert not seen.sorts, str(seen)
    assert seen.most_rows <= FEW, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_a_promotion_reads_the_jobs_that_it_makes_claimable(see):
    seen = await see(lambda place: place.backend.promote(20))
    assert seen.answer == 20
    assert seen.indexes <= {"due", PRIMARY}
    assert not seen.unbounded, str(seen)
    assert not seen.sorts, str(seen)
    assert seen.most_rows <= TWICE * 20 + FEW, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_ends_are_written_by_id(see, small, large):
    held = {place: await claimed(place, 111) for place in (small, large)}

    def end(place: Place) -> Awaitable[frozenset[int]]:
        chance, error = Random(7), JobError("error", "ValueError", "no address")
        *ended, lost = held[place]
        late = lost._replace(lease="another's")
        outcomes = [Completed('{"sent": true}')] * 100 + [Failed(error)] * 10
        ends = [transitions.finish(job, outcome, NOW, NOW, chance) for job, outcome in zip(ended, outcomes, strict=True)]
        return place.backend.apply([*ends, transitions.finish(late, Completed(None), NOW, NOW, chance)])

    seen = await see(end)
    assert seen.answer == {held[large][-1].id}
    assert seen.indexes == {PRIMARY}
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= TWICE * 100 + FEW, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_one_end_is_written_by_id(see):
    async def end(place: Place) -> frozenset[int]:
        (job,) = await claimed(place, 1)
        return await place.backend.apply([transitions.finish(job, Completed(None), NOW, NOW, Random(7))])

    seen = await see(end)
    assert seen.answer == frozenset()
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 2, str(seen)


async def test_progress_is_written_by_id(see):
    async def report(place: Place) -> None:
        jobs = await claimed(place, 10)
        await place.backend.save_progress([(job.id, job.lease, PROGRESS) for job in jobs])

    seen = await see(report)
    assert seen.indexes <= {"claim", PRIMARY}
    assert not seen.unbounded, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_cancel_requests_are_looked_for_among_held_jobs(see, large):
    held = await count(large, State.CLAIMED, State.RUNNING)
    seen = await see(lambda place: place.backend.cancel_requests(ENGINES[0]))
    assert 0 < len(seen.answer) < large.stock.counts[Kind.RUNNING]
    assert seen.indexes <= {"cancel", "held", "state"}
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= held + len(seen.answer) + FEW, str(seen)


async def test_what_an_engine_holds_is_found_among_held_jobs(see, large):
    held = await count(large, State.CLAIMED, State.RUNNING)
    seen = await see(lambda place: place.backend.held_by(YOUNG_ENGINE, 30))
    assert len(seen.answer) == 30
    assert {job.lease.partition("-")[0] for job in seen.answer} == {YOUNG_ENGINE}
    assert not seen.unbounded, str(seen)
    if large.ends_touch_indexes:
        assert seen.most_rows <= held + 100 + FEW, str(seen)
    else:  # among all that the engine ever had, when it has died and at no other time
        assert seen.indexes == {"engine"}, str(seen)


async def count(place: Place, *states: State) -> int:
    return sum((await place.backend.count(JobFilter(states=states))).values())


async def test_the_list_of_engines_asks_nothing_of_jobs(see):
    seen = await see(lambda place: place.backend.list_engines())
    assert [engine.id for engine in seen.answer] == [*ENGINES, YOUNG_ENGINE]
    assert seen.indexes == frozenset()


async def test_a_step_of_the_clean_up_reads_its_window(see):
    def clean_up(place: Place) -> object:
        ended_before = place.stock.begin + timedelta(minutes=5)
        return place.backend.delete_finished(ended_before, ended_before, 0, 1_000)

    seen = await see(clean_up)
    deleted, after = seen.answer
    assert 0 < deleted < 300
    assert 1_000 <= after < 1_100
    assert seen.indexes <= {PRIMARY, "finished"}
    assert not seen.unbounded, str(seen)
    assert not seen.sorts, str(seen)
    assert seen.most_rows <= TWICE * 1_000 + FEW, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_a_purge_reads_waiting_jobs_only(see, large):
    seen = await see(lambda place: place.backend.purge_queue(SMALL_QUEUE))
    assert seen.answer > 0
    assert seen.unbounded <= {"due"}, str(seen)
    not_due = large.stock.counts[Kind.LATER] + large.stock.counts[Kind.OVERDUE]
    assert seen.most_rows <= TWICE * seen.answer + not_due + FEW, str(seen)
