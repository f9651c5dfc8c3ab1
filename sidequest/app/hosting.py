"""APP PROCESS. Who keeps the engine: this process, or another one of the same app on this host.

With `engine="auto"` the holder of a lock keeps it. The others are clients, which try the lock again
and again: it is free when its holder has died or begins to stop, and then one of them takes over.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from random import Random
from typing import Literal

import anyio

from sidequest.app.engine_process import EngineProcess
from sidequest.app.host_lock import HostLock

logger = logging.getLogger(__name__)
TRY_AFTER = (0.25, 0.5)
"""Seconds between two tries of a client to take the lock."""
RENEW_INTERVAL = 10.0

Role = Literal["owner", "client"]


class Hosting:
    """`launch`, `start`, then `run` in somebody's task group, then `stop`. Without a lock this process is always the owner."""

    def __init__(self, engine: EngineProcess, lock: HostLock | None, engine_runs: Callable[[], None]) -> None:
        """`engine_runs` is called when this process has an engine."""
        self.engine = engine
        self.role: Role = "client"
        self.lock = lock
        """The lock that decides; None when this process has an engine in any case."""
        self._engine_runs = engine_runs
        self._chance = Random()

    async def launch(self) -> None:
        """Let the engine's process begin, if it falls to this one; `start` goes on from there. Raises EngineStartError."""
        if self._elected():
            self.role = "owner"
            await self.engine.launch()

    async def start(self) -> None:
        """Start the engine if it falls to this process. Raises EngineStartError; then another one may try."""
        if self.role == "client" and not self._elected():
            return
        self.role = "owner"
        try:
            await self.engine.start()
        except BaseException:
            self._release()
            raise
        self._has_engine()

    async def run(self) -> None:
        """Keep the engine; as a client, stand by until it falls to this process."""
        if self.role == "client" and not await self._stand_by():
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew)
            await self.engine.keep(self._has_engine)
            tasks.cancel_scope.cancel()

    async def stop(self) -> None:
        """Let the engine drain. Whoever takes over need not wait for that."""
        self.engine.begin_to_stop()
        self._release()
        await self.engine.stop()

    async def _stand_by(self) -> bool:
        """Whether it has an engine at last; False when it is stopped meanwhile."""
        while not self._elected():  # noqa: ASYNC110 - a lock of the operating system tells nobody
            await asyncio.sleep(self._chance.uniform(*TRY_AFTER))
        self.role = "owner"
        logger.info("process %d takes over the engine of this host", os.getpid())
        if not await self.engine.insist():  # after a pause: when all web workers stop, this one is told in that time
            return False
        self._has_engine()
        return True

    def _elected(self) -> bool:
        if self.lock is None:
            return True
        if self.engine.stopping:
            return False
        try:
            taken = self.lock.take()
        except OSError as error:
            logger.warning("cannot see whether another process has an engine, so this one starts its own: %s", error)
            self.lock = None
            return True
        if taken:
            self.lock.write({"pid": os.getpid()})
        return taken

    def _has_engine(self) -> None:
        if self.engine.stopping:
            return
        if self.lock is not None:
            self.lock.write({"pid": os.getpid(), "engine": self.engine.engine_id, "engine_pid": self.engine.pid})
        self._engine_runs()

    async def _renew(self) -> None:
        while self.lock is not None:
            await asyncio.sleep(RENEW_INTERVAL)
            self.lock.renew()

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()
