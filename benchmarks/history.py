"""A database with a past: jobs that engines have run, made as engines make it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from random import Random
from uuid import uuid4

from benchmarks.prototypes.store import ARGS, NAME, RESULT, waiting_rows
from sidequest.backends.base import Backend
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob

DEFAULTS = QueueRecord("*")
CLAIM = 500
_CHANCE = Random(1)


async def insert(backend: Backend, count: int) -> None:
    """Waiting jobs of all queues and priorities."""
    for part in waiting_rows(count):
        await backend.insert([NewJob(NAME, ARGS, queue=row.queue, priority=row.priority) for row in part], DEFAULTS)


async def run_all(backend: Backend) -> None:
    """Claim and end all that waits."""
    rooms = {queue.name: CLAIM for queue in await backend.list_queues()}
    ending: asyncio.Task[frozenset[int]] | None = None
    while claimed := await backend.claim(uuid4().hex, uuid4().hex, rooms):
        if ending is not None:
            await ending
        now = backend.now()
        ending = asyncio.create_task(backend.apply([completed(job, now, now) for job in claimed]))
    if ending is not None:
        await ending


def completed(job: ClaimedJob, started_at: datetime, finished_at: datetime) -> transitions.Change:
    return transitions.finish(job, Completed(RESULT), started_at, finished_at, _CHANCE)
