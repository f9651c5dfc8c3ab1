"""ENGINE PROCESS. One lane: a place where jobs run, the jobs that are in it, and what it tells us."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidequest import failpoints
from sidequest.clock import monotonic
from sidequest.engine.output import OutputLog
from sidequest.engine.worker_process import Death, Link
from sidequest.jobs.record import ClaimedJob
from sidequest.wire.frames import BrokenFrame, Kind, pack, read_json, read_object
from sidequest.wire.messages import (
    End,
    Role,
    StopReason,
    pack_halt,
    pack_ids,
    pack_next,
    pack_run,
    read_ends,
    read_ids,
    read_progress,
    read_spoiled,
    read_started,
)

STACK_WAIT = 2.0
"""Seconds in which a worker that is not held up tells where a job is."""


@dataclass(slots=True, eq=False)
class Held:
    """A job that this engine holds, from its claim until its end is on its way to the store."""

    job: ClaimedJob
    started_us: int = 0
    """When user code began, in µs since 1970, as far as the engine knows; 0: not known to have begun."""
    told_running: bool = False
    stop: StopReason | None = None
    stop_by: float = 0.0
    """When its worker is killed (monotonic), should the job not stop by itself."""
    role: Role = Role.SYNC
    lane: Lane | None = None
    lost: bool = False
    """Somebody else has it now: it is being stopped, and what comes of it is dropped."""


class LaneOwner(Protocol):
    """Who is told what happens in a lane."""

    def lane_ready(self, lane: Lane, kinds: dict[str, bool]) -> None: ...

    def lane_ends(self, lane: Lane, ends: Iterable[End]) -> None: ...

    def lane_started(self, started: Iterable[tuple[int, int]]) -> None: ...

    def lane_returned(self, lane: Lane, ids: Iterable[int]) -> None: ...

    def lane_spoiled(self, lane: Lane, ids: Sequence[int], found: Sequence[str]) -> None: ...

    def lane_progress(self, id: int, text: str) -> None: ...

    def lane_request(self, lane: Lane, request: dict[str, Any]) -> None: ...


@dataclass(slots=True, eq=False)
class Lane:
    """Jobs go in with `send`; what comes out goes to the owner. `run` is the lane's whole life."""

    owner: LaneOwner
    link: Link
    role: Role | None = None
    """None until the first job makes it a lane for sync or for async jobs."""
    jobs: dict[int, Held] = field(default_factory=dict[int, Held])
    """What was sent and has not ended, in order."""
    exclusive: bool = False
    """It runs one isolated job and takes no other."""
    ready: bool = False
    retiring: bool = False
    """It has had its share of jobs, or has been spoiled: it takes no more, and closes when those in it have ended."""
    blocked: bool = False
    """One step of an async job lasts, and nothing else in it moves: it takes no job for now."""
    step: tuple[int, int] = (0, 0)
    """The async job that was being stepped at the last look, and the count of its steps."""
    step_since: float = 0.0
    """When that step was seen first (monotonic)."""
    closing: bool = False
    served: int = 0
    since: float = field(default_factory=monotonic)
    """When it started, was given a first job, last ended one, or began to close (monotonic)."""
    since_hello: float | None = None
    """When its worker first said that it is ready; None: it has not come so far."""
    start_took: float = 0.0
    """Seconds until then."""
    loading: str = ""
    """The module that its worker began to import last, before it said hello."""
    recalled: bool = False
    _asked: dict[int, asyncio.Future[str]] = field(default_factory=dict[int, "asyncio.Future[str]"])
    """Jobs whose stack somebody waits for."""
    _output: OutputLog | None = None
    _ends_known: int = 0
    _kept_back: bytes = b""
    """The ends that its worker had not sent at the last look."""
    behind: dict[str, int] = field(default_factory=dict[str, int])
    """For each queue how many of its jobs here wait for the end of another one, and take no slot until then."""
    _starting: list[ClaimedJob] = field(default_factory=list[ClaimedJob])
    _following: list[ClaimedJob] = field(default_factory=list[ClaimedJob])
    """What was put and not sent: to start at once, and behind others."""

    async def run(self, greeting: dict[str, Any]) -> Death:
        """Start the worker; return when it is gone, with everything it said delivered."""
        self._output = OutputLog(self._speaker, asyncio.get_running_loop().call_later)
        try:
            death = await self.link.run(greeting, self._receive, self._output.feed)
            with suppress(BrokenFrame):  # a job has written over it
                self._take_ends(self.link.unsent())
            return death
        finally:
            self._output.finish()
            self.ready = False
            self.closing = True

    @property
    def open(self) -> bool:
        """Whether it takes jobs."""
        return self.ready and not self.leaving and not self.exclusive and not self.blocked

    @property
    def leaving(self) -> bool:
        """Whether it will take no job any more."""
        return self.retiring or self.closing

    @property
    def waiting(self) -> int:
        """How many of its jobs wait for the end of another one."""
        return sum(self.behind.values())

    def put(self, held: Held, role: Role, *, behind: bool = False) -> None:
        """Take a job, to be sent with `flush`; a lane keeps the role of its first job."""
        if self.role is None:
            self.role = role
            self.link.write(pack(Kind.ROLE, role.value.encode()))
        if not self.jobs:
            self.since = monotonic()
        held.lane = self
        self.jobs[held.job.id] = held
        if behind:
            self.behind[held.job.queue] = self.behind.get(held.job.queue, 0) + 1
        (self._following if behind else self._starting).append(held.job)

    def flush(self) -> None:
        """Send what was put."""
        self.served += len(self._starting) + len(self._following)
        failpoints.hit("start.before_send")
        frames = pack_run(self._starting) if self._starting else b""
        if self._following:
            frames += pack_next(self._following, self._ends_known)
        self.link.write(frames)
        failpoints.hit("start.after_send")
        self._starting.clear()
        self._following.clear()

    def vacated(self, queue: str, gone: int) -> int:
        """So many jobs of this queue have left: how many slots that sets free, when those that wait have taken theirs."""
        followed = min(gone, self.behind.get(queue, 0))
        if followed:
            self.behind[queue] -= followed
        return gone - followed

    def halt(self, id: int, reason: StopReason) -> None:
        """Ask a running job to stop."""
        self.link.write(pack_halt(id, reason))

    async def stack(self, id: int) -> str:
        """Where a job is, as its worker tells it; empty when it does not answer in a moment."""
        answer = self._asked.get(id)
        if answer is None:
            answer = self._asked[id] = asyncio.get_running_loop().create_future()
            self.link.write(pack_ids(Kind.STACK, (id,)))
        try:
            async with asyncio.timeout(STACK_WAIT):
                return await asyncio.shield(answer)
        except TimeoutError:
            return ""
        finally:
            self._asked.pop(id, None)

    def recall(self) -> None:
        """Ask for the jobs that have not started."""
        self.recalled = True
        self.link.write(pack(Kind.RECALL))

    def close(self) -> None:
        """Let the worker end when it has nothing more to do. No jobs may be in it."""
        self.closing = True
        self.since = monotonic()
        self.link.write(pack(Kind.CLOSE))

    def take_late_ends(self) -> None:
        """Take what its worker has not sent, and had not at the last look: a later job keeps it from that."""
        before, self._kept_back = self._kept_back, self.link.unsent()
        if before and self._kept_back.startswith(before):
            with suppress(BrokenFrame):
                self._take_ends(before)

    def _take_ends(self, payload: bytes) -> None:
        ends, self._ends_known = read_ends(payload, self._ends_known)
        if ends:
            self.owner.lane_ends(self, ends)

    def _told_stack(self, told: dict[str, Any]) -> None:
        id = told.get("id")
        answer = self._asked.get(id) if isinstance(id, int) else None
        if answer is not None and not answer.done():
            answer.set_result(str(told.get("stack", "")))

    def _speaker(self) -> str:
        """Who has printed what comes now: the worker, and its job if there is but one."""
        job = next(iter(self.jobs.values())).job if len(self.jobs) == 1 else None
        return f"worker {self.link.pid}" if job is None else f"worker {self.link.pid}, job {job.id} ({job.name})"

    def _receive(self, kind: Kind, payload: bytes) -> None:
        if kind is not Kind.PROGRESS:  # which a job may report in the very step that blocks the loop
            self.blocked = False
        match kind:
            case Kind.ENDS:
                if self.role is Role.SYNC and self._output is not None:
                    self._output.end_line()
                self._take_ends(payload)
            case Kind.STARTED:
                self.owner.lane_started(read_started(payload))
            case Kind.PROGRESS:
                self.owner.lane_progress(*read_progress(payload))
            case Kind.REQUEST:
                self.owner.lane_request(self, read_object(payload))
            case Kind.LOADING:
                self.loading = payload.decode("utf-8", "replace")
            case Kind.SPOILED:
                self.owner.lane_spoiled(self, *read_spoiled(payload))
            case Kind.STACK_SEEN:
                self._told_stack(read_object(payload))
            case Kind.HELLO | Kind.CATALOGUE:
                self.ready = True
                self.owner.lane_ready(self, read_json(payload)["kinds"])
            case Kind.RETURNED:
                self.recalled = False
                self.owner.lane_returned(self, read_ids(payload))
            case _:
                pass
