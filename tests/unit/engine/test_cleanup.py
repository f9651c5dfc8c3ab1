"""Jobs that ended long ago."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import anyio
import pytest

from sidequest.config import Settings
from sidequest.engine.cleanup import WINDOW, Cleanup
from tests.unit.engine.fakes import NOW, FakeStore

DAY = timedelta(days=1)
SETTINGS = Settings(keep_completed=DAY, keep_failed=7 * DAY, cleanup_interval=timedelta(hours=1))


class OldJobs(FakeStore):
    """Three windows of old jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[datetime, datetime, int, int]] = []

    async def delete_finished(self, completed: datetime, failed: datetime, after: int, window: int) -> tuple[int, int | None]:
        await self._answer("delete_finished")
        self.asked.append((completed, failed, after, window))
        return 10, {0: 1_000, 1_000: 2_500}.get(after)


async def test_a_round_goes_on_until_nothing_older_is_left() -> None:
    store = OldJobs()
    assert await Cleanup(SETTINGS, store.backend).round() == 30
    assert store.asked == [(NOW - DAY, NOW - 7 * DAY, after, WINDOW) for after in (0, 1_000, 2_500)]


async def test_there_is_a_round_at_least_every_interval_also_after_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    store = OldJobs()
    store.away = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Cleanup(SETTINGS, store.backend).run)
        await asyncio.sleep(3_601)
        store.away = False
        await asyncio.sleep(10 * 3_601)
        tasks.cancel_scope.cancel()
    assert 30 <= len(store.asked) <= 66
    assert "cannot delete old jobs: the database is away" in caplog.text
