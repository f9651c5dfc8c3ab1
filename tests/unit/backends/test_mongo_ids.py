"""Ids from a counter: rising, never twice, and in blocks that fit the pace."""

from __future__ import annotations

import asyncio

import pytest

from sidequest.backends.mongo import ids as mongo_ids
from sidequest.backends.mongo.ids import LARGEST, JobIds


class Counter:
    """The database's, and a clock that moves only when told to."""

    def __init__(self) -> None:
        self.last = 0
        self.asked: list[int] = []
        self.time = 100.0

    async def advance(self, count: int) -> int:
        self.asked.append(count)
        self.last += count
        last = self.last
        await asyncio.sleep(0)
        return last


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(mongo_ids, "monotonic", lambda: counter.time)
    return counter


async def test_a_lone_id_is_taken_alone(counter: Counter) -> None:
    ids = JobIds()
    for expected in (1, 2, 3):
        counter.time += 60
        assert list(await ids.take(1, counter.advance)) == [expected]
    assert counter.asked == [1, 1, 1]


async def test_blocks_double_while_they_are_used_up_in_time(counter: Counter) -> None:
    ids = JobIds()
    taken = [(await ids.take(1, counter.advance))[0] for _ in range(4_000)]
    assert taken == [*range(1, 4_001)]
    assert counter.asked == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, LARGEST, LARGEST, LARGEST]


async def test_what_is_left_of_an_old_block_is_given_up(counter: Counter) -> None:
    ids = JobIds()
    taken = [(await ids.take(1, counter.advance))[0] for _ in range(12)]
    counter.time += 1.5
    taken += [(await ids.take(1, counter.advance))[0] for _ in range(3)]
    assert taken == [*range(1, 13), 16, 17, 18]
    assert counter.asked == [1, 2, 4, 8, 5]  # of the eight, five were used


async def test_many_are_taken_at_once_and_end_the_block(counter: Counter) -> None:
    ids = JobIds()
    for _ in range(4):
        await ids.take(1, counter.advance)
    assert list(await ids.take(10, counter.advance)) == [*range(8, 18)]
    assert list(await ids.take(1, counter.advance)) == [18]
    assert counter.asked == [1, 2, 4, 10, 8]


async def test_tasks_that_ask_at_once_get_what_they_asked_for_in_turn(counter: Counter) -> None:
    ids = JobIds()
    other = JobIds()
    takes = [source.take(count, counter.advance) for count in (1, 3, 1, 2, 1) for source in (ids, other)]
    taken = await asyncio.gather(*takes)
    assert sorted(id for block in taken for id in block) == sorted({id for block in taken for id in block})
    for source in (taken[::2], taken[1::2]):
        flat = [id for block in source for id in block]
        assert flat == sorted(flat)


async def test_a_counter_that_cannot_be_asked_costs_no_ids(counter: Counter) -> None:
    ids = JobIds()

    async def broken(count: int) -> int:
        raise OSError("gone")

    assert list(await ids.take(1, counter.advance)) == [1]
    with pytest.raises(OSError, match="gone"):
        await ids.take(1, broken)
    assert list(await ids.take(1, counter.advance)) == [2]
