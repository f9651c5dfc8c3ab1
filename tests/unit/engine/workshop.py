"""Lanes with workers that do as the test says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio

from sidequest.config import Settings
from sidequest.engine.errands import Errands
from sidequest.engine.lanes import Lanes
from sidequest.jobs.outcome import Outcome
from tests.unit.engine.fakes import FakeFloor, FakeLink, claimed
from tests.unit.engine.virtual_time import settle

KINDS = {"sync": False, "async": True, "other async": True}
"""The jobs that the workers know."""
DEFAULTS: dict[str, Any] = {"min_workers": 1, "max_workers": 4, "worker_idle_timeout": timedelta(days=1)}


class Workshop:
    """A `Lanes`, the workers that it started, and what it told the floor."""

    def __init__(self, concurrency: int, **settings: Any) -> None:
        self.floor = FakeFloor()
        self.links: list[FakeLink] = []
        self.concurrency = concurrency
        self.errands = Errands()
        greeting: dict[str, Any] = {"modules": ["shop"]}
        self.lanes = Lanes(
            Settings(**DEFAULTS | settings), self.floor, self.errands, self._make_link, greeting, lambda _: self.concurrency
        )

    def _make_link(self) -> FakeLink:
        self.links.append(FakeLink(1_000 + len(self.links)))
        return self.links[-1]

    async def warm_up(self, lanes: int = 1) -> None:
        """Start workers and let them say hello."""
        self.lanes.crew.start(lanes)
        await settle()
        for link in self.links:
            link.hello(**KINDS)

    async def accept(self, *ids: int, name: str = "async", **job: Any) -> None:
        self.lanes.accept([claimed(id, name=name, **job) for id in ids])
        await settle()

    async def greet(self, link: int = -1) -> None:
        """A worker that was started says hello."""
        self.links[link].hello(**KINDS)
        await settle()

    async def end(self, link: int, *ids: int, **end: Any) -> None:
        self.links[link].end(*ids, **end)
        await settle()

    async def teach_short(self, name: str = "sync") -> None:
        """Let the lanes learn that these jobs take no time; needs an idle worker at links[0]."""
        await self.accept(900, name=name)
        await self.end(0, 900, took_us=1_000)
        del self.floor.ended[900]

    async def look(self, times: int = 1, every: float = 0.05) -> None:
        """What the engine does again and again."""
        for _ in range(times):
            await anyio.sleep(every)
            self.lanes.look()
            await settle()

    @property
    def ran(self) -> list[list[int]]:
        """What each worker was given to run."""
        return [[id for id in link.ran if id != 900] for link in self.links]

    @property
    def ended(self) -> dict[int, Outcome]:
        return self.floor.ended


@asynccontextmanager
async def workshop(warm: int = 1, concurrency: int = 10, **settings: Any) -> AsyncIterator[Workshop]:
    made = Workshop(concurrency, **settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.errands.run)
        await made.warm_up(warm)
        yield made
        tasks.cancel_scope.cancel()


CPUS = os.cpu_count() or 1
