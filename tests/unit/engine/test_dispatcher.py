"""When jobs are claimed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import pytest

from sidequest.config import Settings
from sidequest.engine.dispatcher import IDLE_FACTOR, STUCK_WAIT, TROUBLE_WAIT, WOKEN_LOOK_AGE, Dispatcher
from sidequest.engine.lanes import Lanes
from sidequest.engine.queue_scheduler import Load, QueueScheduler
from sidequest.jobs.record import ClaimedJob
from tests.unit.engine.fakes import FakeStore, claimed, look
from tests.unit.engine.virtual_time import settle

INTERVAL = 1.0
SETTINGS = Settings(polling_interval=timedelta(seconds=INTERVAL), max_concurrent_jobs=10)


class FakeLanes:
    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self.held: dict[int, object] = {}
        self.accepted: list[int] = []
        self.free = 1_000

    def slots(self, queue: str) -> int:
        return self.free

    def accept(self, jobs: Iterable[ClaimedJob]) -> None:
        self.accepted += [job.id for job in jobs]


@dataclass
class Post:
    """A dispatcher that runs, and what surrounds it."""

    store: FakeStore = field(default_factory=FakeStore)
    lanes: FakeLanes = field(default_factory=FakeLanes)
    gate_open: bool = True
    asked: int = 0
    uncertain: int = 0

    def __post_init__(self) -> None:
        self.store.queues = [look("mail", ready=False)]
        self.dispatcher = Dispatcher(
            "engine-1", SETTINGS, self.store.backend, QueueScheduler(10, ("*",)), cast("Lanes", self.lanes),
            self._gate, self._is_uncertain,
        )  # fmt: skip

    def _gate(self) -> bool:
        self.asked += 1
        return self.gate_open

    def _is_uncertain(self) -> None:
        self.uncertain += 1

    def enqueue(self, *ids: int) -> None:
        self.store.waiting += [claimed(id) for id in ids]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.dispatcher.run())
        await settle()
        try:
            yield task
        finally:
            self.dispatcher.close()
            await task


async def test_what_waits_already_is_claimed_at_the_start() -> None:
    post = Post()
    post.enqueue(1, 2)
    async with post.running():
        assert post.lanes.accepted == [1, 2]


async def test_a_wake_up_claims_at_once() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(INTERVAL / 2)
        post.enqueue(1)
        post.dispatcher.wake()
        await settle()
        assert post.lanes.accepted == [1]


async def test_a_job_of_a_queue_that_did_not_exist_before_is_found_at_once() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(INTERVAL / 2)
        post.store.queues = [look("mail", ready=False), look("new", ready=False)]
        post.store.waiting = [claimed(1, queue="new")]
        post.dispatcher.wake()
        await settle()
        assert post.lanes.accepted == [1]


async def test_in_a_burst_of_wake_ups_a_new_queue_is_found_a_moment_later() -> None:
    post = Post()
    async with post.running():
        post.store.queues = [look("mail", ready=False), look("new", ready=False)]
        post.store.waiting = [claimed(1, queue="new")]
        post.dispatcher.wake()  # right after a look
        await asyncio.sleep(1.1 * WOKEN_LOOK_AGE)
        assert post.lanes.accepted == [1]


async def test_each_wake_up_claims_once_and_a_burst_of_them_looks_rarely() -> None:
    post = Post()
    async with post.running():
        post.store.calls.clear()
        for id in range(1, 201):
            post.enqueue(id)
            post.dispatcher.wake()
            post.dispatcher.wake()
            await asyncio.sleep(WOKEN_LOOK_AGE / 20)
        looks = post.store.calls.count("look")
        assert (post.lanes.accepted, post.store.calls.count("claim")) == ([*range(1, 201)], 200)
        assert 9 <= looks <= 11


async def test_a_lone_wake_up_costs_one_claim_and_one_look() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(60)
        post.store.calls.clear()
        post.enqueue(1)
        post.dispatcher.wake()
        await asyncio.sleep(INTERVAL / 2)
        assert post.store.calls == ["claim", "look"]


async def test_an_idle_poll_is_one_look() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(600)
        assert set(post.store.calls) == {"look"}


async def test_without_a_wake_up_a_job_is_found_by_polling() -> None:
    post = Post()
    async with post.running():
        post.enqueue(1)
        await asyncio.sleep(3 * INTERVAL)
        assert post.lanes.accepted == [1]


async def test_a_full_batch_is_followed_by_the_next_at_once() -> None:
    post = Post()
    post.enqueue(*range(1, 26))
    async with post.running():
        assert post.lanes.accepted == list(range(1, 26))


async def test_a_freed_slot_claims_at_once() -> None:
    post = Post()
    post.lanes.loads["mail"] = Load(running=10)
    post.enqueue(1)
    async with post.running():
        before = list(post.lanes.accepted)
        post.lanes.loads["mail"].running = 9
        post.dispatcher.room_freed()
        await settle()
        assert (before, post.lanes.accepted) == ([], [1])


async def test_without_room_nothing_is_claimed() -> None:
    post = Post()
    post.lanes.loads["mail"] = Load(running=10)
    post.enqueue(1)
    async with post.running():
        await asyncio.sleep(60)
        assert "claim" not in post.store.calls


async def test_a_claim_asks_for_the_rooms_that_there_are() -> None:
    post = Post()
    post.store.queues = [look("mail", concurrency=7), look("reports", concurrency=5)]
    async with post.running():
        assert post.store.claims == [{"mail": 7, "reports": 3}]


async def test_while_the_gate_is_closed_nothing_is_claimed() -> None:
    post = Post(gate_open=False)
    post.enqueue(1)
    async with post.running():
        post.dispatcher.wake()
        await asyncio.sleep(60)
        assert post.store.calls == []


async def test_what_came_while_the_gate_was_closed_is_claimed_when_it_opens() -> None:
    post = Post(gate_open=False)
    post.enqueue(1)
    async with post.running():
        await asyncio.sleep(60)
        post.gate_open = True
        await asyncio.sleep(IDLE_FACTOR * INTERVAL * 1.2)
        assert post.lanes.accepted == [1]


async def test_a_queue_that_ran_dry_is_not_asked_again_by_a_freed_slot() -> None:
    post = Post()
    post.enqueue(1)
    async with post.running():
        asked = post.store.calls.count("claim")
        for _ in range(20):
            post.dispatcher.room_freed()
            await settle()
        assert post.store.calls.count("claim") == asked


async def test_jobs_whose_time_has_come_are_promoted_and_claimed_on_time() -> None:
    post = Post()
    post.store.due_in = timedelta(seconds=0.3)
    async with post.running():
        await asyncio.sleep(0.29)
        before = post.store.calls.count("look")
        post.store.due_in = timedelta(0)
        post.enqueue(1)
        await asyncio.sleep(0.02)
        assert (before, post.store.calls.count("promote"), post.lanes.accepted) == (1, 1, [1])


async def test_a_due_time_that_came_right_after_a_look_is_kept_too() -> None:
    post = Post()
    async with post.running():
        post.enqueue(1)
        post.dispatcher.wake()
        await settle()
        post.store.due_in = timedelta(seconds=0.2)
        post.enqueue(2)
        post.dispatcher.wake()  # the claim finds something: that alone is no reason to look
        await asyncio.sleep(1.1 * WOKEN_LOOK_AGE)
        post.store.calls.clear()
        post.store.due_in = timedelta(0)
        await asyncio.sleep(0.3)
        assert post.store.calls.count("promote") == 1


async def test_a_due_job_that_cannot_be_promoted_is_not_asked_for_without_end() -> None:
    post = Post()
    post.store.locked = True
    post.store.due_in = timedelta(0)
    async with post.running():
        await asyncio.sleep(60)
        assert len(post.store.calls) <= 4 * 60 / STUCK_WAIT


async def test_many_due_jobs_are_promoted_in_batches_with_claims_in_between() -> None:
    post = Post()
    post.store.due_in = timedelta(0)
    post.store.due_batches = 3
    post.enqueue(*range(1, 31))
    async with post.running():
        calls = post.store.calls
        assert calls.count("promote") == 3
        assert "claim" in calls[calls.index("promote") : len(calls) - calls[::-1].index("promote")]


async def test_a_closed_gate_is_not_asked_without_end() -> None:
    post = Post()
    post.store.due_in = timedelta(seconds=1)
    async with post.running():
        post.gate_open = False
        post.dispatcher.wake()
        before = post.asked
        await asyncio.sleep(60)
        assert post.asked - before < 60


async def test_an_idle_dispatcher_looks_ever_less_often_up_to_a_limit() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(10)
        first = post.store.calls.count("look")
        await asyncio.sleep(1_000)
        then = post.store.calls.count("look")
        await asyncio.sleep(1_000)
        last = post.store.calls.count("look") - then
    assert 4 <= first <= 8
    assert 85 <= last <= 115  # one in about ten seconds


async def test_a_claimed_job_ends_the_idleness() -> None:
    post = Post()
    async with post.running():
        await asyncio.sleep(1_000)
        post.enqueue(1)
        post.dispatcher.wake()
        await settle()
        before = post.store.calls.count("look")
        await asyncio.sleep(4 * INTERVAL)
        assert post.store.calls.count("look") > before


async def test_a_busy_dispatcher_notices_changed_settings_within_a_second() -> None:
    post = Post()
    async with post.running():
        for id in range(1, 30):
            post.enqueue(*range(100 * id, 100 * id + 20))
            post.dispatcher.wake()
            await asyncio.sleep(0.05)
            if id == 5:
                post.store.queues = [look("mail", concurrency=3)]
        assert post.store.claims[-1] == {"mail": 3}


async def test_a_failing_claim_is_reported_as_uncertain_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    async with post.running():
        post.store.away = True
        post.enqueue(1)
        post.dispatcher.wake()
        await asyncio.sleep(5 * INTERVAL)
        uncertain = post.uncertain
        post.store.away = False
        await asyncio.sleep(2 * TROUBLE_WAIT)
        assert uncertain >= 1
        assert post.lanes.accepted == [1]
    assert "cannot claim jobs: the database is away" in caplog.text


async def test_a_failing_look_is_not_uncertain() -> None:
    post = Post()
    post.store.away = True
    async with post.running():
        await asyncio.sleep(60)
        assert (set(post.store.calls), post.uncertain) == ({"look"}, 0)


async def test_wake_ups_do_not_hammer_a_database_in_trouble() -> None:
    post = Post()
    post.store.away = True
    async with post.running():
        for _ in range(600):
            post.dispatcher.wake()
            await asyncio.sleep(0.1)
        assert len(post.store.calls) <= 10


async def test_a_closed_dispatcher_claims_nothing_more() -> None:
    post = Post()
    async with post.running() as task:
        post.dispatcher.close()
        await task
        before = len(post.store.calls)
        post.enqueue(1)
        post.dispatcher.wake()
        await asyncio.sleep(60)
        assert len(post.store.calls) == before


async def test_closing_waits_for_the_claim_in_flight_and_accepts_its_jobs() -> None:
    post = Post()
    post.enqueue(1)
    async with post.running() as task:
        post.store.hold = asyncio.Event()
        post.enqueue(2)
        post.dispatcher.wake()
        await settle()
        assert post.store.calls[-1] == "claim"
        post.dispatcher.close()
        await settle()
        waited = not task.done()
        post.store.hold.set()
        await task
        assert (waited, post.lanes.accepted) == (True, [1, 2])


async def test_closing_does_not_wait_for_the_next_try_of_a_database_in_trouble() -> None:
    post = Post()
    post.store.away = True
    async with post.running() as task:
        await asyncio.sleep(60)
        post.dispatcher.close()
        await settle()
        assert task.done()


async def test_a_job_whose_earlier_run_here_has_not_stopped_yet_is_not_accepted_and_looked_into() -> None:
    post = Post()
    post.lanes.held = {1: "taken from us, and still running"}
    async with post.running():
        post.enqueue(1, 2)
        await asyncio.sleep(2 * INTERVAL)
        assert (post.lanes.accepted, post.uncertain) == ([2], 1)


async def test_what_was_claimed_for_an_engine_that_was_given_up_meanwhile_is_not_accepted() -> None:
    post = Post()
    async with post.running():
        post.store.hold = asyncio.Event()
        post.enqueue(1)
        post.dispatcher.wake()
        await settle()
        post.dispatcher.engine_id = "engine-2"
        post.store.hold.set()
        await settle()
        assert (post.lanes.accepted, post.uncertain) == ([], 1)
