"""ENGINE PROCESS. Polls and claims: woken by an enqueue, a freed slot, the next due job, or the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from random import Random
from uuid import uuid4

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.engine.lanes import Lanes
from sidequest.engine.queue_scheduler import QueueScheduler
from sidequest.engine.trouble import Trouble
from sidequest.errors import SidequestError

logger = logging.getLogger(__name__)
PROMOTE = 1_000
"""Jobs whose time has come that are made claimable in one statement."""
SETTINGS_AGE = 0.5
"""Seconds after which a busy dispatcher looks at the queues' settings again."""
WOKEN_LOOK_AGE = 0.05
"""Seconds within which a woken dispatcher has looked: a claim alone shows no new queue and no new due time."""
STUCK_WAIT = 0.1
"""Seconds until a job whose time has come, and that could not be made claimable, is tried again."""
IDLE_FACTOR = 10
"""An idle dispatcher polls up to this many times slower."""
TROUBLE_WAIT = 15.0
"""Seconds between two tries when the database is in trouble, at most; each wait is twice the one before."""


class Dispatcher:
    """Claims what the scheduler has room for, until `close`."""

    def __init__(
        self,
        engine_id: str,
        settings: Settings,
        store: Backend,
        scheduler: QueueScheduler,
        lanes: Lanes,
        gate_open: Callable[[], bool],
        uncertain: Callable[[], None],
    ) -> None:
        self.engine_id = engine_id
        """For whom it claims: another one when others have given up the first."""
        self._store = store
        self._scheduler = scheduler
        self._lanes = lanes
        self._gate_open = gate_open
        self._uncertain = uncertain
        self._interval = settings.polling_interval.total_seconds()
        self._pause = self._interval
        self._next_due: float | None = None
        self._looked_at = 0.0
        self._look_owed = False
        self._wake = asyncio.Event()
        self._expecting = True
        self._closed = asyncio.Event()
        self._chance = Random()
        self.trouble = Trouble(logger, "claim jobs", [min(TROUBLE_WAIT, self._interval * 2**n) for n in range(16)])

    def wake(self) -> None:
        """Somebody enqueued something."""
        self._expecting = True
        self._wake.set()

    def room_freed(self) -> None:
        """A slot is free, or may be."""
        self._wake.set()

    def close(self) -> None:
        """Claim nothing more. `run` returns when a claim that is under way has come in."""
        self._closed.set()
        self._wake.set()

    async def run(self) -> None:
        while not self._closed.is_set():
            try:
                busy = await self._round()
            except SidequestError as error:
                await _happened(self._closed, self.trouble.met(error))  # nothing else hurries a database in trouble
            else:
                self.trouble.over()
                if not busy:
                    await self._rest()

    async def _round(self) -> bool:
        """One try to get work; whether another one may follow at once."""
        if not self._gate_open():
            return False
        expecting, self._expecting = self._expecting, False
        if expecting:
            self._look_owed = True
            self._scheduler.expect_work()
        claimed = await self._claim()
        if self._must_look(claimed):
            await self._look()
            claimed += await self._claim()
        if claimed:
            self._pause = self._interval
        return claimed > 0

    def _must_look(self, claimed: int) -> bool:
        age = monotonic() - self._looked_at
        if self._is_due:
            return True
        if self._look_owed:
            return age > WOKEN_LOOK_AGE
        return age > (SETTINGS_AGE if claimed else self._interval / 2)

    @property
    def _is_due(self) -> bool:
        return self._next_due is not None and monotonic() >= self._next_due

    async def _look(self) -> None:
        promoted = await self._store.promote(PROMOTE) if self._is_due else None
        look = await self._store.look()
        if promoted is None and _is_past(look.next_due_in):
            promoted = await self._store.promote(PROMOTE)
            look = await self._store.look()
        self._looked_at = monotonic()
        self._look_owed = False
        self._scheduler.know(look.queues)
        due = look.next_due_in
        if promoted == 0 and _is_past(due):  # somebody else holds that row
            due = timedelta(seconds=STUCK_WAIT)
        self._next_due = None if due is None else self._looked_at + due.total_seconds()

    async def _claim(self) -> int:
        rooms = self._scheduler.rooms(self._lanes.loads, self._lanes.slots)
        if not rooms or self._closed.is_set():
            return 0
        claimer = self.engine_id
        try:
            await failpoints.reach("claim.before_commit")
            jobs = await self._store.claim(claimer, uuid4().hex, rooms)
            await failpoints.reach("claim.after_commit")
        except SidequestError:
            self._uncertain()  # it may have been applied all the same: the next heartbeat sorts it out
            raise
        got: dict[str, int] = {}
        for job in jobs:
            got[job.queue] = got.get(job.queue, 0) + 1
        for queue, asked in rooms.items():
            if got.get(queue, 0) < asked:
                self._scheduler.ran_dry(queue)
        mine = [] if claimer != self.engine_id else [job for job in jobs if job.id not in self._lanes.held]
        if len(mine) < len(jobs):
            # We were given up meanwhile, or an earlier run of the job, which others had taken, has not stopped here yet.
            self._uncertain()
        self._lanes.accept(mine)
        return len(mine)

    async def _rest(self) -> None:
        if not await _happened(self._wake, self._until_next_round()):
            self._pause = min(self._interval * IDLE_FACTOR, self._pause * 1.5)
        self._wake.clear()

    def _until_next_round(self) -> float:
        """Seconds until the next look is due, if nothing happens before."""
        pause = self._pause * self._chance.uniform(0.9, 1.1)
        if not self._gate_open():
            return pause
        now = monotonic()
        if self._next_due is not None:
            pause = min(pause, self._next_due - now)
        if self._look_owed:
            pause = min(pause, self._looked_at + WOKEN_LOOK_AGE - now)
        return max(pause, 0.001)


def _is_past(due_in: timedelta | None) -> bool:
    return due_in is not None and due_in <= timedelta(0)


async def _happened(event: asyncio.Event, within: float) -> bool:
    """Whether the event came in that many seconds; returns as soon as it does."""
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
