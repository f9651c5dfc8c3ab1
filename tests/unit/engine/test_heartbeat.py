"""Signs of life, and how long an engine may believe that its jobs are its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import anyio
import pytest

from sidequest.config import Settings
from sidequest.engine import process_groups
from sidequest.engine.heartbeat import NEWS_PAUSE, TRUSTED, WORKERS_TRUSTED, Heartbeat
from sidequest.engine.leases import Leases
from sidequest.jobs.record import ClaimedJob
from tests.unit.engine.fakes import FakeStore, claimed, stored
from tests.unit.engine.virtual_time import monotonic, settle

INTERVAL, LIFE = 10.0, 60.0
SETTINGS = Settings(heartbeat_interval=timedelta(seconds=INTERVAL), lease_life=timedelta(seconds=LIFE))


class Post:
    """A heartbeat, and what it told the engine."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.holding: list[ClaimedJob] = []
        self.lost: list[int] = []
        self.until = 0.0
        self.expired = 0
        self.names: list[str] = []
        self.leases = Leases(self.store.backend, lambda: self.holding, lambda job: job in self.holding, self._lose)
        self.heartbeat = Heartbeat("engine-1", SETTINGS, self.store.backend, self.leases, self)

    def _lose(self, ids: Iterable[int]) -> None:
        self.lost.extend(ids)

    def trusted_until(self, until: float) -> None:
        self.until = until

    def trust_expired(self) -> None:
        self.expired += 1

    def engine_renamed(self, engine_id: str) -> None:
        self.names.append(engine_id)

    def hold(self, id: int, *, lease: str = "lease-1", engine: str | None = "engine-1") -> None:
        """A job runs here; in the store it is held like that."""
        self.holding.append(claimed(id))
        self.store.records[id] = stored(id, lease=lease, engine=engine)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    await made.heartbeat.register()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.heartbeat.run)
        tasks.start_soon(made.heartbeat.guard)
        await settle()
        yield made
        tasks.cancel_scope.cancel()


async def test_it_beats_once_per_interval(post: Post) -> None:
    await asyncio.sleep(100 * INTERVAL)
    assert post.store.beats["engine-1"] == pytest.approx(100, abs=5)


async def test_a_beat_that_takes_long_does_not_put_off_the_next(post: Post) -> None:
    post.store.hold = asyncio.Event()
    await asyncio.sleep(1.2 * INTERVAL)
    await asyncio.sleep(0.8 * INTERVAL)
    post.store.hold.set()
    before = post.store.calls.count("beat")
    await asyncio.sleep(0.4 * INTERVAL)
    assert (before, post.store.calls.count("beat")) == (1, 2)


async def test_no_beat_brings_back_an_engine_that_has_left(post: Post) -> None:
    await post.heartbeat.leave()
    await asyncio.sleep(3 * INTERVAL)
    assert post.store.beats == {}


async def test_who_leaves_after_a_lost_claim_gives_back_what_it_brought_and_can_still_be_found(post: Post) -> None:
    post.leases.claim_uncertain()
    post.store.held["engine-1"] = [claimed(1), claimed(2)]
    post.holding.append(claimed(2))
    await post.heartbeat.leave()
    given_back = [change.id for batch in post.store.applied for change in batch]
    assert (given_back, "engine-1" in post.store.beats) == ([1], True)


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


async def test_a_beat_that_failed_is_tried_again_sooner_than_the_next_is_due(post: Post) -> None:
    post.store.away = True
    await asyncio.sleep(1.1 * INTERVAL)
    post.store.away = False
    await asyncio.sleep(0.6 * INTERVAL)
    assert post.store.beats["engine-1"] >= 1


async def test_an_outage_is_told_when_it_begins_every_half_minute_and_when_it_is_over(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    post.store.away = True
    await asyncio.sleep(300)
    post.store.away = False
    await asyncio.sleep(INTERVAL)
    told = [record.message for record in caplog.records if "beat" in record.message and "landed" not in record.message]
    assert told[0] == "cannot beat: the database is away"
    assert 7 <= len(told) <= 11
    assert told[-1].startswith("can beat again, after 29")


# Worker groups


async def test_worker_groups_are_noted_with_a_beat_soon(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_groups, "born", lambda pid: f"tick {pid}")
    post.heartbeat.workers_changed([7, 8])
    await asyncio.sleep(1.1 * NEWS_PAUSE)
    assert post.store.workers["engine-1"] == ((7, "tick 7"), (8, "tick 8"))


async def test_much_news_about_workers_is_carried_by_one_beat(post: Post) -> None:
    for n in range(100):
        post.heartbeat.workers_changed([n])
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.5 * INTERVAL)
    assert post.store.beats["engine-1"] == 1


# Trust


async def test_jobs_are_trusted_for_three_quarters_of_a_lease_life_from_before_the_beat_was_sent(post: Post) -> None:
    post.store.hold = asyncio.Event()
    await asyncio.sleep(1.2 * INTERVAL)
    sent_before = monotonic() - 0.1 * INTERVAL
    post.store.hold.set()
    await settle()
    post.store.away = True
    sent = post.until - WORKERS_TRUSTED * LIFE
    await asyncio.sleep(sent + TRUSTED * LIFE - 0.01 - monotonic())
    before = post.heartbeat.trusted
    await asyncio.sleep(0.02)
    assert (sent <= sent_before, before, post.heartbeat.trusted) == (True, True, False)


