"""THE STORE. Moves that people make: read the job, ask `transitions`, write it if nothing changed since.

A job that changes hands between the read and the write is read again, so the answer is always about
the job as it was when the move was made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sidequest.backends.base import Backend
from sidequest.errors import JobNotFound
from sidequest.jobs import transitions
from sidequest.jobs.client import CancelAnswer
from sidequest.jobs.record import JobRecord
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change


async def cancel(store: Backend, id: int) -> CancelAnswer:
    """Cancel a waiting job, or ask its engine to. Raises JobNotFound."""
    while True:
        change = transitions.cancel(await find(store, id), store.now())
        if change is None:
            return "too_late"
        if not await store.apply([change]):
            return "canceled" if change.state is State.CANCELED else "requested"


async def move(store: Backend, id: int, transition: Callable[[JobRecord, datetime], Change]) -> JobRecord:
    """Make the move; the job as it stands after it. Raises JobNotFound, JobStateError."""
    while await store.apply([transition(await find(store, id), store.now())]):
        pass
    return await find(store, id)


async def find(store: Backend, id: int) -> JobRecord:
    """The job; JobNotFound when there is none."""
    record = await store.get(id)
    if record is None:
        raise JobNotFound(id)
    return record
