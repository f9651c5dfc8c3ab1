"""The product's store, doing what the prototypes do, by the methods that an engine and an app call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from benchmarks import history
from benchmarks.prototypes.store import ARGS, NAME, QUEUES, JobStore
from sidequest.backends import make_backend
from sidequest.jobs.record import ClaimedJob, NewJob

MICROSECOND = timedelta(microseconds=1)


class Product(JobStore):
    """One backend as an engine has it, and one as an app has it: that one promises more about what it stored."""

    def __init__(self, url: str) -> None:
        self._engine = make_backend(url, "engine")
        self._app = make_backend(url, "app")
        self._engine_id = uuid4().hex

    async def open(self) -> None:
        await self._engine.open()
        await self._engine.migrate()
        await self._app.open()

    async def fill(self, rows: int) -> None:
        await history.insert(self._engine, rows)
        await history.run_all(self._engine)
        await history.insert(self._engine, rows)

    async def claim(self, queue: str, room: int) -> Sequence[ClaimedJob]:
        return await self._engine.claim(self._engine_id, uuid4().hex, {queue: room})

    async def end(self, claimed: Sequence[ClaimedJob]) -> int:
        now = self._engine.now()
        changes = [history.completed(job, now + number * MICROSECOND, now) for number, job in enumerate(claimed)]
        return len(claimed) - len(await self._engine.apply(changes))

    async def insert(self, count: int) -> None:
        await self._app.insert([NewJob(NAME, ARGS, QUEUES[0]) for _ in range(count)], history.DEFAULTS)

    async def close(self) -> None:
        await self._app.close()
        await self._engine.close()