async def test_workers_are_told_a_later_limit_that_still_comes_before_the_lease_ends(post: Post) -> None:
    registered = monotonic()
    assert post.until == pytest.approx(registered + WORKERS_TRUSTED * LIFE, abs=0.01)
    assert TRUSTED < WORKERS_TRUSTED < 1
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.until > registered + WORKERS_TRUSTED * LIFE + 0.8 * INTERVAL


async def test_the_end_of_trust_is_told_once_and_before_the_lease_ends(post: Post) -> None:
    post.store.away = True
    await asyncio.sleep(TRUSTED * LIFE - 0.1)
    early = post.expired
    await asyncio.sleep(0.2)
    told = post.expired
    await asyncio.sleep(3_600)
    assert (early, told, post.expired) == (0, 1, 1)


async def test_each_end_of_trust_is_told(post: Post) -> None:
    for _ in range(3):
        post.store.away = True
        await asyncio.sleep(2 * LIFE)
        post.store.away = False
        await asyncio.sleep(INTERVAL)
        assert post.heartbeat.trusted
    assert post.expired == 3


async def test_trust_comes_back_only_when_it_is_known_what_was_lost(post: Post) -> None:
    post.hold(1, lease="another's", engine="engine-2")
    post.store.away = True
    await asyncio.sleep(LIFE)
    post.store.away = False
    while not post.heartbeat.trusted:
        assert post.lost == []
        await asyncio.sleep(0.01)
        if post.lost:
            break
    assert post.lost == [1]


# Given up by others


async def test_an_engine_that_was_given_up_goes_on_under_another_id(post: Post) -> None:
    post.store.given_up["engine-1"] = "engine-2"
    await asyncio.sleep(1.2 * INTERVAL)
    [name] = post.names
    assert (name == "engine-1", post.heartbeat.engine_id, name in post.store.beats) == (False, name, True)


async def test_an_engine_that_was_given_up_stops_what_it_lost_and_names_both_engines(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    post.hold(1, lease="lease-2", engine="engine-3")
    post.hold(2)
    post.hold(3, lease="lease-2", engine="engine-3")
    post.store.given_up["engine-1"] = "engine-2"
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.lost == [1, 3]
    assert "engine engine-1 has lost 2 jobs to engine-2 and engine-3" in caplog.text


async def test_an_engine_whose_row_is_gone_registers_again_as_the_same(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.sleep(3 * INTERVAL)
    del post.store.beats["engine-1"]
    post.hold(1)
    await asyncio.sleep(1.2 * INTERVAL)
    assert (post.store.beats["engine-1"] in {0, 1}, post.names, post.lost) == (True, [], [])
    assert "others believed it dead" in caplog.text


async def test_an_engine_whose_row_is_gone_finds_out_what_was_taken(post: Post) -> None:
    del post.store.beats["engine-1"]
    post.hold(1, lease="lease-2", engine="engine-2")
    post.hold(2)
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.lost == [1]


async def test_an_engine_that_was_given_up_counts_its_contact_anew(post: Post) -> None:
    await asyncio.sleep(10 * INTERVAL)
    post.store.given_up["engine-1"] = "engine-2"
    given_up = monotonic()
    await asyncio.sleep(1.2 * INTERVAL)
    assert post.heartbeat.unbroken_since is not None
    assert post.heartbeat.unbroken_since > given_up


async def test_doubt_is_cleared_up_at_once(post: Post) -> None:
    post.hold(1, lease="lease-2", engine="engine-2")
    post.heartbeat.doubt()
    await settle()
    assert (post.lost, post.store.calls.count("beat")) == ([1], 1)


async def test_doubt_stays_while_the_database_cannot_be_asked(post: Post) -> None:
    post.hold(1, lease="lease-2", engine="engine-2")
    post.store.away = True
    post.heartbeat.doubt()
    await asyncio.sleep(INTERVAL)
    post.store.away = False
    await asyncio.sleep(INTERVAL)
    assert post.lost == [1]


async def test_doubt_that_comes_while_a_beat_is_under_way_is_cleared_up_at_once(post: Post) -> None:
    post.store.hold = asyncio.Event()
    await asyncio.sleep(1.2 * INTERVAL)
    post.hold(1, lease="lease-2", engine="engine-2")
    post.heartbeat.doubt()
    post.store.hold.set()
    await settle()
    assert post.lost == [1]


async def test_news_about_workers_that_come_while_a_beat_is_under_way_are_noted_soon(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_groups, "born", lambda pid: f"tick {pid}")
    post.store.hold = asyncio.Event()
    await asyncio.sleep(1.2 * INTERVAL)
    post.heartbeat.workers_changed([7])
    sent_before = post.store.calls.count("beat")
    post.store.hold.set()
    await asyncio.sleep(1.1 * NEWS_PAUSE)
    assert post.store.calls.count("beat") == sent_before + 1
    assert post.store.workers["engine-1"] == ((7, "tick 7"),)
