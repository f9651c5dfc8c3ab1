"""Engines: known, beating, forgotten; and which jobs they hold."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sidequest.backends.base import EngineRecord, Home, WorkerGroup
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.record import NewJob


async def test_a_registered_engine_is_listed_with_beat_zero(backend, clock):
    await backend.register_engine("e1", "höst", 42, "0.1.0", "mail*,-reports")
    assert await backend.list_engines() == [
        EngineRecord("e1", "höst", 42, "0.1.0", "mail*,-reports", clock.time, clock.time, 0)
    ]


async def test_registering_again_starts_over(backend, clock):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.beat("e1")
    clock.advance(seconds=1)
    await backend.register_engine("e1", "h2", 2, "2", "a")
    assert await backend.list_engines() == [EngineRecord("e1", "h2", 2, "2", "a", clock.time, clock.time, 0)]


async def test_a_beat_raises_the_counter_and_notes_the_time(backend, clock):
    started = clock.time
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.register_engine("e2", "h", 2, "1", "*")
    assert await backend.beat("e1") is True
    clock.advance(seconds=10)
    assert await backend.beat("e1") is True
    assert await backend.list_engines() == [
        EngineRecord("e1", "h", 1, "1", "*", started, clock.time, 2),
        EngineRecord("e2", "h", 2, "1", "*", started, started, 0),
    ]


async def test_engines_are_listed_oldest_first(backend, clock, tick):
    for id in ("z", "m", "a"):
        await backend.register_engine(id, "h", 1, "1", "*")
        clock.advance(tick)
    assert [engine.id for engine in await backend.list_engines()] == ["z", "m", "a"]


async def test_a_forgotten_engine_is_told_at_its_next_beat(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.register_engine("e2", "h", 1, "1", "*")
    await backend.forget_engine("e1")
    await backend.forget_engine("e1")
    assert await backend.beat("e1") is False
    assert [engine.id for engine in await backend.list_engines()] == ["e2"]


async def test_held_by_gives_claimed_and_running_jobs_lowest_id_first(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay", priority=n) for n in range(6)))
    held = await claim(4)
    await claim(1, engine="e2")
    await backend.apply([transitions.start(held[0], clock.time)])
    await backend.apply([transitions.finish(held[1], Completed(), None, clock.time, chance)])
    mine = sorted([held[0], held[2], held[3]])
    assert await backend.held_by("e1", 10) == mine
    assert await backend.held_by("e1", 2) == mine[:2]
    assert await backend.held_by("nobody", 10) == []


async def test_an_engine_says_where_it_lives_and_at_each_beat_which_worker_groups_it_has(backend):
    home, groups = Home("boot", "pid:[4026531836]", "4711"), (WorkerGroup(7, "70"), WorkerGroup(8, "80"))
    await backend.register_engine("e1", "h", 1, "1", "*", home)
    [registered] = await backend.list_engines()
    await backend.beat("e1", groups)
    [beaten] = await backend.list_engines()
    await backend.beat("e1")
    [alone] = await backend.list_engines()
    assert [(engine.home, engine.workers) for engine in (registered, beaten, alone)] == [(home, ()), (home, groups), (home, ())]


async def test_an_engine_that_was_given_up_stays_listed_and_cannot_beat(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.beat("e1")
    assert await backend.give_up_engine("e1", "e2", 1) is True
    assert await backend.beat("e1") is False
    [engine] = await backend.list_engines()
    assert (engine.beat, engine.given_up_by) == (1, "e2")


async def test_an_engine_that_has_beaten_meanwhile_is_not_given_up(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.register_engine("e2", "h", 1, "1", "*")
    await backend.beat("e1")
    assert await backend.give_up_engine("e1", "e2", 0) is False
    assert await backend.beat("e1") is True
    assert [engine.given_up_by for engine in await backend.list_engines()] == [None, None]


async def test_an_engine_whose_process_is_known_to_be_dead_is_given_up_whatever_its_beat(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.register_engine("e2", "h", 1, "1", "*")
    await backend.beat("e1")
    assert await backend.give_up_engine("e1", "e2") is True
    assert [engine.given_up_by for engine in await backend.list_engines()] == ["e2", None]


async def test_who_gives_up_an_engine_first_is_noted_and_the_others_are_told_that_it_is_given_up(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    assert [await backend.give_up_engine("e1", by, 0) for by in ("e2", "e3")] == [True, True]
    assert [engine.given_up_by for engine in await backend.list_engines()] == ["e2"]


async def test_an_engine_that_is_not_there_cannot_be_given_up(backend):
    assert [await backend.give_up_engine("e1", "e2", beat) for beat in (0, None)] == [False, False]


async def test_registering_again_takes_the_mark_away(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    await backend.give_up_engine("e1", "e2")
    await backend.register_engine("e1", "h", 1, "1", "*")
    assert await backend.beat("e1") is True


async def test_a_beat_may_be_given_little_time(backend):
    await backend.register_engine("e1", "h", 1, "1", "*")
    assert await backend.beat("e1", within=timedelta(seconds=5)) is True


async def test_held_jobs_are_counted_by_engine(backend, insert, claim, clock, chance):
    assert await backend.count_held() == {}
    await insert(*(NewJob("shop:pay", priority=-n) for n in range(7)))
    held = await claim(4)
    await claim(2, engine="e2")
    await backend.apply([transitions.start(held[0], clock.time)])
    await backend.apply([transitions.finish(held[1], Completed(), None, clock.time, chance)])
    assert await backend.count_held() == {"e1": 3, "e2": 2}


async def test_a_backend_tells_if_and_only_if_it_can_be_listened_to(backend):
    listening = asyncio.create_task(backend.listen(lambda: None))
    ended, _ = await asyncio.wait([listening], timeout=0.5)
    listening.cancel()
    await asyncio.wait([listening])
    assert backend.tells == (not ended)
