"""The jobs of engines that died, and of those that only seem to have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio
import pytest

from sidequest.config import Settings
from sidequest.engine.heartbeat import Heartbeat
from sidequest.engine.rescue import Rescue
from sidequest.jobs.outcome import read_errors
from sidequest.jobs.states import State
from tests.unit.engine.fakes import NOW, FakeStore, claimed, stored

LIFE, LOOK, BEAT = 60.0, 15.0, 10.0
SETTINGS = Settings(
    lease_life=timedelta(seconds=LIFE), rescue_interval=timedelta(seconds=LOOK), heartbeat_interval=timedelta(seconds=BEAT)
)
LONG_ENOUGH = LIFE + 2 * 1.1 * LOOK
"""The longest from a last beat to the rescue: the beat is noticed one look later, its age judged one look later."""


class Post:
    """The rescue of engine-1, its own heartbeat, and a store that knows other engines."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.rescued = 0
        self.heartbeat = Heartbeat("engine-1", SETTINGS, self.store.backend, lambda _: True)
        self.rescue = Rescue("engine-1", SETTINGS, self.store.backend, self.heartbeat, self._is_rescued)

    def _is_rescued(self) -> None:
        self.rescued += 1

    def hold(self, engine: str, *ids: int, beat: int = 5) -> None:
        self.store.beats[engine] = beat
        self.store.held[engine] = [claimed(id) for id in ids]
        self.store.records |= {id: stored(id, started_at=NOW) for id in ids}

    async def beat(self, engine: str, seconds: float, every: float = BEAT) -> None:
        """The other engine lives that long."""
        for _ in range(int(seconds / every)):
            await asyncio.sleep(every)
            self.store.beats[engine] += 1

    @property
    def changes(self) -> dict[int, State | None]:
        return {change.id: change.state for changes in self.store.applied for change in changes}


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    await made.heartbeat.register()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.heartbeat.run)
        tasks.start_soon(made.rescue.run)
        yield made
        tasks.cancel_scope.cancel()


async def test_a_dead_engines_jobs_are_taken_back_and_it_is_forgotten(post: Post) -> None:
    post.hold("dead", 1, 2)
    await asyncio.sleep(LONG_ENOUGH)
    assert (post.changes, "dead" in post.store.beats, post.rescued) == ({1: State.WAITING, 2: State.WAITING}, False, 1)


async def test_nothing_is_taken_before_a_lease_life_has_passed(post: Post) -> None:
    post.hold("silent", 1)
    await asyncio.sleep(LIFE)
    assert post.changes == {}


async def test_an_engine_that_beats_keeps_its_jobs_for_ever(post: Post) -> None:
    post.hold("alive", 1)
    await post.beat("alive", 3_600)
    assert post.changes == {}


async def test_a_beat_that_moved_starts_the_lease_life_anew(post: Post) -> None:
    post.hold("slow", 1)
    await asyncio.sleep(LIFE - LOOK)
    post.store.beats["slow"] += 1
    await asyncio.sleep(LIFE - 1)
    before = dict(post.changes)
    await asyncio.sleep(LONG_ENOUGH)
    assert (before, post.changes) == ({}, {1: State.WAITING})


async def test_a_beat_that_went_back_is_a_sign_of_life_as_well(post: Post) -> None:
    post.hold("registered-again", 1)
    await asyncio.sleep(LIFE - LOOK)
    post.store.beats["registered-again"] = 0
    await asyncio.sleep(LIFE - 1)
    assert post.changes == {}


async def test_it_never_rescues_from_itself(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(1)]
    await asyncio.sleep(3_600)
    assert post.changes == {}


async def test_after_an_outage_nobody_is_rescued_for_a_lease_life(post: Post) -> None:
    post.hold("other", 1)
    await asyncio.sleep(LOOK)
    post.store.away = True
    await asyncio.sleep(3_600)
    post.store.away = False
    await asyncio.sleep(LIFE)
    assert post.changes == {}


async def test_an_engine_that_came_back_after_an_outage_keeps_its_jobs(post: Post) -> None:
    post.hold("other", 1)
    await asyncio.sleep(LOOK)
    post.store.away = True
    await asyncio.sleep(3_600)
    post.store.away = False
    await post.beat("other", 600)
    assert post.changes == {}


async def test_an_engine_that_died_in_an_outage_is_rescued_in_the_end(post: Post) -> None:
    post.hold("dead", 1)
    post.store.away = True
    await asyncio.sleep(3_600)
    post.store.away = False
    await asyncio.sleep(LONG_ENOUGH + 2 * BEAT)
    assert post.changes == {1: State.WAITING}


async def test_one_failed_beat_of_our_own_is_no_unbroken_contact(post: Post) -> None:
    post.hold("silent", 1)
    await asyncio.sleep(LIFE - 1)
    post.store.away = True
    await asyncio.sleep(1.2 * BEAT)
    post.store.away = False
    await asyncio.sleep(LIFE - 1.2 * BEAT)
    assert post.changes == {}


async def test_a_rescue_that_fails_is_tried_again(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    post.hold("dead", 1)
    await asyncio.sleep(LIFE)
    post.store.away = True
    await asyncio.sleep(5 * LOOK)
    post.store.away = False
    await asyncio.sleep(2 * LONG_ENOUGH)
    assert post.changes == {1: State.WAITING}
    assert "rescue failed: the database is away" in caplog.text


# What becomes of the jobs


async def test_a_rescued_job_gets_its_attempt_back_and_says_why() -> None:
    post = Post()
    post.hold("dead", 1)
    assert await post.rescue.release("dead", "its engine process died") == 1
    [[change]] = post.store.applied
    [error] = read_errors(str(change.columns["errors"]))
    assert (change.lease, change.columns["attempt"], change.columns["interrupts"]) == ("lease-1", 0, 1)
    assert (error.kind, error.message) == ("interrupt", "the job was interrupted: its engine process died")


async def test_a_job_that_somebody_wanted_to_cancel_is_canceled_when_it_is_rescued() -> None:
    post = Post()
    post.hold("dead", 1, 2)
    post.store.records[1] = stored(1, cancel_requested_at=NOW)
    await post.rescue.release("dead", "gone")
    assert post.changes == {1: State.CANCELED, 2: State.WAITING}


async def test_more_jobs_than_fit_in_one_look_are_all_taken_back() -> None:
    post = Post()
    post.hold("dead", *range(1, 1_201))
    assert (await post.rescue.release("dead", "gone"), len(post.changes)) == (1_200, 1_200)


async def test_an_engine_without_jobs_is_only_forgotten(post: Post) -> None:
    post.hold("dead")
    await asyncio.sleep(LONG_ENOUGH)
    assert ("dead" in post.store.beats, post.changes, post.rescued) == (False, {}, 0)


async def test_a_claim_of_a_dead_engine_that_lands_after_the_hand_over_is_rescued_as_well(post: Post) -> None:
    post.hold("dead", 1)
    await post.rescue.release("dead", "its engine process died")
    post.hold("dead", 2)
    await asyncio.sleep(LONG_ENOUGH)
    assert post.changes == {1: State.WAITING, 2: State.WAITING}
    assert "dead" not in post.store.beats
