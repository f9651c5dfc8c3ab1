"""ENGINE PROCESS. Says that this engine lives, and knows how long it may believe that its jobs are its own.

A beat has a connection of its own and waits for nobody. From before a beat that landed was sent, the
jobs are ours for a lease life, whatever others believe; this engine trusts that for three quarters of
it. After that it begins nothing new until a beat has landed, and with `on_lease_lost="kill"` stops what
runs. All of this is measured on the monotonic clock, so it also holds for a process that was frozen.

An engine whose beat finds a row that says who gave it up has lost its jobs, or will in a moment. It
stops them and goes on under a new id: whoever is still taking back what the old one held must not meet
what the new one claims. One whose row is gone registers again as the same: the taking back ends with
the row, so nobody is at it any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Protocol
from uuid import uuid4

import sidequest
from sidequest import failpoints
from sidequest.backends.base import Backend, WorkerGroup
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.engine import host
from sidequest.engine.leases import Leases
from sidequest.engine.process_groups import worker_groups
from sidequest.engine.trouble import Trouble
from sidequest.errors import SidequestError

logger = logging.getLogger(__name__)
TRUSTED = 0.75
"""Of a lease life: how long jobs count as ours after a beat was sent. The rest is for stopping them."""
WORKERS_TRUSTED = 0.875
"""The same for workers, who look for themselves: later, so that an engine that can has stopped its jobs before."""
WAITS = (0.2, 0.5, 1.0, 2.0, 5.0)
NEWS_PAUSE = 0.5
"""Seconds in which news about workers gather before a beat carries them."""


class Pulse(Protocol):
    """Who lives by the beats."""

    def trusted_until(self, until: float) -> None:
        """A beat has landed; workers may go on until then (monotonic)."""

    def trust_expired(self) -> None:
        """No beat has landed for too long: others may soon take what runs here."""

    def engine_renamed(self, engine_id: str) -> None:
        """The engine was given up: it stops all that it holds, and goes on under this id."""


class Heartbeat:
    """One row, one write per interval, from a loop that runs no user code."""

    def __init__(self, engine_id: str, settings: Settings, store: Backend, leases: Leases, pulse: Pulse) -> None:
        self.engine_id = engine_id
        self.unbroken_since: float | None = None
        """Since when every beat has reached the database (monotonic); None after one that did not."""
        self._interval = settings.heartbeat_interval.total_seconds()
        self._life = settings.lease_life.total_seconds()
        self._within = settings.heartbeat_interval
        self._queues = ",".join(settings.serve)
        self._store = store
        self._leases = leases
        self._pulse = pulse
        self._trouble = Trouble(logger, "beat", WAITS)
        self._workers: tuple[WorkerGroup, ...] = ()
        self._left = False
        self._confirmed_at = float("-inf")
        self._confirmed = asyncio.Event()
        self._due = 0.0
        self._soon = float("inf")
        """When a beat is wanted before that."""
        self._hurry = asyncio.Event()
        self._chance = Random()

    @property
    def trusted(self) -> bool:
        """Whether the jobs here are ours beyond doubt, as far as beats go."""
        return monotonic() - self._confirmed_at < TRUSTED * self._life

    def workers_changed(self, pids: Sequence[int]) -> None:
        """Note the worker groups with a beat soon: engines of this host end them should this one die."""
        self._workers = worker_groups(pids)
        self._hurry_to(monotonic() + NEWS_PAUSE)

    def doubt(self) -> None:
        """A write was refused as if a job was not ours: beat, and compare, now."""
        self._leases.doubt()
        self._hurry_to(monotonic())

    async def register(self) -> None:
        sent_at = monotonic()
        await self._store.register_engine(
            self.engine_id, socket.gethostname(), os.getpid(), sidequest.__version__, self._queues, host.home()
        )
        self.unbroken_since = sent_at
        self._landed(sent_at)

    async def leave(self) -> None:
        """Remove this engine's row; no beat after this brings it back. Nothing may be claimed any more.

        After a claim whose answer was lost the row stays, when what that claim brought so far has been
        given back: more may land after this, and whatever an engine without a row holds is found by nobody.
        """
        self._left = True
        if self._leases.uncertain:
            for _ in range(2):  # no other claim's answer is on its way: what is unknown twice is a stray
                await self._leases.check(self.engine_id)
        else:
            await self._store.forget_engine(self.engine_id)

    async def run(self) -> None:
        """Beat until `leave`. What cannot reach the database is tried again sooner than the next beat is due."""
        while not self._left:
            await self._until_due()
            self._soon = float("inf")
            sent_at = monotonic()
            try:
                await self._beat(sent_at)
            except SidequestError as error:
                self.unbroken_since = None
                self._due = monotonic() + min(self._interval, self._trouble.met(error))
            else:
                self._trouble.over()

    async def guard(self) -> None:
        """Tell when trust expires, each time that it does."""
        while True:
            left = self._confirmed_at + TRUSTED * self._life - monotonic()
            if left > 0:
                await asyncio.sleep(left)
                continue
            self._confirmed.clear()
            self._leases.doubt()
            logger.warning("no beat has landed for %.0f s: nothing new begins until one does", monotonic() - self._confirmed_at)
            self._pulse.trust_expired()
            await self._confirmed.wait()

    async def _beat(self, sent_at: float) -> None:
        await failpoints.reach("heartbeat.before_beat")
        if await self._store.beat(self.engine_id, self._workers, self._within):
            if self.unbroken_since is None:
                self.unbroken_since = sent_at
            if self.trusted:
                self._landed(sent_at)
            await self._leases.check(self.engine_id)  # after a long silence nothing begins before this
            self._landed(sent_at)
        elif not self._left:
            await self._given_up()

    async def _given_up(self) -> None:
        """Stop what is lost, and register anew."""
        old = self.engine_id
        rows = {engine.id: engine for engine in await self._store.list_engines()}
        by = rows[old].given_up_by if old in rows else None
        if not await self._leases.find_lost(old, by):
            logger.warning("engine %s: its row is gone, %s; it had lost no job", old, _why(by))
        if by is not None:
            self.engine_id = uuid4().hex
            self._leases.left(old, monotonic() + self._life)
            self._pulse.engine_renamed(self.engine_id)
            logger.info("engine %s goes on as %s", old, self.engine_id)
        await self.register()

    def _landed(self, sent_at: float) -> None:
        self._confirmed_at = sent_at
        self._due = sent_at + self._interval * self._chance.uniform(0.9, 1.1)
        self._confirmed.set()
        self._pulse.trusted_until(sent_at + WORKERS_TRUSTED * self._life)

    def _hurry_to(self, at: float) -> None:
        if at < self._soon:
            self._soon = at
            self._hurry.set()

    async def _until_due(self) -> None:
        while (left := min(self._due, self._soon) - monotonic()) > 0:
            self._hurry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurry.wait()


def _why(given_up_by: str | None) -> str:
    return f"because engine {given_up_by} believed it dead" if given_up_by else "because others believed it dead, or by hand"
