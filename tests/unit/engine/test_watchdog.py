"""An async job that blocks its worker's event loop: named once, and left alone."""

from __future__ import annotations

import logging

import pytest

from sidequest.engine.watchdog import BLOCKED_AFTER
from sidequest.jobs.record import Progress
from tests.unit.engine.virtual_time import settle
from tests.unit.engine.workshop import Workshop, workshop


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sidequest.engine.watchdog")


async def block(shop: Workshop, job: int, step: int = 1) -> None:
    """The worker is in one step of this job for longer than it may last."""
    shop.links[0].word, shop.links[0].step = (job, 0), step
    await shop.look(times=2, every=BLOCKED_AFTER)


async def test_a_job_that_blocks_its_loop_is_named_once_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(1, 2, 3)
        shop.links[0].dump = "Thread 1: in shop.py"
        await block(shop, 2)
        await shop.look(times=5)
        [line] = caplog.messages
        assert line.startswith("job 2 (async) blocks the event loop of worker 1000 since 1.0 s; 2 other jobs there wait for it")
        assert line.endswith("Thread 1: in shop.py")


async def test_many_short_steps_of_one_job_block_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        for step in range(5):
            shop.links[0].word, shop.links[0].step = (1, 0), step
            await shop.look(every=0.9 * BLOCKED_AFTER)
        assert caplog.messages == []


async def test_an_idle_loop_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(1)
        await block(shop, 0)
        assert caplog.messages == []


async def test_a_sync_job_may_take_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(1, name="sync")
        await block(shop, 1)
        assert caplog.messages == []


async def test_a_blocked_lane_gets_no_more_jobs_and_another_is_started() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        await block(shop, 1)
        await shop.accept(2)
        await shop.greet()
        assert shop.ran == [[1], [2]]


async def test_a_lane_that_turns_again_gets_jobs_again() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1)
        await block(shop, 1)
        await shop.accept(2)
        before = shop.ran
        shop.links[0].step += 1
        await shop.look()
        assert (before, shop.ran) == ([[1]], [[1, 2]])


async def test_a_lane_whose_blocking_job_ended_gets_jobs_again() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1)
        await block(shop, 1)
        await shop.accept(2)
        await shop.end(0, 1)
        assert shop.ran == [[1, 2]]


async def test_each_blocking_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(1)
        for step in (1, 2):
            await block(shop, 1, step)
            await settle()
        assert len(caplog.messages) == 2


async def test_a_report_from_inside_the_blocking_step_opens_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1)
        await block(shop, 1)
        shop.links[0].progress(1, Progress(1, 2, None))
        await shop.accept(2)
        await shop.look(times=2, every=BLOCKED_AFTER)
        assert (shop.ran, len(caplog.messages)) == ([[1]], 1)
