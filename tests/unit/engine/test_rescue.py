"""The jobs of engines that died, and of those that only seem to have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from sidequest.backends.base import Home
from sidequest.config import Settings
from sidequest.engine import host, rescue
from sidequest.engine.heartbeat import Heartbeat
from sidequest.engine.leases import Leases
from sidequest.engine.rescue import Rescue
from sidequest.jobs.outcome import read_errors
from sidequest.jobs.states import State
from tests.unit.engine.fakes import NOW, FakeStore, claimed, stored

LIFE, LOOK, BEAT = 60.0, 15.0, 10.0
SETTINGS = Settings(
    lease_life=timedelta(seconds=LIFE), rescue_interval=timedelta(seconds=LOOK), heartbeat_interval=timedelta(seconds=BEAT)
)
LONG_ENOUGH = LIFE + 1.1 * LOOK + 0.1
"""The longest from a last beat to the rescue: the beat is noticed one look later, and its age judged when it is up."""

FORGOTTEN_AFTER = LIFE + 3 * LOOK
"""The longest from the mark that gives an engine up until its row goes."""


class Post:
    """The rescue of engine-1, its own heartbeat, and a store that knows other engines."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.store = FakeStore()
        self.rescued = 0
        self.replays = 0
        leases = Leases(self.store.backend, list, lambda _: True, lambda ids: None)
        self.heartbeat = Heartbeat("engine-1", settings, self.store.backend, leases, self)
        self.rescue = Rescue(settings, self.store.backend, self.heartbeat, self._is_rescued, self._replay)

    async def _replay(self) -> None:
        self.replays += 1
        self.store.calls.append("replay")

    def trusted_until(self, until: float) -> None: ...

    def trust_expired(self) -> None: ...

    def engine_renamed(self, engine_id: str) -> None: ...

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


async def test_a_dead_engine_is_given_up_and_its_jobs_are_taken_back(post: Post) -> None:
    post.hold("dead", 1, 2)
    await asyncio.sleep(LONG_ENOUGH)
    assert (post.changes, post.store.given_up, post.rescued) == (
        {1: State.WAITING, 2: State.WAITING},
        {"dead": "engine-1"},
        1,
    )


async def test_it_is_marked_before_anything_is_taken(post: Post) -> None:
    post.hold("dead", 1)
    await asyncio.sleep(LONG_ENOUGH)
    calls = post.store.calls
    assert calls.index("give_up_engine") < calls.index("held_by") < calls.index("apply")


async def test_an_engine_that_beats_just_before_it_is_marked_keeps_its_jobs(post: Post) -> None:
    post.hold("slow", 1)
    mark = post.store.give_up_engine

    async def beat_first(id: str, by: str, beat: int | None = None) -> bool:
        post.store.beats[id] += 1
        return await mark(id, by, beat)

    post.store.give_up_engine = beat_first  # type: ignore[method-assign]
    await asyncio.sleep(LONG_ENOUGH)
    assert (post.changes, post.store.given_up) == ({}, {})


async def test_the_mark_stays_for_a_lease_life_for_the_engine_to_find(post: Post) -> None:
    post.hold("dead", 1)
    await asyncio.sleep(LONG_ENOUGH)
    await asyncio.sleep(LIFE - 2 * LOOK)
    early = "dead" in post.store.beats
    await asyncio.sleep(5 * LOOK)
    assert (early, "dead" in post.store.beats) == (True, False)


async def test_what_comes_in_late_for_an_engine_that_was_given_up_is_taken_back_as_well(post: Post) -> None:
    post.hold("dead", 1)
    await asyncio.sleep(LONG_ENOUGH)
    post.store.held["dead"] = [claimed(2)]
    post.store.records[2] = stored(2)
    await asyncio.sleep(1.2 * LOOK)
    assert post.changes == {1: State.WAITING, 2: State.WAITING}


async def test_it_goes_on_where_another_rescuer_ended(post: Post) -> None:
    post.hold("dead", 1)
    post.store.given_up["dead"] = "engine-2"
    await asyncio.sleep(1.2 * LOOK)
    assert post.changes == {1: State.WAITING}


async def test_jobs_that_somebody_has_locked_are_passed_and_taken_later(post: Post) -> None:
    post.hold("dead", *range(1, 251))
    post.store.locked_rows = {1, 2, 150}
    await asyncio.sleep(LONG_ENOUGH)
    early = set(post.changes)
    post.store.locked_rows = set()
    await asyncio.sleep(1.2 * LOOK)
    assert (early, set(post.changes)) == ({*range(1, 251)} - {1, 2, 150}, {*range(1, 251)})


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
    assert "cannot rescue jobs of other engines: the database is away" in caplog.text


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
    await asyncio.sleep(LONG_ENOUGH + FORGOTTEN_AFTER)
    assert ("dead" in post.store.beats, post.changes, post.rescued) == (False, {}, 0)


