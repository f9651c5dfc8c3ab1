"""ENGINE PROCESS. Deletes jobs that ended long ago, in small steps that nobody notices."""

from __future__ import annotations

import asyncio
import logging
from random import Random

from sidequest.backends.base import Backend
from sidequest.config import Settings
from sidequest.engine.trouble import Trouble
from sidequest.errors import SidequestError

logger = logging.getLogger(__name__)
WINDOW = 1_000
BREATHER = 0.05
"""Seconds between two steps, in which others write."""


class Cleanup:
    """A round through the oldest jobs every `cleanup_interval`."""

    def __init__(self, settings: Settings, store: Backend) -> None:
        self._settings = settings
        self._store = store
        self._trouble = Trouble(logger, "delete old jobs")
        self._chance = Random()

    async def run(self) -> None:
        interval = self._settings.cleanup_interval.total_seconds()
        while True:
            await asyncio.sleep(interval * self._chance.uniform(0.5, 1.0))  # engines that started together spread out
            try:
                deleted = await self.round()
                if deleted:
                    logger.info("deleted %d finished jobs", deleted)
            except SidequestError as error:
                self._trouble.met(error)
            else:
                self._trouble.over()

    async def round(self) -> int:
        """One round; how many jobs were deleted."""
        now = self._store.now()
        completed_before, failed_before = now - self._settings.keep_completed, now - self._settings.keep_failed
        deleted, after = 0, 0
        while True:
            count, on = await self._store.delete_finished(completed_before, failed_before, after, WINDOW)
            deleted += count
            if on is None:
                return deleted
            after = on
            await asyncio.sleep(BREATHER)
