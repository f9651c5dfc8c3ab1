"""WORKER PROCESS. Runs async jobs, many at a time, on one event loop.

Also serves `engine="inline"`, where the loop is the app's own and sync jobs run in threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from ctypes import Array
from itertools import count
from typing import Any, cast

from sidequest import failpoints
from sidequest.clock import epoch_us
from sidequest.jobs.client import Client, choose
from sidequest.jobs.context import Reporter
from sidequest.jobs.outcome import Errored, JobError, Outcome
from sidequest.wire.frames import BrokenFrame, Kind, Splitter, pack_json, read_json
from sidequest.wire.messages import (
    MOST_BEHIND,
    Attempt,
    End,
    StopReason,
    pack_ids,
    pack_spoiled,
    pack_started,
    read_halt,
    read_ids,
    read_next,
    read_run,
)
from sidequest.worker import stacks
from sidequest.worker.attempt import Call, prepare
from sidequest.worker.channel import end_with_engine
from sidequest.worker.client import WorkerClient
from sidequest.worker.ends import SEND_AT, Ends
from sidequest.worker.hygiene import Hygiene
from sidequest.worker.loading import Loader, describe

CHECK_EVERY = 256
"""Jobs after which it is looked at what they left behind, also while others run."""
LINGER = 0.001
"""Seconds for which an end waits for others while jobs wait for its slot."""
TELL_STARTED = 0.05
"""Jobs that run longer than this are reported as started, with their true start."""


class AsyncHost:
    """Runs what `handle` brings, each job a task; sends ends once per turn of the loop."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        word: Array[Any] | None,
        ends: Ends,
        loader: Loader,
        client: Client,
        reporter: Reporter,
        hygiene: Hygiene | None = None,
    ) -> None:
        self._send = send
        self._word = word
        self._loader = loader
        self._client = client
        self._reporter = reporter
        self._running: dict[int, _Run] = {}
        self._ends = ends
        self._waiting: dict[str, deque[Attempt]] = {}
        """For each queue the jobs that start when another one of it ends …"""
        self._vacant: dict[str, deque[int]] = {}
        """… and the numbers of the ends after which none was there to start."""
        self._untold: dict[int, int] = {}
        self._telling = False
        self._sending: asyncio.Handle | None = None
        self._shutting_down = False
        self._steps = count(1)
        self._hygiene = hygiene
        self._unchecked: list[int] = []
        """Jobs that have ended since the last look at what they left behind."""
        self._loop = asyncio.get_running_loop()
        self.closed = asyncio.Event()

    def handle(self, kind: Kind, payload: bytes) -> None:
        """A frame from the engine."""
        match kind:
            case Kind.RUN:
                self._start_all(read_run(payload))
            case Kind.HALT:
                self._stop(*read_halt(payload))
            case Kind.NEXT:
                self._let_wait(*read_next(payload))
            case Kind.RECALL:
                self._send(pack_ids(Kind.RETURNED, self._take_waiting()))
            case Kind.REPLY:
                assert isinstance(self._client, WorkerClient)  # nobody else asks by frames
                self._client.answer(payload)
            case Kind.SHUTTING_DOWN:
                self._announce_shutdown()
            case Kind.STACK:
                self._tell_stacks(read_ids(payload))
            case Kind.MODULES:
                self._loader.extend(**read_json(payload))
                self._send(self._loader.catalogue(Kind.CATALOGUE))
            case Kind.CLOSE:
                self.closed.set()
            case _:
                pass

    def _start_all(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._start(attempt)

    def _start(self, attempt: Attempt) -> None:
        self._running[attempt.id] = _Run(self._loop.create_task(self._attempt(attempt)))

    def _let_wait(self, known: int, attempts: Iterable[Attempt]) -> None:
        """Jobs that take the slots of others, also of those that have ended and of which the engine did not know that."""
        for attempt in attempts:
            vacant = self._vacant.get(attempt.queue)
            while vacant and vacant[0] < known:
                vacant.popleft()  # that slot is free again
            if vacant:
                vacant.popleft()
                self._start(attempt)
            else:
                self._waiting.setdefault(attempt.queue, deque()).append(attempt)

    def _take_waiting(self) -> list[int]:
        waiting = [attempt.id for attempts in self._waiting.values() for attempt in attempts]
        self._waiting.clear()
        return waiting

    def _start_next(self, queue: str, ended: int) -> None:
        """A job of this queue has ended, as number so and so: its slot is for the next one."""
        if waiting := self._waiting.get(queue):
            self._start(waiting.popleft())
        elif queue in self._vacant:
            self._vacant[queue].append(ended)
        else:
            self._vacant[queue] = deque([ended], MOST_BEHIND)

    async def _attempt(self, attempt: Attempt) -> None:
        self._untold[attempt.id] = started_us = epoch_us()
        if not self._telling:
            self._telling = True
            self._loop.call_later(TELL_STARTED, self._tell_started)
        failpoints.hit("worker.before_run")
        try:
            prepared = self._prepared(attempt)
            if isinstance(prepared, Call):
                try:
                    value = await self._begun(prepared)
                except BaseException as error:
                    outcome = prepared.raised(error)
                else:
                    outcome = prepared.ended(value)
            else:
                outcome = prepared
        except BaseException as error:  # whatever it is, the engine must hear of it
            outcome = Errored(JobError("error", type(error).__qualname__, str(error), describe(error)))
        self._running.pop(attempt.id).forget_timer()
        self._untold.pop(attempt.id, None)
        failpoints.hit("worker.after_run")
        self._start_next(attempt.queue, self._ends.total)
        self._end(End(attempt.id, outcome, started_us, epoch_us()))

    def _prepared(self, attempt: Attempt) -> Call | Outcome:
        """The call to make, its time running from here; or the outcome of an attempt that cannot be made."""
        prepared = prepare(attempt, self._loader, self._reporter, self._client)
        if self._loader.changed:
            self._send(self._loader.catalogue(Kind.CATALOGUE))
        if not isinstance(prepared, Call):
            return prepared
        if self._shutting_down:
            prepared.tell_shutdown()
        run = self._running[attempt.id]
        run.call = prepared
        if run.stop is not None:
            prepared.stop = run.stop
            return prepared.raised(asyncio.CancelledError())
        if attempt.timeout_ms is not None:
            run.timer = self._loop.call_later(attempt.timeout_ms / 1000, self._stop, attempt.id, StopReason.TIMEOUT)
        return prepared

    def _begun(self, call: Call) -> Awaitable[Any]:
        """The job's code, to be awaited."""
        run = self._running[call.attempt.id]
        choose(self._client)  # an inline engine may be one of several in this process
        if not call.definition.is_async:
            return asyncio.to_thread(run.in_thread, call.run)
        run.coroutine = coroutine = call.run()
        return coroutine if self._word is None else _Stepped(coroutine, self._word, call.attempt.id, self._steps)

    def _announce_shutdown(self) -> None:
        self._shutting_down = True
        for run in self._running.values():
            run.announce_shutdown()

    def _tell_stacks(self, ids: Iterable[int]) -> None:
        for id in ids:
            self._send(pack_json(Kind.STACK_SEEN, {"id": id, "stack": self._stack(id)}))

    def _stack(self, id: int) -> str:
        run = self._running.get(id)
        if run is not None and run.thread is not None:
            return stacks.of_thread(run.thread)
        return stacks.of_coroutine(None if run is None else run.coroutine)

    def _stop(self, id: int, reason: StopReason) -> None:
        run = self._running.get(id)
        if run is None or run.stop is not None:
            return
        run.stop = reason
        if run.call is None:
            return  # it has not had its first step; it will see the reason there
        run.call.tell_stop(reason)
        run.task.cancel(reason.describe())

    def _end(self, end: End) -> None:
        self._unchecked.append(end.id)
        self._ends.put(end)
        if self._sending is None:
            soon = not any(self._waiting.values())
            self._sending = self._loop.call_soon(self._flush) if soon else self._loop.call_later(LINGER, self._flush)
        elif self._ends.kept == SEND_AT:
            self._sending.cancel()
            self._sending = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._sending = None
        self._ends.flush(self._spoiled())
        failpoints.hit("worker.after_send")

    def _spoiled(self) -> bytes:
        """A frame that says what was left behind; it comes before the ends, so that no other job comes into that."""
        idle = not self._running
        if not idle and len(self._unchecked) < CHECK_EVERY:
            return b""
        suspects, self._unchecked = self._unchecked, []
        found = [] if self._hygiene is None else self._hygiene.check(nothing_runs=idle)
        if not found:
            return b""
        self._hygiene = None  # said once; this worker gets no more jobs
        return pack_spoiled(suspects, found)

    def _tell_started(self) -> None:
        """What has been running for so long; the others may be over before it is their turn."""
        long_ago = epoch_us() - round(TELL_STARTED * 1_000_000)
        told = [(id, us) for id, us in self._untold.items() if us <= long_ago]
        if told:
            self._send(pack_started(told))
        for id, _ in told:
            del self._untold[id]
        self._telling = bool(self._untold)
        if self._telling:
            self._loop.call_later(TELL_STARTED, self._tell_started)


class _Run:
    """A job that runs on this loop."""

    __slots__ = ("call", "coroutine", "stop", "task", "thread", "timer")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.call: Call | None = None
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        self.thread: int | None = None
        self.stop: StopReason | None = None
        self.timer: asyncio.TimerHandle | None = None

    def in_thread(self, function: Callable[[], Any]) -> Any:
        self.thread = threading.get_ident()
        return function()

    def announce_shutdown(self) -> None:
        if self.call is not None:
            self.call.tell_shutdown()

    def forget_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Stepped(Coroutine[Any, Any, Any]):
    """A job's coroutine that names itself in shared memory while one of its steps runs, and counts the steps."""

    __slots__ = ("_coroutine", "_id", "_steps", "_word")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], word: Array[Any], id: int, steps: Iterator[int]) -> None:
        self._coroutine = coroutine
        self._word = word
        self._id = id
        self._steps = steps

    def send(self, value: Any, /) -> Any:
        self._word[2] = next(self._steps)
        self._word[0] = self._id
        try:
            return self._coroutine.send(value)
        finally:
            self._word[0] = 0

    def throw(self, *error: Any) -> Any:
        self._word[2] = next(self._steps)
        self._word[0] = self._id
        try:
            return self._coroutine.throw(*error)
        finally:
            self._word[0] = 0

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # pyright: ignore[reportReturnType]

    def __iter__(self) -> _Stepped:
        return self

    def __next__(self) -> Any:
        return self.send(None)


class HostProtocol(asyncio.Protocol):
    """The worker's socket as a source of frames for an `AsyncHost`."""

    def __init__(self, splitter: Splitter, host: AsyncHost, connected: Callable[[asyncio.Transport], None]) -> None:
        self._splitter = splitter
        self._host = host
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connected(cast("asyncio.Transport", transport))  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._splitter.feed(data):
                self._host.handle(kind, payload)
        except BrokenFrame:
            end_with_engine()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._host.closed.is_set():
            end_with_engine()
