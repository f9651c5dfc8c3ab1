"""WORKER PROCESS. Runs sync jobs one after the other in the main thread.

The main thread, because only there can a signal break a blocking call when the job must stop. A
second thread reads the channel, so that a stop, a recall or a reply arrives while a job runs.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from ctypes import Array
from enum import Enum
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from sidequest import failpoints
from sidequest.clock import epoch_us, monotonic
from sidequest.errors import JobStopped
from sidequest.event_loop import LoopFactory
from sidequest.jobs.context import Reporter
from sidequest.jobs.outcome import Outcome
from sidequest.wire.frames import Kind, pack_json, read_json
from sidequest.wire.messages import Attempt, End, StopReason, pack_ids, pack_spoiled, read_halt, read_ids, read_next, read_run
from sidequest.worker import stacks
from sidequest.worker.attempt import Call, prepare
from sidequest.worker.channel import Channel
from sidequest.worker.client import WorkerClient
from sidequest.worker.ends import SEND_AT, Ends
from sidequest.worker.hygiene import Hygiene
from sidequest.worker.loading import Loader
from sidequest.worker.lone_loop import LoneLoop

STOP_SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""A real-time signal where there are some: hardly any library takes one of those for itself."""
CHECK_EVERY = 64
"""Jobs in a row after which it is looked at what they left behind, also while others wait."""
GLANCE = 0.05
"""How often the reading thread looks whether a timeout was reached: its precision, in seconds."""


class _Note(Enum):
    """What comes into the inbox beside jobs."""

    NO_MORE = "the jobs that were to come have been given back"
    CLOSE = "there will be no other job"


