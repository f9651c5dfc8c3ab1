"""ENGINE PROCESS. Learns which of its jobs somebody asked to cancel: one query a second, not one per job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.engine.lanes import Lanes
from sidequest.engine.trouble import Trouble
from sidequest.errors import SidequestError
from sidequest.wire.messages import StopReason

logger = logging.getLogger(__name__)
INTERVAL = 1.0


class Cancellations:
    """Looks while the engine holds jobs; at once when told that there is something to see."""

    def __init__(self, engine_id: str, store: Backend, lanes: Lanes, any_held: Callable[[], bool]) -> None:
        self.engine_id = engine_id
        self._trouble = Trouble(logger, "look for cancel requests")
        self._store = store
        self._lanes = lanes
        self._any_held = any_held
        self._hint = asyncio.Event()

    def look_now(self) -> None:
        self._hint.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            if not self._any_held():
                continue
            try:
                ids = await self._store.cancel_requests(self.engine_id)
                await failpoints.reach("cancel.before_halt")
                for id in ids:
                    self._lanes.halt(id, StopReason.CANCEL)
            except SidequestError as error:
                self._trouble.met(error)
            else:
                self._trouble.over()
