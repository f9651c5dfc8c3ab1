"""Who is told that there is work, how soon, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from sidequest.backends import announcer as announcers
from sidequest.backends.announcer import AGAIN, APART, LAST_WORD, Announcer
from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable
from sidequest.wire.wake_socket import LookFor
from tests.unit.engine.virtual_time import settle


class Engine:
    """The caller's own engine."""

    engine_id = "own"

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def wake(self) -> None:
        self._told.append("own")

    def look_for_cancels(self) -> None:
        self._told.append("own cancels")


class Town:
    """Everybody who can be told, and in which order they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.away = False
        self.hold: asyncio.Event | None = None
        self.reachable = False
        self.tells = False
        self.url = DatabaseURL.parse("sqlite:///shop.db")
        monkeypatch.setattr(announcers, "LocalEngines", lambda identity: self)

    def wake(self, look_for: LookFor, but: str | None) -> None:
        self.told.append(f"host {look_for.name.lower()} but {but}")

    async def announce(self) -> None:
        self.told.append("world")
        if self.hold is not None:
            await self.hold.wait()
        if self.away:
            raise BackendUnavailable("the database is away")

    @asynccontextmanager
    async def announcer(self, own: bool = False, suffices: bool = False) -> AsyncIterator[Announcer]:
        announcer = Announcer(cast("Backend", self), Engine(self.told) if own else None, suffices=suffices)
        running = asyncio.create_task(announcer.run())
        await settle()
        yield announcer
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Town:
    return Town(monkeypatch)


async def test_without_an_own_engine_those_of_the_host_are_told_before_anything_else_happens(town: Town) -> None:
    async with town.announcer(suffices=True) as announcer:
        announcer.work()
        assert town.told == ["host work but None"]
        await settle()
        assert town.told == ["host work but None", "world"]


async def test_an_own_engine_is_told_first_and_the_others_with_the_world(town: Town) -> None:
    async with town.announcer(own=True, suffices=True) as announcer:
        announcer.work()
        assert town.told == ["own"]
        await settle()
        assert town.told == ["own", "host work but own", "world"]


async def test_an_own_engine_that_does_not_serve_all_queues_is_not_enough(town: Town) -> None:
    async with town.announcer(own=True) as announcer:
        announcer.work()
        assert town.told == ["own", "host work but own"]


async def test_a_burst_reaches_the_own_engine_each_time_and_the_others_once_in_a_while(town: Town) -> None:
    async with town.announcer(own=True, suffices=True) as announcer:
        for _ in range(100):
            announcer.work()
            await asyncio.sleep(APART / 10)
        await asyncio.sleep(2 * APART)
        assert town.told.count("own") == 100
        assert 10 <= town.told.count("world") == town.told.count("host work but own") <= 12


async def test_the_last_of_a_burst_is_told_too(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.work()
        await settle()
        announcer.work()
        await settle()
        before = town.told.count("world")
        await asyncio.sleep(1.1 * APART)
        assert (before, town.told.count("world")) == (1, 2)
        await asyncio.sleep(60)
        assert town.told.count("world") == 2


async def test_a_slow_database_holds_up_nobody(town: Town) -> None:
    town.hold = asyncio.Event()
    async with town.announcer() as announcer:
        for _ in range(10):
            announcer.work()
            await asyncio.sleep(1)
        assert (town.told.count("host work but None"), town.told.count("world")) == (10, 1)


async def test_a_database_that_is_away_is_told_again_with_the_next_news(town: Town) -> None:
    town.away = True
    async with town.announcer() as announcer:
        announcer.work()
        await asyncio.sleep(60)
        announcer.work()
        await settle()
        assert town.told.count("world") == 2


async def test_a_cancel_is_told_on_this_host_at_once_and_nowhere_else(town: Town) -> None:
    async with town.announcer(own=True, suffices=True) as announcer:
        announcer.cancels()
        told = list(town.told)
        await asyncio.sleep(60)
        assert town.told == told == ["own cancels", "host cancels but own"]


@pytest.mark.parametrize("took", [0.001, 0.05, 0.3, 0.7, 1.5])
async def test_uncommitted_work_is_told_soon_after_its_commit_whenever_that_is(town: Town, took: float) -> None:
    async with town.announcer() as announcer:
        announcer.uncommitted_work()
        await asyncio.sleep(took)
        before = town.told.count("host work but None")
        await asyncio.sleep(0.085)
        assert town.told.count("host work but None") > before


async def test_uncommitted_work_is_not_told_for_ever(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.uncommitted_work()
        await asyncio.sleep(2.5)
        told = len(town.told)
        await asyncio.sleep(60)
        assert (len(town.told), town.told.count("host work but None")) == (told, 1 + len(AGAIN))


async def test_each_uncommitted_work_begins_anew(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.uncommitted_work()
        await asyncio.sleep(1.5)
        announcer.uncommitted_work()
        await asyncio.sleep(1.0)
        before = len(town.told)
        await asyncio.sleep(0.5)
        assert len(town.told) > before


async def test_what_waits_to_be_told_is_told_at_the_end(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.work()
    await announcer.flush()
    await announcer.flush()
    assert town.told == ["host work but None", "world"]


async def test_what_may_have_been_committed_meanwhile_is_told_at_the_end(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.uncommitted_work()
        await asyncio.sleep(1)
        town.told.clear()
    await announcer.flush()
    assert town.told == ["host work but None", "world"]


async def test_at_the_end_nothing_is_told_when_there_is_nothing(town: Town) -> None:
    async with town.announcer() as announcer:
        announcer.work()
        await asyncio.sleep(60)
        town.told.clear()
    await announcer.flush()
    assert town.told == []


async def test_the_end_does_not_wait_for_ever(town: Town) -> None:
    town.hold = asyncio.Event()
    async with town.announcer() as announcer:
        announcer.work()
    began = asyncio.get_running_loop().time()
    await announcer.flush()
    assert asyncio.get_running_loop().time() - began <= LAST_WORD + 0.01


async def test_the_nearest_open_road_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town(monkeypatch)
    async with town.announcer() as announcer:
        assert announcer.road == "poll"
        town.tells = True
        assert announcer.road == "database"
        town.reachable = True
        assert announcer.road == "socket"
        announcer.own = Engine(town.told)
        assert announcer.road == "pipe"
