"""Signs of life, and leases that nobody knows of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio
import pytest

from sidequest.config import Settings
from sidequest.engine.heartbeat import RECONCILE, Heartbeat
from sidequest.jobs.states import State
from tests.unit.engine.fakes import FakeStore, claimed
from tests.unit.engine.virtual_time import monotonic, settle

INTERVAL = 10.0
SETTINGS = Settings(heartbeat_interval=timedelta(seconds=INTERVAL))


class Post:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.known: set[int] = set()
        self.heartbeat = Heartbeat("engine-1", SETTINGS, self.store.backend, self.known.__contains__)

    @property
    def given_back(self) -> list[int]:
        return [change.id for changes in self.store.applied for change in changes]


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    await made.heartbeat.register()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.heartbeat.run)
        await settle()
        yield made
        tasks.cancel_scope.cancel()


async def test_it_beats_once_per_interval(post: Post) -> None:
    await asyncio.sleep(100 * INTERVAL)
    assert post.store.beats["engine-1"] == pytest.approx(100, abs=5)


async def test_no_beat_brings_back_an_engine_that_has_left(post: Post) -> None:
    await post.heartbeat.leave()
    await asyncio.sleep(3 * INTERVAL)
    assert post.store.beats == {}


async def test_who_leaves_after_a_lost_claim_gives_back_what_it_brought_and_can_still_be_found(post: Post) -> None:
    post.heartbeat.claim_uncertain()
    post.store.held["engine-1"] = [claimed(1), claimed(2)]
    post.known.add(2)
    await post.heartbeat.leave()
    assert (post.given_back, "engine-1" in post.store.beats) == ([1], True)


async def test_contact_is_unbroken_since_registration(post: Post) -> None:
    since = monotonic()
    await asyncio.sleep(10 * INTERVAL)
    assert post.heartbeat.unbroken_since == pytest.approx(since, abs=0.001)


async def test_a_beat_that_fails_breaks_contact_until_one_lands(post: Post) -> None:
    post.store.away = True
    await asyncio.sleep(3 * INTERVAL)
    broken = post.heartbeat.unbroken_since
    post.store.away = False
    back = monotonic()
    await asyncio.sleep(3 * INTERVAL)
    assert broken is None
    assert post.heartbeat.unbroken_since == pytest.approx(back, abs=1.1 * INTERVAL)


async def test_contact_counts_from_when_the_beat_was_sent_not_from_its_answer(post: Post) -> None:
    post.store.away = True
    await asyncio.sleep(3 * INTERVAL)
    post.store.away = False
    post.store.hold = asyncio.Event()
    await asyncio.sleep(1.2 * INTERVAL)  # a beat is on its way by now
    sent_before = monotonic()
    await asyncio.sleep(60)
    post.store.hold.set()
    await settle()
    assert post.heartbeat.unbroken_since is not None
    assert post.heartbeat.unbroken_since < sent_before


async def test_an_engine_that_was_given_up_registers_again(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.sleep(3 * INTERVAL)
    del post.store.beats["engine-1"]
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.store.beats["engine-1"] in {0, 1}
    assert "others believed it dead" in caplog.text


async def test_an_engine_that_was_given_up_counts_its_contact_anew(post: Post) -> None:
    await asyncio.sleep(10 * INTERVAL)
    del post.store.beats["engine-1"]
    given_up = monotonic()
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.heartbeat.unbroken_since is not None
    assert post.heartbeat.unbroken_since > given_up


async def test_without_an_uncertain_claim_nothing_is_reconciled(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(1)]
    await asyncio.sleep(5 * INTERVAL)
    assert "held_by" not in post.store.calls


async def test_after_an_uncertain_claim_the_leases_that_nobody_knows_are_given_back(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(1), claimed(2), claimed(3)]
    post.known.add(2)
    post.heartbeat.claim_uncertain()
    await asyncio.sleep(3 * INTERVAL)
    assert post.given_back == [1, 3]


async def test_what_is_given_back_waits_again_with_its_attempt(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(1, attempt=3)]
    post.heartbeat.claim_uncertain()
    await asyncio.sleep(3 * INTERVAL)
    [[change]] = post.store.applied
    assert (change.lease, change.state, change.columns["attempt"]) == ("lease-1", State.WAITING, 2)


async def test_an_uncertain_claim_is_looked_into_once(post: Post) -> None:
    post.heartbeat.claim_uncertain()
    await asyncio.sleep(10 * INTERVAL)
    assert post.store.calls.count("held_by") == 1


async def test_an_uncertain_claim_stays_uncertain_while_the_database_is_away(post: Post) -> None:
    post.store.away = True
    post.store.held["engine-1"] = [claimed(1)]
    post.heartbeat.claim_uncertain()
    await asyncio.sleep(5 * INTERVAL)
    post.store.away = False
    await asyncio.sleep(4 * INTERVAL)
    assert post.given_back == [1]


async def test_a_job_whose_claim_is_answered_just_after_the_look_is_not_given_back(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(1)]
    post.heartbeat.claim_uncertain()
    await eventually_called(post, "held_by")
    post.known.add(1)
    await asyncio.sleep(5 * INTERVAL)
    assert post.given_back == []


async def test_more_strays_than_fit_in_one_look_are_given_back_in_turn(post: Post) -> None:
    post.store.held["engine-1"] = [claimed(id) for id in range(1, RECONCILE + 11)]
    post.heartbeat.claim_uncertain()
    await asyncio.sleep(8 * INTERVAL)
    assert len(post.given_back) == RECONCILE + 10


async def eventually_called(post: Post, name: str) -> None:
    while name not in post.store.calls:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(INTERVAL / 10)
