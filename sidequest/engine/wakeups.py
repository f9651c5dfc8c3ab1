"""ENGINE PROCESS. Hears from other processes that there is something to look at.

Processes of this host call at this engine's socket; those of other hosts are heard through the
database, where it can tell. Both only save time: what is not heard is found by the next poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from sidequest.backends.base import Backend
from sidequest.errors import SidequestError
from sidequest.wire.wake_socket import LISTED_FOR, LookFor, WakeSocket

logger = logging.getLogger(__name__)
CHECK_INTERVAL = 30.0
"""Seconds between two looks whether the socket is still where others find it."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds until a lost connection to listen on is made again."""


class Wakeups:
    """`run` listens, and passes on what it hears."""

    def __init__(
        self, engine_id: str, store: Backend, work: Callable[[], None], cancels: Callable[[], None],
        learn: Callable[[bytes], None] = lambda lesson: None,
    ) -> None:  # fmt: skip
        self._engine_id = engine_id
        self._store = store
        self._work = work
        self._cancels = cancels
        self._learn = learn
        self._identity = store.url.identity  # now: a relative path means another file after a change of directory
        self._socket: WakeSocket | None = None
        self._complained = False
        self._wait = SHORTEST_WAIT

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """It has started when other processes can find the socket."""
        try:
            self._open()
            task_status.started()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_socket)
                tasks.start_soon(self._keep_listening)
        finally:
            self._close()

    # This host

    async def _keep_socket(self) -> None:
        await self._make_up_for_calls()
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if self._socket is None or not self._socket.in_place:
                self._close()
                self._open()
                await self._make_up_for_calls()

    async def _make_up_for_calls(self) -> None:
        """Who looked for engines just before the socket was there has not found this one."""
        if self._socket is not None:
            await asyncio.sleep(LISTED_FOR)
            self._work()

    def _open(self) -> None:
        try:
            self._socket = WakeSocket(self._identity, self._engine_id)
        except OSError as error:
            level, self._complained = logging.DEBUG if self._complained else logging.WARNING, True
            logger.log(level, "processes of this host cannot wake this engine; their jobs are found by polling: %s", error)
        else:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._called, self._socket)

    def _close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _called(self, socket: WakeSocket) -> None:
        calls = socket.heard()
        for lesson in socket.lessons:
            self._learn(lesson)
        if LookFor.WORK in calls:
            self._work()
        if LookFor.CANCELS in calls:
            self._cancels()

    # Other hosts

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._store.listen(self._heard)
            except SidequestError as error:
                level = logging.WARNING if self._wait == SHORTEST_WAIT else logging.DEBUG
                logger.log(level, "jobs enqueued on other hosts are found by polling until the database tells again: %s", error)
            else:
                return  # this database cannot tell
            await asyncio.sleep(self._wait)
            self._wait = min(LONGEST_WAIT, self._wait * 2)

    def _heard(self) -> None:
        """Also when listening begins: what was announced before that is lost."""
        self._wait = SHORTEST_WAIT
        self._work()
