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
from pathlib import Path
from random import Random
from typing import Any

import anyio

import sidequest
from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.errors import EngineStartError
from sidequest.jobs.naming import Script
from sidequest.wire.frames import Kind, Splitter, pack_json, read_json

logger = logging.getLogger(__name__)
RESTART_WAITS = (0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
HEALTHY_AFTER = 60.0
"""Seconds of life after which an engine's death counts as a first one again."""
PING_INTERVAL = 5.0
HUNG_AFTER = 30.0
"""Seconds of silence after which an engine is killed."""
STOP_MARGIN = 8.0
"""Seconds beyond `shutdown_timeout` that a stopping engine gets before it is killed."""


class EngineProcess:
    """Keeps one engine running. `start` fails fast; `keep` restarts for ever; `stop` drains."""

    def __init__(
        self, settings: Settings, script: Script | None, modules: Callable[[], Sequence[str]], watched: Callable[[], list[int]],
        on_ended: Callable[[Sequence[int]], None],
    ) -> None:  # fmt: skip
        self.engine_id: str | None = None
        self.pid: int | None = None
        self.restarts = 0
        self._settings = settings
        self._script = script
        self._modules = modules
        self._watched = watched
        self._on_ended = on_ended
        self._directory = Path.cwd()  # a later engine must find a relative database where the first one did
        self._process: Process | None = None
        self._splitter = Splitter()
        self._workers: dict[int, str] = {}
        self._heard_at = 0.0
        self._stopping = False
        self._chance = Random()

    # Messages to the engine; lost when it is just being started again, which costs one poll

    def wake(self) -> None:
        self._send(Kind.WAKE, None)

    def look_for_cancels(self) -> None:
        self._send(Kind.CANCELS, None)

    def watch(self, ids: list[int]) -> None:
        self._send(Kind.WATCH, ids)

    def learn(self, modules: list[str]) -> None:
        self._send(Kind.MODULES, {"modules": modules, "path": _import_path()})

    # Life

    async def start(self, predecessor: str | None = None) -> None:
        """Start the engine and wait until it is ready.

        Raises EngineStartError with the child's own error, or when it takes longer than
        `start_timeout`; then no process is left.
        """
        self._splitter = Splitter()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "sidequest.engine",
            stdin=PIPE, stdout=PIPE, start_new_session=True, env=_environment(), cwd=self._directory,
        )  # fmt: skip
        try:
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
        self._heard_at = monotonic()
        self.watch(self._watched())

    async def keep(self) -> None:
        """Follow the engine's events; start a new one whenever it dies, until `stop`."""
        deaths = 0
        while True:
            born_at = monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ping)
                await self._follow()
                tasks.cancel_scope.cancel()
            await self._kill()
            if self._stopping:
                return
            deaths = 0 if monotonic() - born_at > HEALTHY_AFTER else deaths
            deaths = await self._restart(deaths)

    async def stop(self) -> None:
        """Let the engine drain; kill it when it takes too long. Idempotent."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        limit = self._settings.shutdown_timeout.total_seconds()
        self._send(Kind.STOP, limit)
        with anyio.move_on_after(limit + STOP_MARGIN):
            await process.wait()
        await self._kill()

    async def _restart(self, deaths: int) -> int:
        """A new engine, however many tries that takes; how many deaths there were in a row."""
        while not self._stopping:
            pause = RESTART_WAITS[min(deaths, len(RESTART_WAITS) - 1)] * self._chance.uniform(0.8, 1.2)
            code = self._process.returncode if self._process is not None else None
            logger.error("the engine process ended unexpectedly (exit code %s); starting a new one in %.1f s", code, pause)
            await asyncio.sleep(pause)
            deaths += 1
            self.restarts += 1
            try:
                await self.start(predecessor=self.engine_id)
            except EngineStartError as error:
                logger.error("%s", error)
            else:
                return deaths
        return deaths

    async def _answer(self) -> dict[str, Any]:
        """The first READY; EngineStartError for FAILED or an end without a word."""
        assert self._process is not None
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65_536):
            ready: dict[str, Any] | None = None
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
            if ready is not None:
                return ready
        code = await self._process.wait()
        raise EngineStartError(f"the engine process ended with exit code {code} before it was ready; its stderr says why")

    async def _follow(self) -> None:
        """Handle events until the engine's stdout ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65_536):
            for kind, payload in self._splitter.feed(data):
                self._handle(kind, payload)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        self._heard_at = monotonic()
        match kind:
            case Kind.ENDED:
                self._on_ended(read_json(payload))
            case Kind.READY:
                self.engine_id = read_json(payload)["engine"]  # others gave it up, and it goes on under another id
            case Kind.WORKERS:
                self._workers = {pid: _born(pid) for pid in read_json(payload)}
            case Kind.FAILED:
                failure = read_json(payload)
                logger.error("the engine failed: %s: %s\n%s", failure["type"], failure["message"], failure["trace"])
            case _:
                pass

    async def _ping(self) -> None:
        """Kill an engine that says nothing any more: stopped, dead-locked, or lost in a loop."""
        while True:
            await asyncio.sleep(PING_INTERVAL)
            self._send(Kind.PING, None)
            if monotonic() - self._heard_at > HUNG_AFTER + PING_INTERVAL:
                logger.error("the engine process %s gives no answer: killing it", self.pid)
                self._signal_group(signal.SIGKILL)

    async def _kill(self) -> None:
        """Make sure that nothing is left of the engine and of its workers."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self._signal_group(signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        with anyio.CancelScope(shield=True):
            await process.wait()
        for pid, born in self._workers.items():
            if born and _born(pid) == born:  # not another process that was given the same number
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self._workers = {}

    def _signal_group(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _send(self, kind: Kind, content: object) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            with suppress(ConnectionError, RuntimeError):
                process.stdin.write(pack_json(kind, content))

    def _orders(self, predecessor: str | None) -> dict[str, Any]:
        settings = self._settings.to_json()
        settings["modules"] = list(self._modules())
        return {
            "settings": settings,
            "path": _import_path(),
            "script": {"name": self._script.name, "path": self._script.path} if self._script else None,
            "predecessor": predecessor,
        }


def _environment() -> dict[str, str]:
    """Ours, and the way to this very package when it is not an installed one."""
    root = str(Path(sidequest.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    if root not in map(os.path.realpath, installed):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return environment


def _import_path() -> list[str]:
    """Where this process finds modules, for processes that may have another working directory."""
    return [str(Path(entry).absolute()) for entry in sys.path]


def _born(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty when that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