async def test_a_claim_of_a_dead_engine_that_lands_after_the_hand_over_is_rescued_as_well(post: Post) -> None:
    post.hold("dead", 1)
    await post.rescue.release("dead", "its engine process died")
    post.hold("dead", 2)
    await asyncio.sleep(FORGOTTEN_AFTER)
    assert (post.changes, "dead" in post.store.beats) == ({1: State.WAITING, 2: State.WAITING}, False)


# Engines of this host

HERE = Home("boot", "pid:[1]", "100")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Home:
    """This engine lives there."""
    monkeypatch.setattr(host, "home", lambda: HERE)
    return HERE


async def test_an_engine_of_this_host_whose_process_is_gone_is_released_at_once(here: Home) -> None:
    post = Post()
    post.hold("dead", 1)
    post.store.homes["dead"] = here
    await post.rescue.release_dead_of_this_host()
    assert (post.changes, post.store.given_up) == ({1: State.WAITING}, {"dead": "engine-1"})


async def test_each_round_looks_for_them(here: Home) -> None:
    post = Post()
    post.hold("dead", 1)
    post.store.homes["dead"] = here
    await post.rescue.round()
    assert (post.changes, post.store.given_up) == ({1: State.WAITING}, {"dead": "engine-1"})


@pytest.mark.parametrize(
    "home", [Home(), HERE._replace(boot="other"), HERE._replace(pid_namespace="pid:[2]"), HERE._replace(born="")], ids=str
)
async def test_an_engine_of_another_machine_boot_or_container_is_never_judged(here: Home, home: Home) -> None:
    post = Post()
    post.hold("elsewhere", 1)
    post.store.homes["elsewhere"] = home
    await post.rescue.release_dead_of_this_host()
    await post.rescue.round()
    assert (post.changes, post.store.given_up) == ({}, {})


async def test_without_a_home_of_its_own_it_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "home", Home)
    post = Post()
    post.hold("dead", 1)
    post.store.homes["dead"] = Home()
    await post.rescue.release_dead_of_this_host()
    assert post.changes == {}


async def test_a_dead_engines_jobs_are_free_only_when_its_worker_groups_are_gone(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Post()
    post.hold("dead", 1)
    post.store.homes["dead"] = here
    gone = False

    async def end_groups(groups: object) -> bool:
        return gone

    monkeypatch.setattr(rescue, "end_groups", end_groups)
    await post.rescue.round()
    early = dict(post.changes)
    gone = True
    await post.rescue.round()
    assert (early, post.changes) == ({}, {1: State.WAITING})


async def test_what_it_left_in_its_spool_is_written_before_its_jobs_are_released(here: Home) -> None:
    post = Post()
    post.hold("dead", 1)
    post.store.homes["dead"] = here
    await post.rescue.release_dead_of_this_host()
    assert post.store.calls.index("replay") < post.store.calls.index("give_up_engine")


async def test_two_who_release_the_same_engine_do_no_harm() -> None:
    post = Post()
    post.hold("dead", *range(1, 301))
    counts = await asyncio.gather(*(post.rescue.release("dead", "gone") for _ in range(2)))
    assert sorted(post.changes) == list(range(1, 301))
    assert max(counts) == 300


# Fixed ages

AGED = replace(SETTINGS, stale_running=timedelta(hours=1), stale_claimed=timedelta(minutes=5))


async def test_without_fixed_ages_nobody_looks_for_old_jobs(post: Post) -> None:
    post.hold("alive", 1)
    await post.rescue.round()
    assert "held_by" not in post.store.calls


@pytest.mark.parametrize("engine", ["other", "engine-1"])
async def test_jobs_in_hand_for_longer_than_allowed_are_taken_back_whoever_has_them(engine: str) -> None:
    post = Post(AGED)
    post.hold(engine, 1, 2, 3, 4, 5)
    post.store.records = {
        1: stored(1, started_at=NOW - timedelta(hours=1, seconds=1)),
        2: stored(2, started_at=NOW - timedelta(minutes=59), claimed_at=NOW - timedelta(hours=9)),
        3: stored(3, State.CLAIMED, claimed_at=NOW - timedelta(minutes=5, seconds=1)),
        4: stored(4, State.CLAIMED, claimed_at=NOW - timedelta(minutes=4)),
        5: stored(5, started_at=None),
    }
    await post.rescue.round()
    assert post.changes == {1: State.WAITING, 3: State.WAITING}
