"""ENGINE PROCESS ⇄ app. Orders come on stdin, events go to stdout.

The end of stdin means that the app is gone: drain and end. stdout carries frames only, so what
anybody prints here goes to stderr.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

from sidequest import failpoints
from sidequest.backends import make_backend
from sidequest.config import Settings
from sidequest.engine import forkserver, output
from sidequest.engine.engine import Engine, Orders
from sidequest.engine.log import Sink
from sidequest.engine.worker_process import WorkerProcess
from sidequest.errors import first_cause
from sidequest.event_loop import loop_factory
from sidequest.jobs.naming import Script
from sidequest.wire.frames import BrokenFrame, Kind, Splitter, pack_json, read_json
from sidequest.wire.lesson import Lesson

logger = logging.getLogger(__name__)
ORPHAN_GRACE = 10.0
"""Seconds that running jobs get at most when the app is gone."""
LAST_WORDS = 1.0
"""Seconds in which the last log lines may be written."""
PARENT_CHECK = 1.0
"""Seconds between two looks for the app, where the system cannot tell of its end."""
COLLECT = (20_000, 20, 50)
"""New objects, and smaller collections, after which garbage is looked for: what jobs bring is in no circle."""
UNREAD = 1024 * 1024
"""Bytes that the app has not read, from which on it is told no more: it looks for itself."""


class AppPipe(asyncio.Protocol):
    """The app's end of the pipe, as the engine sees it."""

    def __init__(self, out: asyncio.WriteTransport) -> None:
        self.started: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        """Set when an engine that is not running yet has no reason to begin."""
        self.engine: Engine | None = None
        self.grace = ORPHAN_GRACE
        self._out = out
        self._splitter = Splitter()
        self._watched: set[int] = set()

    def send(self, kind: Kind, content: object) -> None:
        """Tell the app. Never waits for it: an app that does not read must not stop the engine."""
        if self._out.get_write_buffer_size() > UNREAD or self._out.is_closing():
            return
        self._out.write(pack_json(kind, content))

    async def flushed(self) -> None:
        """Return when the app has read everything, or has had a second to do so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self._out.get_write_buffer_size() and not self._out.is_closing():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.005)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._splitter.feed(data):
                self._handle(kind, payload)
        except BrokenFrame as error:
            logger.error("the app sent what is no frame: %s", error)
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.started.done():
            self.started.cancel()
        self.app_gone()

    def app_gone(self) -> None:
        """Nobody reads or says anything any more."""
        self._stop(self.grace)

    def _stop(self, within: float) -> None:
        self.over.set()
        if self.engine is not None:
            self.engine.stop(within)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.START:
            self.started.set_result(read_json(payload))
            return
        if kind is Kind.STOP:
            self._stop(within := read_json(payload))
            if within == 0 and self.engine is not None:
                self.engine.hurry()
            return
        engine = self.engine
        if engine is None:
            return
        match kind:
            case Kind.PING:
                self.send(Kind.PONG, engine.vitals().to_json())
            case Kind.WAKE:
                engine.wake()
            case Kind.CANCELS:
                engine.look_for_cancels()
            case Kind.WATCH:
                ids = read_json(payload)
                self._watched.update(ids)
                self.jobs_ended(engine.recently_ended(ids))
            case Kind.MODULES:
                engine.learn(Lesson.from_bytes(payload))
            case _:
                pass

    def jobs_ended(self, ids: Sequence[int]) -> None:
        seen = [id for id in ids if id in self._watched]
        if seen:
            self._watched.difference_update(seen)
            self.send(Kind.ENDED, seen)

    def engine_renamed(self, engine_id: str) -> None:
        self.send(Kind.READY, {"engine": engine_id, "pid": os.getpid()})

    def workers_changed(self, pids: Sequence[int]) -> None:
        self.send(Kind.WORKERS, list(pids))


async def serve(orders_in: BinaryIO, events_out: BinaryIO) -> int:
    """Wait for orders, run an engine, return the exit code."""
    loop = asyncio.get_running_loop()
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, events_out)
    pipe = AppPipe(out)
    await loop.connect_read_pipe(lambda: pipe, orders_in)
    try:
        start = await pipe.started
    except asyncio.CancelledError:
        return 0  # the app went away before it said anything
    try:
        await _run_unless_over(pipe, start)
    except BaseException as error:
        cause = first_cause(error)
        pipe.send(Kind.FAILED, {
            "type": type(cause).__name__, "message": str(cause),
            "trace": "".join(traceback.format_exception(cause)),
        })  # fmt: skip
        return 1
    finally:
        forkserver.finish()  # while the app still waits for us
        await pipe.flushed()
    return 0


async def _run_unless_over(pipe: AppPipe, start: dict[str, Any]) -> None:
    """Run; give up when the app stops or dies before the engine has begun, however long the database takes to answer."""
    watching = asyncio.create_task(_watch_parent(start["parent"], pipe.app_gone))
    running = asyncio.create_task(_run(pipe, start))
    over = asyncio.create_task(pipe.over.wait())
    try:
        await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
        if pipe.engine is None and not running.done():
            running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    finally:
        over.cancel()
        watching.cancel()


async def _watch_parent(parent: int, gone: Callable[[], None]) -> None:
    """Notice the app's death also when a process that it has forked holds the pipe open."""
    ended = asyncio.Event()
    try:
        watch = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, or gone already
        while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(PARENT_CHECK)
        gone()
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(watch, ended.set)
    try:
        if os.getppid() == parent:  # not somebody else who was given its number
            await ended.wait()
    finally:
        loop.remove_reader(watch)
        os.close(watch)
    gone()


async def _run(pipe: AppPipe, start: dict[str, Any]) -> None:
    settings = Settings.from_json(start["settings"])
    logging.getLogger("sidequest").setLevel(settings.log_level)  # drivers log statements with their values: not those
    output.logger.setLevel(logging.INFO)  # whoever prints wants to see it
    sys.path[:] = start["path"]  # workers inherit it: they import what the app could import
    pipe.grace = min(ORPHAN_GRACE, settings.shutdown_timeout.total_seconds())
    script = Script(**start["script"]) if start["script"] else None
    store = make_backend(settings.url, role="engine")
    try:
        await failpoints.reach("engine.before_open")
        await store.open()
        await store.check_schema()
        if pipe.over.is_set():
            return
        engine = Engine(Orders(settings, script, start["predecessor"]), store, WorkerProcess, pipe)
        pipe.engine = engine
        _drain_on_signals(engine)
        await engine.run(partial(_ready, pipe, engine))
    finally:
        await store.close()


def _ready(pipe: AppPipe, engine: Engine) -> None:
    gc.freeze()
    gc.set_threshold(*COLLECT)
    gc.enable()  # see `__main__`
    pipe.send(Kind.READY, {"engine": engine.engine_id, "pid": os.getpid()})


def _drain_on_signals(engine: Engine) -> None:
    """systemd signals the whole group: the engine drains, a second signal hurries it."""
    seen: list[int] = []

    def handle() -> None:
        engine.hurry() if seen else engine.stop()
        seen.append(1)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, handle)


def run(orders_in: BinaryIO, events_out: BinaryIO, event_loop: str) -> None:
    """The whole life of an engine process; does not return."""
    sys.stdout = sys.stderr = said = Sink(2)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with asyncio.Runner(loop_factory=loop_factory(event_loop)) as runner:
        code = runner.run(serve(orders_in, events_out))
    logging.shutdown()
    said.drain(LAST_WORDS)
    os._exit(code)  # threads of executors and drivers have nothing left to say
