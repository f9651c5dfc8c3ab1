"""Stand-ins for what surrounds the engine's parts: a store in memory, a worker that does as it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sidequest.backends.base import NOWHERE, Backend, EngineRecord, Home, Look, QueueLook, WorkerGroup
from sidequest.config import DatabaseURL
from sidequest.engine.lane import Held, Lane
from sidequest.engine.worker_process import Death
from sidequest.errors import BackendUnavailable
from sidequest.jobs.outcome import Completed, Outcome
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobEnd, JobRecord
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from sidequest.wire.frames import Kind, Splitter, pack, pack_json
from sidequest.wire.messages import End, pack_ids, pack_progress, pack_started, read_halt, read_next, read_run
from sidequest.wire.unsent import left_in, make_memory
from sidequest.worker.ends import Ends

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RETURNED = Completed(None)
DEAD_PID = 2**22 + 1
"""Beyond the highest number that a process can have."""


def claimed(id: int = 1, **changes: Any) -> ClaimedJob:
    """A job as a claim returns it."""
    job = ClaimedJob(
        id=id, lease="lease-1", name="shop:send", queue="mail", args="{}", attempt=1, max_attempts=5, timeout_ms=None,
        kill_grace_ms=None, backoff="exponential", retry_delay_ms=1_000, isolated=False, tags=None, meta=None, errors=None,
        interrupts=0, crashes=0, snoozes=0, enqueued_us=0,
    )  # fmt: skip
    return job._replace(**changes)


def stored(id: int = 1, state: State = State.RUNNING, **changes: Any) -> JobRecord:
    """A job as the store returns it."""
    values: dict[str, Any] = {
        "id": id, "name": "shop:send", "queue": "mail", "state": state, "priority": 0, "available_at": NOW, "attempt": 1,
        "max_attempts": 5, "timeout": None, "kill_grace": None, "backoff": "exponential", "retry_delay": timedelta(seconds=1),
        "isolated": False, "tags": (), "engine": "engine-1", "lease": "lease-1", "inserted_at": NOW, "claimed_at": None,
        "started_at": None, "finished_at": None, "cancel_requested_at": None, "interrupts": 0, "crashes": 0, "snoozes": 0,
        "progress": None, "args_json": "{}", "meta_json": None, "result_json": None, "errors_json": None,
    }  # fmt: skip
    return JobRecord(**values | changes)


class FakeStore:
    """A store that answers from its attributes and remembers what it was asked."""

    def __init__(self) -> None:
        self.away = False
        """Every call raises BackendUnavailable."""
        self.calls: list[str] = []
        self.applied: list[Sequence[Change]] = []
        self.refuse: frozenset[int] = frozenset()
        self.unfit: object = None
        """A result that no column takes."""
        self.progress: list[tuple[int, str, str]] = []
        self.claims: list[Mapping[str, int]] = []
        self.waiting: list[ClaimedJob] = []
        self.queues: list[QueueLook] = []
        self.due_in: timedelta | None = None
        self.due_batches = 1
        """Promotions until nothing is due any more."""
        self.locked = False
        """Somebody else holds the rows that are due."""
        self.held: dict[str, list[ClaimedJob]] = {}
        self.records: dict[int, JobRecord] = {}
        self.beats: dict[str, int] = {}
        self.given_up: dict[str, str] = {}
        """The engines that were given up, and by whom."""
        self.homes: dict[str, Home] = {}
        self.workers: dict[str, tuple[WorkerGroup, ...]] = {}
        self.locked_rows: set[int] = set()
        """Jobs that somebody else's transaction holds."""
        self.error: Exception | None = None
        """What calls raise while the database is away, in place of BackendUnavailable."""
        self.finished: dict[int, JobEnd] = {}
        self.hold: asyncio.Event | None = None
        """While it is not set, answers are on their way."""
        self.url = DatabaseURL.parse("sqlite:///shop.db")

    @property
    def backend(self) -> Backend:
        return cast("Backend", self)

    def now(self) -> datetime:
        return NOW

    def ahead(self) -> timedelta:
        return timedelta(0)

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.hold is not None:
            await self.hold.wait()
        if self.away:
            raise self.error or BackendUnavailable("the database is away")

    async def apply(self, changes: Sequence[Change], *, skip_locked: bool = False) -> frozenset[int]:
        await self._answer("apply")
        if any(change.columns.get("result") == self.unfit is not None for change in changes):
            raise ValueError("the database does not take this")
        refuse = self.refuse | self.locked_rows if skip_locked else self.refuse
        self.applied.append([change for change in changes if change.id not in refuse - self.refuse])
        gone = {change.id for change in changes} - refuse
        self.held = {engine: [job for job in jobs if job.id not in gone] for engine, jobs in self.held.items()}
        return refuse & {change.id for change in changes}

    async def save_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        await self._answer("save_progress")
        self.progress.extend(reports)

    async def announce(self) -> None:
        """As on SQLite: there is nobody to tell."""

    async def listen(self, heard: Callable[[], None]) -> None:
        """As on SQLite: there is nothing to hear."""

    async def cancel_requests(self, engine: str) -> Sequence[int]:
        await self._answer("cancel_requests")
        return []

    async def save_queues(self, queues: Iterable[QueueRecord]) -> None:
        await self._answer("save_queues")

    async def delete_finished(
        self, completed_before: datetime, failed_before: datetime, after: int, window: int
    ) -> tuple[int, int | None]:
        await self._answer("delete_finished")
        return 0, None

    async def look(self) -> Look:
        await self._answer("look")
        waiting = {job.queue for job in self.waiting}
        return Look([QueueLook(queue, ready or queue.name in waiting) for queue, ready in self.queues], self.due_in)

    async def promote(self, limit: int) -> int:
        await self._answer("promote")
        self.due_batches -= not self.locked
        if self.due_batches == 0:
            self.due_in = None
        return int(not self.locked)

    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        await self._answer("claim")
        self.claims.append(dict(rooms))
        taken: list[ClaimedJob] = []
        for queue, room in rooms.items():
            taken += [job for job in self.waiting if job.queue == queue][:room]
        self.waiting = [job for job in self.waiting if job not in taken]
        return taken

    async def register_engine(self, id: str, host: str, pid: int, version: str, queues: str, home: Home = NOWHERE) -> None:
        await self._answer("register_engine")
        self.beats[id] = 0

    async def beat(self, id: str, workers: Sequence[WorkerGroup] = (), within: timedelta | None = None) -> bool:
        await self._answer("beat")
        if id not in self.beats or id in self.given_up:
            return False
        self.beats[id] += 1
        self.workers[id] = tuple(workers)
        return True

    async def give_up_engine(self, id: str, by: str, beat: int | None = None) -> bool:
        await self._answer("give_up_engine")
        if id in self.beats and beat in (None, self.beats[id]):
            self.given_up.setdefault(id, by)
        return id in self.given_up

    async def list_engines(self) -> Sequence[EngineRecord]:
        await self._answer("list_engines")
        return [
            EngineRecord(
                id, socket.gethostname(), DEAD_PID, "1", "*", NOW, NOW, beat, self.homes.get(id, NOWHERE),
                self.workers.get(id, ()), self.given_up.get(id),
            )
            for id, beat in self.beats.items()
        ]  # fmt: skip

    async def forget_engine(self, id: str) -> None:
        await self._answer("forget_engine")
        self.beats.pop(id, None)
        self.given_up.pop(id, None)

    async def held_by(self, engine: str, limit: int) -> Sequence[ClaimedJob]:
        await self._answer("held_by")
        return self.held.get(engine, [])[:limit]

    async def get(self, id: int) -> JobRecord | None:
        await self._answer("get")
        return self.records.get(id)

    async def get_many(self, ids: Iterable[int]) -> Sequence[JobRecord]:
        await self._answer("get_many")
        return [self.records[id] for id in ids if id in self.records]

    async def ends(self, ids: Iterable[int]) -> tuple[Sequence[JobEnd], frozenset[int]]:
        asked = sorted(ids)
        await self._answer(f"ends {asked}")
        missing = frozenset(id for id in asked if id not in self.finished and id not in self.records)
        return [self.finished[id] for id in asked if id in self.finished], missing