class SyncHost:
    """One job at a time, in order; `word` tells the engine which one and since when."""

    def __init__(
        self, channel: Channel, word: Array[Any], ends: Ends, loader: Loader, client: WorkerClient, reporter: Reporter,
        make_loop: LoopFactory,
    ) -> None:  # fmt: skip
        self._channel = channel
        self._word = word
        self._ends = ends
        self._loader = loader
        self._client = client
        self._reporter = reporter
        self._make_loop = make_loop
        self._inbox: SimpleQueue[Attempt | _Note] = SimpleQueue()
        self._call: Call | None = None
        self._interruptible = False
        self._deadline: float | None = None
        self._timed_in = 0  # jobs with a timeout that came (written by the reading thread) …
        self._timed_out = 0  # … and that are done (written by the main thread)
        self._stops: dict[int, StopReason] = {}
        self._shutting_down = False
        self._hygiene: Hygiene | None = None
        self._unchecked: list[int] = []
        """Jobs that have ended since the last look at what they left behind."""
        self._lone_loop: LoneLoop | None = None

    def run(self) -> None:
        """Serve until the engine closes the channel's frames with CLOSE."""
        signal.signal(STOP_SIGNAL, self._interrupt)
        reader = threading.Thread(target=self._read, name="sidequest-reader", daemon=True)
        reader.start()
        self._hygiene = Hygiene()
        while (attempt := self._inbox.get()) is not _Note.CLOSE:
            if isinstance(attempt, Attempt):
                self._attempt(attempt)
            elif self._ends.kept:
                self._send_ends()

    def _attempt(self, attempt: Attempt) -> None:
        started_us = epoch_us()
        self._word[1] = started_us
        self._word[0] = attempt.id
        failpoints.hit("worker.before_run")
        outcome = self._outcome(attempt)
        _flush_output()
        failpoints.hit("worker.after_run")
        self._unchecked.append(attempt.id)
        self._ends.put(End(attempt.id, outcome, started_us, epoch_us()))
        if self._inbox.empty() or self._ends.kept >= SEND_AT or self._lone_loop is not None:
            self._send_ends()
        failpoints.hit("worker.after_send")
        self._word[0] = 0
        if self._lone_loop is not None:
            self._lone_loop.close()
            self._lone_loop = None
        self._timed_out += attempt.timeout_ms is not None
        if self._loader.changed:
            self._channel.send(self._loader.catalogue(Kind.CATALOGUE))

    def _send_ends(self) -> None:
        self._ends.flush(self._spoiled())

    def _spoiled(self) -> bytes:
        """A frame that says what was left behind; it comes before the ends, so that no other job comes into that.

        Not after every one of several short jobs in a row: looking takes as long as some of them.
        """
        found = [] if self._lone_loop is None else self._lone_loop.left_running()
        if self._hygiene is None or not (found or self._inbox.empty() or len(self._unchecked) >= CHECK_EVERY):
            return b""
        found += self._hygiene.check()
        suspects, self._unchecked = self._unchecked, []
        if not found:
            return b""
        self._hygiene = None  # said once; this worker gets no more jobs
        return pack_spoiled(suspects, found)

    def _outcome(self, attempt: Attempt) -> Outcome:
        prepared = prepare(attempt, self._loader, self._reporter, self._client)
        if not isinstance(prepared, Call):
            return prepared
        if self._shutting_down:
            prepared.tell_shutdown()
        self._call = prepared
        prepared.stop = self._stops.pop(attempt.id, None)
        if attempt.timeout_ms is not None:
            self._deadline = monotonic() + attempt.timeout_ms / 1000
        try:
            return self._run(prepared)
        finally:
            self._deadline = None
            self._call = None

    def _run(self, call: Call) -> Outcome:
        try:
            self._interruptible = True
            if call.stop is not None:
                raise JobStopped(call.stop.describe())
            value = call.run()
            if call.definition.is_async:
                self._lone_loop = LoneLoop(self._make_loop)
                value = self._lone_loop.run(value)
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            return call.raised(error)
        return call.ended(value)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """In the main thread, between two of its bytecodes: stop user code, and nothing else."""
        if self._interruptible and self._call is not None and self._call.stop is not None:
            self._interruptible = False
            reason = self._call.stop.describe()
            if self._lone_loop is None:
                raise JobStopped(reason)
            self._lone_loop.stop(reason)

    def _stop(self, id: int, reason: StopReason) -> None:
        call = self._call
        if call is None or call.attempt.id != id:
            self._stops[id] = reason  # it may be on its way from the inbox to its call
            return
        if call.stop is not None:
            return
        call.tell_stop(reason)
        signal.pthread_kill(threading.main_thread().ident or 0, STOP_SIGNAL)

    def _read(self) -> None:
        while True:
            frames = self._channel.receive(GLANCE if self._timed_in > self._timed_out else None)
            for kind, payload in frames:
                self._handle(kind, payload)
            self._check_deadline()

    def _check_deadline(self) -> None:
        call, deadline = self._call, self._deadline
        if call is not None and deadline is not None and monotonic() >= deadline:
            self._stop(call.attempt.id, StopReason.TIMEOUT)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.RUN:
                self._take(read_run(payload))
            case Kind.NEXT:  # one after the other is how all of them run here
                self._take(read_next(payload)[1])
            case Kind.HALT:
                self._stop(*read_halt(payload))
            case Kind.RECALL:
                self._give_back()
            case Kind.REPLY:
                self._client.answer(payload)
            case Kind.SHUTTING_DOWN:
                self._shutting_down = True
                if self._call is not None:
                    self._call.tell_shutdown()
            case Kind.STACK:
                for id in read_ids(payload):
                    stack = stacks.of_thread(threading.main_thread().ident)
                    self._channel.send(pack_json(Kind.STACK_SEEN, {"id": id, "stack": stack}))
            case Kind.MODULES:
                self._loader.extend(**read_json(payload))
                self._channel.send(self._loader.catalogue(Kind.CATALOGUE))
            case Kind.CLOSE:
                self._inbox.put(_Note.CLOSE)
            case _:
                pass

    def _take(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._timed_in += attempt.timeout_ms is not None
            self._inbox.put(attempt)

    def _give_back(self) -> None:
        """Return the jobs that have not started, so that they can run elsewhere."""
        returned: list[int] = []
        closes = False
        with suppress(Empty):  # the main thread may take the last one meanwhile
            while True:
                attempt = self._inbox.get_nowait()
                if isinstance(attempt, Attempt):
                    self._timed_in -= attempt.timeout_ms is not None
                    returned.append(attempt.id)
                closes = closes or attempt is _Note.CLOSE
        self._inbox.put(_Note.CLOSE if closes else _Note.NO_MORE)
        self._channel.send(pack_ids(Kind.RETURNED, returned))


def _flush_output() -> None:
    """What the job has printed is its own, and not the next one's."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # noqa: S112 - it may have closed them
            continue
