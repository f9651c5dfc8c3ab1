"""THE STORE. How a unit of work is brought to its end: whole, again after a conflict, or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable

T = TypeVar("T")

MOST_TRIES = 20
PAUSE = 0.01
"""Seconds between two tries, give or take half: rivals must not meet again at the same moment."""


class Conflict(Exception):
    """Another writer was in the way; the whole unit was rolled back and may be tried again."""


async def persist(unit: Callable[[], Awaitable[T]], patience: timedelta) -> T:
    """Try the unit again while it meets conflicts, at most `MOST_TRIES` times or `patience` long."""
    deadline = monotonic() + patience.total_seconds()
    tries = 1
    while True:
        try:
            return await unit()
        except Conflict as conflict:
            if tries == MOST_TRIES or monotonic() > deadline:
                raise BackendUnavailable(f"other writers held the database for too long: {conflict}") from conflict
        tries += 1
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))


_undisturbed: WeakSet[asyncio.Task[Any]] = WeakSet()
"""Tasks that nobody cancels but who tears down the whole loop."""


def undisturbed(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task for work that must not tear and has no caller: those who wait for it wait for something else.

    It starts with none of the context of whoever made it: what that has set, a deadline perhaps, is not for all.
    """
    task = asyncio.get_running_loop().create_task(work, context=Context())
    _undisturbed.add(task)
    return task


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must not tear: when the caller is cancelled, it is finished first."""
    if asyncio.current_task() in _undisturbed:
        return await work
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue  # cancelled once more: the work still has to end before we leave
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as never retrieved
        raise
