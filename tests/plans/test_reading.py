"""What people and web pages ask of the store."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sidequest.backends.base import JobFilter
from sidequest.jobs.states import State
from tests.plans.plan import PRIMARY, Seen
from tests.plans.stock import NOW, RATE

PAGE = 50
TROUBLED = (State.FAILED, State.CANCELED)
HELD = (State.CLAIMED, State.RUNNING)


def reads_a_page(seen: Seen) -> None:
    assert len(seen.answer) == PAGE
    assert not seen.sorts, str(seen)
    assert seen.most_rows <= 2 * PAGE, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_jobs_are_found_by_id(see):
    seen = await see(lambda place: place.backend.get_many(range(1_000, 2_000, 10)))
    assert len(seen.answer) == 100
    assert seen.indexes == {PRIMARY}
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 2 * 100, str(seen)  # MongoDB looks at two entries for each id
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_ends_are_found_by_id(see):
    seen = await see(lambda place: place.backend.ends(range(1_000, 2_000, 10)))
    ended, missing = seen.answer
    assert ended
    assert not missing
    assert seen.indexes == {PRIMARY}
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 2 * 100, str(seen)  # MongoDB looks at two entries for each id
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_the_newest_jobs_are_one_page_of_ids(see):
    seen = await see(lambda place: place.backend.list_jobs(JobFilter(), PAGE))
    assert seen.indexes == {PRIMARY}
    reads_a_page(seen)


async def test_older_jobs_are_one_page_of_ids(see):
    seen = await see(lambda place: place.backend.list_jobs(JobFilter(), PAGE, before=place.stock.total // 2))
    assert seen.indexes == {PRIMARY}
    assert not seen.unbounded, str(seen)
    reads_a_page(seen)


async def test_new_jobs_are_one_page_of_ids(see):
    seen = await see(lambda place: place.backend.list_after(place.stock.total // 2, None, PAGE))
    assert seen.indexes == {PRIMARY}
    assert not seen.unbounded, str(seen)
    reads_a_page(seen)


async def test_the_highest_id_is_read_at_the_end_of_ids(see):
    seen = await see(lambda place: place.backend.last_id())
    assert seen.answer > 0
    assert seen.most_rows <= 1, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


@pytest.mark.parametrize("state", TROUBLED)
async def test_failed_and_canceled_jobs_are_found_by_an_index(see, state):
    seen = await see(lambda place: place.backend.list_jobs(JobFilter(states=(state,)), PAGE))
    assert PRIMARY not in seen.indexes
    assert not seen.unbounded, str(seen)
    reads_a_page(seen)


@pytest.mark.parametrize("state", HELD)
async def test_held_jobs_are_found_by_an_index(see, large, state):
    seen = await see(lambda place: place.backend.list_jobs(JobFilter(states=(state,)), PAGE))
    if large.ends_touch_indexes:
        assert not seen.unbounded, str(seen)
        reads_a_page(seen)
    else:  # from the newest job on, past all that are not held
        assert len(seen.answer) == PAGE
        assert seen.indexes == {PRIMARY}
        assert not seen.sorts, str(seen)


@pytest.mark.parametrize("state", [State.WAITING, State.COMPLETED])
async def test_waiting_and_completed_jobs_are_found_among_the_newest(see, state):
    seen = await see(lambda place: place.backend.list_jobs(JobFilter(states=(state,)), PAGE))
    assert len(seen.answer) == PAGE
    assert not seen.sorts, str(seen)
    assert seen.most_rows <= 5 * PAGE, str(seen)
    assert seen.cost <= 2 * seen.small_cost, str(seen)


async def test_all_states_are_counted_without_reading_jobs(see, large):
    seen = await see(lambda place: place.backend.count(JobFilter()))
    each = [await large.backend.count(JobFilter(states=(state,))) for state in State]
    assert seen.answer == {state: count[state] for state, count in zip(State, each, strict=True)}
    if large.ends_touch_indexes:
        assert None not in seen.indexes, str(seen)  # but through the indexes, from end to end
        assert not seen.sorts, str(seen)
    else:  # all of them
        assert seen.indexes == {None}, str(seen)


async def test_failed_jobs_are_counted_by_an_index(see):
    seen = await see(lambda place: place.backend.count(JobFilter(states=(State.FAILED,))))
    failed = seen.answer[State.FAILED]
    assert failed > 100
    assert not seen.unbounded, str(seen)
    assert seen.most_rows <= 2 * failed + 10, str(seen)


async def test_the_last_hour_is_counted_by_indexes_where_those_are_worth_their_price(see, large):
    hour = timedelta(hours=1)
    came = hour / RATE
    seen = await see(lambda place: place.backend.count_over_time(NOW - hour, hour / 60, 60, None))
    assert sum(bucket.enqueued for bucket in seen.answer) == pytest.approx(came, abs=10)  # a few were purged by another test
    assert sum(bucket.completed for bucket in seen.answer) > came / 4
    if large.indexes_instants:
        assert not seen.unbounded, str(seen)
        assert seen.most_rows <= 4 * came, str(seen)
        assert seen.cost <= 2 * seen.small_cost, str(seen)
    else:  # all jobs, for what ended; what came by an index, where there is one
        assert seen.unbounded == {None}, str(seen)
        assert seen.rows("inserted") <= 2 * came, str(seen)
