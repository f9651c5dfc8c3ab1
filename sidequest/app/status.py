"""APP PROCESS. `await sq.status()`: the client, the engine, the database and the way between them.

It answers within seconds whatever is broken, because it is asked when something is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sidequest.app.engine_process import EngineProcess, EngineState
from sidequest.app.hosting import Hosting
from sidequest.backends.announcer import Road
from sidequest.backends.base import Backend, EngineRecord
from sidequest.clock import monotonic
from sidequest.errors import SidequestError
from sidequest.wire.vitals import Vitals

logger = logging.getLogger(__name__)
ENGINE_PATIENCE = 1.0
"""Seconds that an engine may take to give its numbers."""
DATABASE_PATIENCE = 2.0
"""Seconds that the database may take to answer."""


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """This process."""

    pid: int
    mode: str
    """The setting `engine`: `auto`, `process`, `inline` or `off`."""
    role: Literal["owner", "client", "inline", "off"]
    """`owner`: it keeps an engine process. `client`: another process of this app keeps it, and this
    one takes over when that one ends. `inline`: jobs run in its event loop. `off`: it only enqueues."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine that runs this app's jobs on this host, as far as this process knows."""

    state: EngineState | Literal["elsewhere"]
    """`elsewhere`: another process keeps it. `none`: there is none; a client will start one in a moment."""
    id: str | None = None
    pid: int | None = None
    since: datetime | None = None
    """Since when it has been in this state, if it is this process's."""
    restarts: int = 0
    """How many engines of this process have died and been replaced."""
    running_jobs: int | None = None
    """Jobs in workers. This and what follows is None unless the engine is this process's, and answers."""
    held_jobs: int | None = None
    """Jobs that are running, or claimed and about to."""
    outbox: int | None = None
    """Changes of jobs that it has not written to the database yet."""
    workers: int | None = None
    claiming: bool | None = None
    """Whether it takes more jobs at the moment."""
    not_claiming: str | None = None
    """Why it does not."""


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """The database, as this process reaches it."""

    url: str
    """Without a password."""
    reachable: bool
    round_trip: timedelta | None = None
    """How long one small question and its answer took."""
    error: str | None = None
    """Why it cannot be reached."""
    engines: int | None = None
    """Engines that are registered in it, on all hosts."""


@dataclass(frozen=True, slots=True)
class WakeUpStatus:
    """How an engine hears of a job that this process enqueues."""

    road: Literal["inline", "pipe", "socket", "database", "poll"]
    """The nearest one that is open. `poll`: nobody can be called; engines find the job by looking."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a Sidequest is at one moment."""

    client: ClientStatus
    engine: EngineStatus
    database: DatabaseStatus
    wake_up: WakeUpStatus


class Probe:
    """Asks the database one small question at a time. `run` must be owned by somebody's task group."""

    def __init__(self, store: Backend) -> None:
        self._store = store
        self._asked = asyncio.Event()
        self._answer: asyncio.Future[DatabaseStatus] | None = None

    async def ask(self, within: float) -> DatabaseStatus:
        """How the database is. A question that was not answered in time goes on, and is not asked again meanwhile."""
        if self._answer is None or self._answer.done():
            self._answer = asyncio.get_running_loop().create_future()
            self._asked.set()
        answer = self._answer
        await asyncio.wait([answer], timeout=within)
        if answer.done() and not answer.cancelled():
            return answer.result()
        return DatabaseStatus(self._store.url.shown, reachable=False, error=f"no answer within {within:g} s")

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            status = await self._look()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(status)

    async def _look(self) -> DatabaseStatus:
        url, began = self._store.url.shown, monotonic()
        try:
            engines: Sequence[EngineRecord] = await self._store.list_engines()
        except SidequestError as error:
            return DatabaseStatus(url, reachable=False, error=str(error))
        except Exception as error:  # a driver's error that nobody has met: the one who asks must see it, not die of it
            logger.exception("looking at the database failed")
            return DatabaseStatus(url, reachable=False, error=f"{type(error).__name__}: {error}")
        return DatabaseStatus(url, reachable=True, round_trip=timedelta(seconds=monotonic() - began), engines=len(engines))


def client_status(mode: str, hosting: Hosting | None) -> ClientStatus:
    if hosting is not None:
        return ClientStatus(os.getpid(), mode, hosting.role)
    return ClientStatus(os.getpid(), mode, "inline" if mode == "inline" else "off")


async def engine_status(hosting: Hosting | None) -> EngineStatus:
    """The engine that this process keeps, or that another one of this host keeps for it."""
    if hosting is None:
        return EngineStatus("none")
    if hosting.role == "client":
        assert hosting.lock is not None
        note = hosting.lock.read()
        return EngineStatus("elsewhere", note.get("engine"), note.get("engine_pid")) if note else EngineStatus("none")
    return await _own(hosting.engine)


def inline_status(id: str, vitals: Vitals, since: datetime) -> EngineStatus:
    return _with_vitals("running", id, os.getpid(), since, 0, vitals)


def wake_up_status(mode: str, road: Road) -> WakeUpStatus:
    return WakeUpStatus("inline" if mode == "inline" else road)


async def _own(engine: EngineProcess) -> EngineStatus:
    alive = engine.state in ("running", "hung", "stopping")
    vitals = await engine.vitals(ENGINE_PATIENCE) if alive else None
    id, pid = (engine.engine_id, engine.pid) if alive else (None, None)
    if vitals is None:
        return EngineStatus(engine.state, id, pid, engine.since, engine.restarts)
    return _with_vitals(engine.state, id, pid, engine.since, engine.restarts, vitals)


def _with_vitals(
    state: EngineState,
    id: str | None, pid: int | None, since: datetime, restarts: int, vitals: Vitals,
) -> EngineStatus:  # fmt: skip
    return EngineStatus(
        state, id, pid, since, restarts, vitals.running, vitals.held, vitals.outbox, vitals.workers,
        vitals.not_claiming is None, vitals.not_claiming,
    )  # fmt: skip
