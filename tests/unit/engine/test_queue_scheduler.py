"""How many jobs of which queue are claimed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidequest.engine.queue_scheduler import MOST_AHEAD, PATIENCE, Load, QueueMeter, QueueScheduler
from tests.unit.engine.fakes import look

MANY = 1_000


def many(queue: str) -> int:
    return MANY


def scheduler(*queues: str, most: int = 100, serve: tuple[str, ...] = ("*",), **settings: Any) -> QueueScheduler:
    """A scheduler that knows these queues, the first with the highest priority."""
    made = QueueScheduler(most, serve)
    made.know([look(name, priority=-n, **settings) for n, name in enumerate(queues)])
    return made


def metered(rate: float) -> QueueMeter:
    return QueueMeter(rate=rate)


def test_nothing_is_claimed_before_any_queue_is_known() -> None:
    assert QueueScheduler(10, ("*",)).rooms({}, many) == {}


def test_a_lone_queue_gets_its_whole_concurrency() -> None:
    assert scheduler("mail").rooms({}, many) == {"mail": 10}


def test_each_queue_gets_one_before_any_gets_more_and_the_rest_goes_by_priority() -> None:
    assert scheduler("high", "middle", "low", most=8).rooms({}, many) == {"high": 6, "middle": 1, "low": 1}


def test_what_the_first_queue_cannot_use_goes_to_the_next() -> None:
    assert scheduler("high", "low", most=12, concurrency=8).rooms({}, many) == {"high": 8, "low": 4}


def test_with_less_room_than_queues_the_highest_priorities_are_served() -> None:
    assert scheduler("high", "middle", "low", most=2).rooms({}, many) == {"high": 1, "middle": 1}


def test_a_queue_that_was_passed_over_ten_rounds_goes_first() -> None:
    rounds = scheduler("high", "low", most=1)
    served = [next(iter(rounds.rooms({}, many))) for _ in range(PATIENCE + 2)]
    assert served == ["high"] * PATIENCE + ["low", "high"]


def test_no_queue_starves_however_many_wait_for_one_slot() -> None:
    names = [f"queue-{n}" for n in range(30)]
    rounds = scheduler(*names, most=1)
    served = Counter(name for _ in range(200) for name in rounds.rooms({}, many))
    assert set(served) == set(names)


def test_rounds_without_room_pass_nobody_over() -> None:
    rounds = scheduler("high", "low", most=1)
    for _ in range(3 * PATIENCE):
        assert rounds.rooms({"high": Load(running=1)}, many) == {}
    assert [next(iter(rounds.rooms({}, many))) for _ in range(3)] == ["high"] * 3


def test_a_paused_queue_gets_nothing() -> None:
    rounds = QueueScheduler(10, ("*",))
    rounds.know([look("paused", paused=True), look("mail")])
    assert rounds.rooms({}, many) == {"mail": 10}


def test_a_queue_without_work_gets_nothing() -> None:
    rounds = QueueScheduler(10, ("*",))
    rounds.know([look("empty", ready=False), look("mail")])
    assert rounds.rooms({}, many) == {"mail": 10}


def test_a_queue_that_ran_dry_gets_nothing_until_work_is_expected() -> None:
    rounds = scheduler("mail")
    rounds.ran_dry("mail")
    before = rounds.rooms({}, many)
    rounds.expect_work()
    assert (before, rounds.rooms({}, many)) == ({}, {"mail": 10})


def test_only_the_queues_that_this_engine_serves_are_claimed_from() -> None:
    rounds = scheduler("mail-fast", "mail-slow", "reports", serve=("mail*", "-mail-slow"))
    assert rounds.rooms({}, many) == {"mail-fast": 10}


def test_what_runs_counts_against_the_engines_limit_also_in_other_queues() -> None:
    assert scheduler("a", "b", most=6).rooms({"a": Load(running=4)}, many) == {"a": 1, "b": 1}


def test_what_runs_counts_against_the_queues_concurrency() -> None:
    assert scheduler("mail").rooms({"mail": Load(running=7)}, many) == {"mail": 3}


def test_what_is_in_hand_is_not_claimed_again() -> None:
    assert scheduler("mail").rooms({"mail": Load(running=5, backlog=2)}, many) == {"mail": 3}


def test_no_more_is_claimed_than_workers_could_start() -> None:
    assert scheduler("mail").rooms({}, lambda _: 2) == {"mail": 2}


def test_the_concurrency_of_an_unknown_queue_is_one() -> None:
    assert scheduler("mail").concurrency("other") == 1


def test_jobs_that_end_fast_are_claimed_ahead_of_free_slots() -> None:
    assert scheduler("mail").rooms({"mail": Load(running=10, meter=metered(1_000))}, many) == {"mail": 50}


def test_a_slow_queue_is_never_claimed_ahead() -> None:
    assert scheduler("mail").rooms({"mail": Load(running=10, meter=metered(19))}, many) == {}


def test_a_small_top_up_waits() -> None:
    load = Load(running=10, backlog=26, meter=metered(1_000))
    assert scheduler("mail").rooms({"mail": load}, many) == {}


def test_a_top_up_of_more_than_half_is_made() -> None:
    load = Load(running=10, backlog=24, meter=metered(1_000))
    assert scheduler("mail").rooms({"mail": load}, many) == {"mail": 26}


def test_a_top_up_does_not_wait_when_slots_would_stand_empty() -> None:
    load = Load(running=6, backlog=3, meter=metered(4_000))
    assert scheduler("mail").rooms({"mail": load}, many) == {"mail": 4 + 200 - 3}


# The meter


def test_the_rate_follows_the_ends_smoothed() -> None:
    meter = QueueMeter()
    meter.ended(1, 100.0)  # the first end starts the clock
    meter.ended(9, 100.1)
    first = meter.rate
    meter.ended(10, 100.2)
    assert [first, meter.rate] == pytest.approx([50, 75])


def test_ends_of_the_same_moment_are_one_sample() -> None:
    meter = QueueMeter()
    meter.ended(1, 100.0)
    meter.ended(4, 100.005)
    before = meter.rate
    meter.ended(5, 100.1)
    assert [before, meter.rate] == pytest.approx([0, 50])


def test_after_a_pause_the_rate_starts_again() -> None:
    meter = QueueMeter(rate=1_000)
    meter.ended(5, 100.0)
    assert meter.rate == 0


def test_claiming_ahead_grows_with_the_rate_and_is_capped() -> None:
    assert [metered(rate).ahead() for rate in (0, 19, 20, 1_000, 10_000, 1_000_000)] == [0, 0, 1, 50, MOST_AHEAD, MOST_AHEAD]


# Properties

names = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=12, unique=True)


@st.composite
def rounds_of(draw: st.DrawFn) -> tuple[QueueScheduler, dict[str, Load], dict[str, int], dict[str, int], int]:
    most = draw(st.integers(1, 30))
    made = QueueScheduler(most, ("*",))
    queues = [look(name, concurrency=draw(st.integers(1, 20)), priority=draw(st.integers(-2, 2))) for name in draw(names)]
    made.know(queues)
    loads = {each.queue.name: Load(running=draw(st.integers(0, 6))) for each in queues}
    slots = {each.queue.name: draw(st.integers(0, 20)) for each in queues}
    limits = {
        each.queue.name: max(0, min(each.queue.concurrency - loads[each.queue.name].running, slots[each.queue.name]))
        for each in queues
    }
    return made, loads, slots, limits, most - sum(load.running for load in loads.values())


@given(rounds_of())
def test_rooms_never_exceed_the_room(
    given: tuple[QueueScheduler, dict[str, Load], dict[str, int], dict[str, int], int],
) -> None:
    made, loads, slots, limits, room = given
    rooms = made.rooms(loads, slots.__getitem__)
    assert sum(rooms.values()) <= max(room, 0)
    assert all(0 < count <= limits[name] for name, count in rooms.items())


@given(rounds_of())
def test_every_queue_that_can_start_jobs_gets_one_when_there_is_room_for_all(
    given: tuple[QueueScheduler, dict[str, Load], dict[str, int], dict[str, int], int],
) -> None:
    made, loads, slots, limits, room = given
    hungry = {name for name, limit in limits.items() if limit}
    rooms = made.rooms(loads, slots.__getitem__)
    assert set(rooms) <= hungry
    assert len(rooms) == min(len(hungry), max(room, 0))


@given(rounds_of())
def test_no_room_is_left_unused_while_a_queue_could_use_it(
    given: tuple[QueueScheduler, dict[str, Load], dict[str, int], dict[str, int], int],
) -> None:
    made, loads, slots, limits, room = given
    rooms = made.rooms(loads, slots.__getitem__)
    assert sum(rooms.values()) == min(max(room, 0), sum(limits.values()))
