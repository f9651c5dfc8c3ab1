"""APP PROCESS ⇄ engine. Starts the engine process, watches it, starts it again, stops it.

The engine is a plain subprocess in a session of its own, with pipes to stdin and stdout: no
`multiprocessing` here, so no `__main__` guard is needed, and no signal handler is installed. When
this process dies, the pipe's end tells the engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import site
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Literal

import anyio

import sidequest
from sidequest.backends.base import WorkerGroup
from sidequest.clock import monotonic, utc_now
from sidequest.config import Settings
from sidequest.engine.process_groups import end_groups, worker_groups
from sidequest.errors import EngineStartError
from sidequest.jobs.naming import Script
from sidequest.wire.frames import BrokenFrame, Kind, Splitter, pack_json, read_json
from sidequest.wire.lesson import Lesson
from sidequest.wire.vitals import Vitals

logger = logging.getLogger(__name__)
RESTART_WAITS = (0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
HEALTHY_AFTER = 60.0
"""Seconds of life after which an engine's death counts as a first one again."""
PING_INTERVAL = 5.0
HUNG_AFTER = 30.0
"""Seconds without an answer to a ping after which an engine is killed."""
SUSPICIOUS = 2
"""Pings in a row without an answer from which on an engine is called hung."""
STOP_MARGIN = 8.0
"""Seconds beyond `shutdown_timeout` that a stopping engine gets before it is killed."""
EngineState = Literal["none", "starting", "running", "hung", "restarting", "stopping"]


