"""APP PROCESS. A lane without a worker process: jobs run in this event loop, sync ones in threads.

For tests and places where no process may be started. There is no isolation: a job that blocks or
crashes does so to the app, and a sync job that does not stop cannot be killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from sidequest.engine.worker_process import Death
from sidequest.jobs.client import Client
from sidequest.wire.frames import Kind, Splitter
from sidequest.worker.async_host import AsyncHost
from sidequest.worker.ends import Ends
from sidequest.worker.loading import Loader
from sidequest.worker.reporting import FrameReporter

logger = logging.getLogger(__name__)


class InlineLink:
    """Runs what a lane sends; frames go from hand to hand."""

    def __init__(self, client: Client) -> None:
        self.pid = os.getpid()
        self.gone: Callable[[], None] = lambda: None
        self._client = client
        self._incoming = Splitter()
        self._outgoing = Splitter()
        self._host: AsyncHost | None = None

    async def run(
        self, greeting: dict[str, Any], on_frame: Callable[[Kind, bytes], None], on_output: Callable[[bytes], None]
    ) -> Death:
        loop = asyncio.get_running_loop()

        def deliver(frame: bytes) -> None:
            for kind, payload in self._outgoing.feed(frame):
                on_frame(kind, payload)

        def send(frame: bytes) -> None:
            loop.call_soon_threadsafe(deliver, frame)

        loader = Loader(greeting["modules"], None)
        self._host = AsyncHost(send, None, Ends(send, None), loader, self._client, FrameReporter(send))
        send(loader.catalogue(Kind.HELLO))
        await self._host.closed.wait()
        return Death(0)

    def write(self, frame: bytes) -> None:
        if self._host is not None:
            for kind, payload in self._incoming.feed(frame):
                self._host.handle(kind, payload)

    def current(self) -> tuple[int, int]:
        return (0, 0)

    def trust_until(self, until_us: int) -> None:
        """There is no process that could end itself."""

    def steps(self) -> int:
        return 0

    def unsent(self) -> bytes:
        return b""

    async def stacks(self) -> str:
        """The threads are those of the app: whoever wants to see them is in the same process."""
        return ""

    async def kill(self, for_job: int | None, cause: str = "") -> None:
        if for_job:
            logger.error("job %d does not stop, and an inline engine cannot kill it", for_job)
        elif self._host is not None:
            self._host.closed.set()