class FakeLink:
    """A worker that sends what the test tells it to send."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.frames: list[tuple[Kind, bytes]] = []
        """What the engine wrote."""
        self.kills: list[int | None] = []
        self.causes: list[str] = []
        self.word = (0, 0)
        self.step = 0
        self.dump = "Thread 1"
        self.dumps = 0
        self.immortal = False
        self.until_us = 0
        """How long the worker may trust its engine."""
        self._splitter = Splitter()
        self._memory = make_memory()
        self._ends = Ends(self.say, self._memory)
        self._death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._tell: Callable[[Kind, bytes], None] | None = None

    async def run(
        self, greeting: dict[str, Any], on_frame: Callable[[Kind, bytes], None], on_output: Callable[[bytes], None]
    ) -> Death:
        self._tell = on_frame
        self.print = on_output
        self.greeting = greeting
        return await self._death

    def write(self, frame: bytes) -> None:
        self.frames += self._splitter.feed(frame)

    def current(self) -> tuple[int, int]:
        return self.word

    def trust_until(self, until_us: int) -> None:
        self.until_us = until_us

    def steps(self) -> int:
        return self.step

    def unsent(self) -> bytes:
        return left_in(self._memory)

    async def stacks(self) -> str:
        self.dumps += 1
        return self.dump

    async def kill(self, for_job: int | None, cause: str = "") -> None:
        self.kills.append(for_job)
        self.causes.append(cause)
        if not self.immortal:
            self.die(-9, for_job, cause=cause)

    # What the test makes it do

    def say(self, frame: bytes) -> None:
        assert self._tell is not None
        for kind, payload in Splitter().feed(frame):
            self._tell(kind, payload)

    def hello(self, **kinds: bool) -> None:
        self.say(pack_json(Kind.HELLO, {"pid": self.pid, "kinds": {name: kinds[name] for name in kinds}}))

    def end(self, *ids: int, outcome: Outcome = RETURNED, took_us: int = 1_000_000) -> None:
        self.keep(*ids, outcome=outcome, took_us=took_us)
        self._ends.flush()

    def keep(self, *ids: int, outcome: Outcome = RETURNED, took_us: int = 1_000_000) -> None:
        """Jobs end, and the engine is not told."""
        for id in ids:
            self._ends.put(End(id, outcome, 1, 1 + took_us))

    def tell_and_die(self, exitcode: int) -> None:
        """The worker is killed when it has sent its ends, and not yet noted that it has."""
        left = left_in(self._memory)
        self.say(pack(Kind.ENDS, left))
        self.die(exitcode)

    def scribble(self) -> None:
        self._memory[:] = b"\x01" * len(self._memory)

    def started(self, id: int, us: int) -> None:
        self.say(pack_started([(id, us)]))

    def returned(self, *ids: int) -> None:
        self.say(pack_ids(Kind.RETURNED, ids))

    def progress(self, id: int, progress: Any) -> None:
        self.say(pack_progress(id, progress))

    def die(self, exitcode: int | None, killed_for: int | None = None, stacks: str = "", cause: str = "") -> None:
        if not self._death.done():
            self._death.set_result(Death(exitcode, killed_for, stacks, cause))

    # What the engine told it

    @property
    def ran(self) -> list[int]:
        return [id for ids in self.runs for id in ids]

    @property
    def runs(self) -> list[list[int]]:
        """The jobs in each frame that brought some."""
        read = {Kind.RUN: read_run, Kind.NEXT: lambda payload: read_next(payload)[1]}
        return [[attempt.id for attempt in read[kind](payload)] for kind, payload in self.frames if kind in read]

    @property
    def role(self) -> str | None:
        return next((payload.decode() for kind, payload in self.frames if kind is Kind.ROLE), None)

    @property
    def halted(self) -> list[tuple[int, int]]:
        return [read_halt(payload) for kind, payload in self.frames if kind is Kind.HALT]

    def told(self, kind: Kind) -> int:
        return sum(1 for said, _ in self.frames if said is kind)


class FakeFloor:
    """Remembers what happened in the lanes."""

    def __init__(self) -> None:
        self.ended: dict[int, Outcome] = {}
        self.running: list[int] = []
        self.reports: list[tuple[int, str]] = []
        self.requests: list[dict[str, Any]] = []
        self.freed = 0

    def jobs_ended(self, ended: Sequence[tuple[Held, End]]) -> None:
        for held, end in ended:
            assert held.job.id not in self.ended, f"job {held.job.id} ended twice"
            self.ended[held.job.id] = end.outcome

    def job_running(self, held: Held) -> None:
        self.running.append(held.job.id)

    def job_progress(self, held: Held, text: str) -> None:
        self.reports.append((held.job.id, text))

    def room_freed(self) -> None:
        self.freed += 1

    def workers_changed(self, pids: Sequence[int]) -> None:
        pass

    def worker_request(self, lane: Lane, request: dict[str, Any]) -> None:
        self.requests.append(request)


def look(name: str, ready: bool = True, **settings: Any) -> QueueLook:
    return QueueLook(replace(QueueRecord(name), **settings), ready)