class EngineProcess:
    """Keeps one engine running. `start` fails fast, `insist` does not; `keep` restarts for ever; `stop` drains."""

    def __init__(
        self, settings: Settings, script: Script | None, modules: Callable[[], Sequence[str]], watched: Callable[[], list[int]],
        on_ended: Callable[[Sequence[int]], None],
    ) -> None:  # fmt: skip
        self.engine_id: str | None = None
        self.pid: int | None = None
        self.restarts = 0
        """How many engines have died and been replaced."""
        self.since: datetime = utc_now()
        """Since when it is in the state that it is in."""
        self._state: EngineState = "none"
        self._settings = settings
        self._script = script
        self._modules = modules
        self._watched = watched
        self._on_ended = on_ended
        self._directory = Path.cwd()  # a later engine must find a relative database where the first one did
        self._process: Process | None = None
        self._unordered = False
        """Whether there is a process that waits for its orders."""
        self._splitter = Splitter()
        self._workers: tuple[WorkerGroup, ...] = ()
        self._unanswered = 0
        self._vitals: Vitals | None = None
        self._answered = asyncio.Event()
        self._failures = 0
        self._complaints: set[str] = set()
        self._stopping = False
        self._chance = Random()

    # Messages to the engine; lost when it is just being started again, which costs one poll

    def wake(self) -> None:
        self._send(Kind.WAKE, None)

    def look_for_cancels(self) -> None:
        self._send(Kind.CANCELS, None)

    def watch(self, ids: list[int]) -> None:
        self._send(Kind.WATCH, ids)

    def learn(self, lesson: Lesson) -> None:
        self._send(Kind.MODULES, lesson._asdict())

    # Asking it

    @property
    def stopping(self) -> bool:
        """Whether it is to end: no new engine is started from here on."""
        return self._stopping

    @property
    def state(self) -> EngineState:
        return "hung" if self._state == "running" and self._unanswered >= SUSPICIOUS else self._state

    async def vitals(self, within: float) -> Vitals | None:
        """The engine's numbers as they are now; None when it does not answer in that many seconds."""
        answered = self._answered
        self._send(Kind.PING, None)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await answered.wait()
                return self._vitals
        return None

    # Life

    async def launch(self) -> None:
        """Start the process, which imports what it needs and then waits for the orders that `start` gives it.

        Raises EngineStartError.
        """
        self._enter("starting")
        await self._launch()

    async def start(self, predecessor: str | None = None) -> None:
        """Start the engine, or the one that was launched, and wait until it is ready.

        Raises EngineStartError with the child's own error, or when it takes longer than
        `start_timeout`; then no process is left.
        """
        if self._state != "restarting":
            self._enter("starting")
        try:
            if not self._unordered:
                await self._launch()
            self._unordered = False
            self._send(Kind.START, self._orders(predecessor))
            async with asyncio.timeout(self._settings.start_timeout.total_seconds()):
                ready = await self._answer()
        except TimeoutError:
            await self._kill()
            raise EngineStartError(
                f"the engine was not ready after {self._settings.start_timeout.total_seconds():g} s"
            ) from None
        except BaseException:
            await self._kill()
            raise
        self.engine_id, self.pid = ready["engine"], ready["pid"]
        self._unanswered = 0
        self._enter("running")
        self.watch(self._watched())

    async def insist(self, predecessor: str | None = None) -> bool:
        """Start an engine, however many tries that takes: each after a longer pause. False when it is stopped meanwhile."""
        while True:
            pause = RESTART_WAITS[min(self._failures, len(RESTART_WAITS) - 1)]
            await asyncio.sleep(pause * self._chance.uniform(0.8, 1.2))
            if self._stopping:
                return False
            self._failures += 1
            try:
                await self.start(predecessor)
            except EngineStartError as error:
                if not self._stopping:
                    self._complain(f"the engine process does not start, trying again and again: {error}")
            else:
                logger.warning("a new engine process is running: engine %s, pid %s", self.engine_id, self.pid)
                return True

    async def keep(self, replaced: Callable[[], None] = lambda: None) -> None:
        """Follow the engine's events; start a new one whenever it dies, until `stop`. `replaced` is called then."""
        while True:
            born_at = monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ping)
                await self._follow()
                tasks.cancel_scope.cancel()
            await self._kill()
            if self._stopping:
                return
            if monotonic() - born_at > HEALTHY_AFTER:
                self._failures = 0
                self._complaints.clear()
            self._enter("restarting")
            code = self._process.returncode if self._process is not None else None
            self._complain(f"the engine process ended unexpectedly (exit code {code}); starting a new one")
            if not await self.insist(predecessor=self.engine_id):
                return
            self.restarts += 1
            replaced()

    def begin_to_stop(self) -> None:
        """Tell the engine to drain, and start none from here on. Idempotent."""
        self._stopping = True
        if self._process is not None:
            self._enter("stopping")
            self._send(Kind.STOP, self._settings.shutdown_timeout.total_seconds())

    async def stop(self) -> None:
        """Let the engine drain; kill it when it takes too long. Idempotent."""
        self.begin_to_stop()
        process = self._process
        if process is not None:
            patience = 0.0 if self._unordered else self._settings.shutdown_timeout.total_seconds() + STOP_MARGIN
            with anyio.move_on_after(patience):
                await process.wait()
            await self._kill()
        self._enter("none")

    def hurry(self) -> None:
        """Stop, and do not wait for running jobs: they are stopped within a second or two, and given back."""
        self._stopping = True
        self._send(Kind.STOP, 0.0)

    def kill(self) -> None:
        """End the engine now; `keep` or `stop` then sees to its workers. Its jobs are given back by another engine."""
        self._stopping = True
        self._signal_group(signal.SIGKILL)

    async def _launch(self) -> None:
        self._splitter = Splitter()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "sidequest.engine", self._settings.event_loop,
                stdin=PIPE, stdout=PIPE, start_new_session=True, env=_environment(), cwd=self._directory,
            )  # fmt: skip
        except OSError as error:  # no more processes or descriptors, no such directory any more
            raise EngineStartError(f"the engine process could not be started: {error}") from error
        self._unordered = True

    async def _answer(self) -> dict[str, Any]:
        """The first READY; EngineStartError for FAILED or an end without a word."""
        assert self._process is not None
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65_536):
            ready: dict[str, Any] | None = None
            try:
                for kind, payload in self._splitter.feed(data):
                    if kind is Kind.FAILED:
                        failure = read_json(payload)
                        raise EngineStartError(
                            f"the engine could not start: {failure['type']}: {failure['message']}\n\n{failure['trace']}"
                        )
                    if kind is Kind.READY:
                        ready = read_json(payload)
                    else:
                        self._handle(kind, payload)
            except BrokenFrame as error:
                raise EngineStartError(f"the engine process said what an engine does not say: {error}") from error
            if ready is not None:
                return ready
        code = await self._process.wait()
        raise EngineStartError(f"the engine process ended with exit code {code} before it was ready; its stderr says why")

    async def _follow(self) -> None:
        """Handle events until the engine's stdout ends, or is none of an engine any more."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while data := await self._process.stdout.read(65_536):
                for kind, payload in self._splitter.feed(data):
                    self._handle(kind, payload)
        except BrokenFrame as error:
            self._complain(f"the engine process said what an engine does not say; killing it: {error}")

    def _handle(self, kind: Kind, payload: bytes) -> None:
        self._unanswered = 0
        match kind:
            case Kind.ENDED:
                self._on_ended(read_json(payload))
            case Kind.READY:
                self.engine_id = read_json(payload)["engine"]  # others gave it up, and it goes on under another id
            case Kind.WORKERS:
                self._workers = worker_groups(read_json(payload))
            case Kind.PONG:
                self._vitals = Vitals.from_json(read_json(payload))
                self._answered.set()
                self._answered = asyncio.Event()
            case Kind.FAILED:
                failure = read_json(payload)
                self._complain(f"the engine failed: {failure['type']}: {failure['message']}\n{failure['trace']}")
            case _:
                pass

    async def _ping(self) -> None:
        """Kill an engine that says nothing any more: stopped, dead-locked, or lost in a loop.

        Pings are counted, not seconds: when it was this process that stood still, one ping is late.
        """
        while True:
            self._send(Kind.PING, None)
            self._unanswered += 1
            await asyncio.sleep(PING_INTERVAL)
            if self._unanswered * PING_INTERVAL >= HUNG_AFTER:
                self._complain(f"the engine process gives no answer for {HUNG_AFTER:g} s: killing it")
                self._signal_group(signal.SIGKILL)

    async def _kill(self) -> None:
        """Make sure that nothing is left of the engine and of its workers."""
        process = self._process
        if process is None:
            return
        self._signal_group(signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        with anyio.CancelScope(shield=True):
            await process.wait()
            workers, self._workers = self._workers, ()
            if not await end_groups(workers):
                logger.error("workers of the engine that died do not end: their jobs may run twice")

    def _signal_group(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _send(self, kind: Kind, content: object) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            with suppress(ConnectionError, RuntimeError):
                process.stdin.write(pack_json(kind, content))

    def _enter(self, state: EngineState) -> None:
        if self._stopping and state not in ("stopping", "none"):
            return
        if self._state != state:
            self._state, self.since = state, utc_now()

    def _complain(self, text: str) -> None:
        """An ERROR for each thing that is wrong: whoever is woken by it need not read it a hundred times."""
        logger.log(logging.DEBUG if text in self._complaints else logging.ERROR, "%s", text)
        self._complaints.add(text)

    def _orders(self, predecessor: str | None) -> dict[str, Any]:
        settings = self._settings.to_json()
        settings["modules"] = list(self._modules())
        return {
            "settings": settings,
            "path": import_path(),
            "script": {"name": self._script.name, "path": self._script.path} if self._script else None,
            "predecessor": predecessor,
            "parent": os.getpid(),
        }


def _environment() -> dict[str, str]:
    """Ours, and the way to this very package when it is not an installed one."""
    root = str(Path(sidequest.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    if root not in map(os.path.realpath, installed):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return environment


def import_path() -> list[str]:
    """Where this process finds modules, for processes that may have another working directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]
