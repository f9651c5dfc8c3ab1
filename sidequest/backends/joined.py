"""THE STORE. Single enqueues of one process that are under way together share a statement.

The first goes at once. Those that come while it is on its way wait until it has arrived, and are the
next statement, in the order in which they came: a database that syncs for each commit does so once
for all of them. Nobody waits for a timer, and one that is alone waits for nobody. Where the last one was
alone, the next one is probably too, and stores its job itself; else a task does it for all who come in
the same turn of the loop.

What is shared is the statement and nothing else. Each caller gets an id or an error of its own: when
the store refuses a job, the statement is taken apart until the one that it meant is alone. What says
that the database is away is said to all, because nobody knows what was stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.backends.work import undisturbed
from sidequest.errors import SidequestError
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob

MOST = 200
"""Jobs in one statement."""
MOST_LETTERS = 1024 * 1024
"""Letters of arguments and meta from which on no more jobs join: well below what a statement may hold anywhere."""


class JoinedInserts:
    """Stores jobs of callers who do not know of each other. For one event loop."""

    def __init__(self, store: Backend, queue_defaults: QueueRecord, stored: Callable[[], None]) -> None:
        """`stored` is called after each commit, before a caller goes on; it must neither wait nor fail."""
        self._store = store
        self._queue_defaults = queue_defaults
        self._stored = stored
        self._waiting: deque[_Insert] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._sole: asyncio.Future[None] | None = None
        """Is done when the job has arrived that its caller stores itself."""
        self._solitary = False
        """Whether the last one was alone."""

    async def insert(self, job: NewJob) -> int:
        """Store the job; its id, as soon as it is committed. Raises what `Backend.insert` raises.

        Whoever is cancelled while the job waits has not stored it. Once it is on its way it goes on,
        and the cancellation comes through when it has arrived: it may be stored, and nobody else notices.
        """
        free = self._sole is None and (self._writer is None or self._writer.done())
        if free and self._solitary:
            return await self._insert_alone(job)
        mine = _Insert(job)
        self._waiting.append(mine)
        if free:
            self._write_waiting()
        try:
            return await mine.id
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:
                await mine.has_arrived()
            raise

    async def drain(self, within: float) -> None:
        """Return when all that came is stored or refused, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                if self._sole is not None:
                    await asyncio.wait([self._sole])
                if self._writer is not None:
                    await asyncio.wait([self._writer])

    async def _insert_alone(self, job: NewJob) -> int:
        self._sole = asyncio.get_running_loop().create_future()
        try:
            [id] = await self._store.insert([job], self._queue_defaults)
            await failpoints.reach("enqueue.after_commit")
        except asyncio.CancelledError:
            self._stored()  # it may be
            raise
        else:
            self._stored()
            return id
        finally:
            self._sole.set_result(None)
            self._sole = None
            if self._waiting:
                self._write_waiting()

    def _write_waiting(self) -> None:
        self._writer = undisturbed(self._write_all())

    async def _write_all(self) -> None:
        while self._waiting:
            group = self._next_group()
            self._solitary = len(group) == 1
            await self._write(group)

    def _next_group(self) -> Sequence[_Insert]:
        """Those that have waited longest."""
        group = [self._waiting.popleft()]
        letters = group[0].letters
        while self._waiting and len(group) < MOST and letters + self._waiting[0].letters <= MOST_LETTERS:
            group.append(self._waiting.popleft())
            letters += group[-1].letters
        return group

    async def _write(self, group: Sequence[_Insert]) -> None:
        try:
            ids = await self._store.insert([one.job for one in group], self._queue_defaults)
            await failpoints.reach("enqueue.after_commit")
        except SidequestError as error:
            for one in group:
                one.fail(error if len(group) == 1 else _own(error))
        except Exception as error:
            if len(group) == 1:
                group[0].fail(error)
            else:  # it is about the values of one of them, and nothing is stored
                await self._write(group[: len(group) // 2])
                await self._write(group[len(group) // 2 :])
        except BaseException:  # the loop is being torn down
            for one in group:
                one.abandon()
            raise
        else:
            for one, id in zip(group, ids, strict=True):
                one.succeed(id)
            self._stored()


class _Insert:
    """A job on its way, and who waits for it."""

    __slots__ = ("_arrival", "_arrived", "id", "job", "letters")

    def __init__(self, job: NewJob) -> None:
        self.job = job
        self.letters = len(job.args) + len(job.meta or "")
        self.id: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._arrived = False
        self._arrival: asyncio.Event | None = None

    def succeed(self, id: int) -> None:
        if not self.id.done():  # its caller may have been cancelled
            self.id.set_result(id)
        self._arrive()

    def fail(self, error: Exception) -> None:
        if not self.id.done():
            self.id.set_exception(error)
        self._arrive()

    def abandon(self) -> None:
        self.id.cancel()
        self._arrive()

    def _arrive(self) -> None:
        self._arrived = True
        if self._arrival is not None:
            self._arrival.set()

    async def has_arrived(self) -> None:
        """Wait for it, however often the caller is cancelled meanwhile."""
        self._arrival = asyncio.Event()
        while not self._arrived:
            try:
                await self._arrival.wait()
            except asyncio.CancelledError:
                continue


def _own(error: SidequestError) -> SidequestError:
    """The error, for one more who raises it: where it came from is shared, where it goes is not."""
    mine = copy(error)
    mine.__cause__, mine.__traceback__ = error.__cause__, error.__traceback__
    return mine
