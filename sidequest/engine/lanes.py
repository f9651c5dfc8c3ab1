"""ENGINE PROCESS. Which job runs where: the lanes, the claimed jobs that wait for one, and stops.

Async jobs share lanes; a sync job has its lane to itself while it runs, though several short ones
may queue in it; an isolated job has a lane that takes no other. A lane whose worker dies takes
along only what was running in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from sidequest.clock import epoch_us, monotonic
from sidequest.config import Settings
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held, Lane
from sidequest.engine.queue_scheduler import Load
from sidequest.engine.verdicts import Verdict, verdicts
from sidequest.engine.worker_process import Death, Link
from sidequest.jobs.outcome import Interrupted, JobError, Outcome, Released, Stopped
from sidequest.jobs.record import ClaimedJob
from sidequest.wire.frames import Kind, pack, pack_json
from sidequest.wire.messages import End, Role, StopReason

logger = logging.getLogger(__name__)
SHORT = 0.005
"""Jobs that take less than this may queue in a lane; seconds of work that may queue there."""
LONGEST_QUEUE = 16
CROWDED = 50
"""Async jobs in a lane from which on another lane is started."""
TOLD_AFTER_US = 25_000
STRANDED_AFTER_US = 50_000
START_WAITS = (0.1, 0.5, 1.0, 2.0, 5.0)
GIVE_UP_AFTER = 3
"""Workers that failed to start in a row before claimed jobs are given back."""
START_FAILED_WAIT = timedelta(seconds=30)


class Floor(Protocol):
    """What the engine does with what happens in lanes."""

    def job_ended(self, held: Held, outcome: Outcome, started_us: int, finished_us: int) -> None: ...

    def job_running(self, held: Held) -> None: ...

    def job_progress(self, held: Held, text: str) -> None: ...

    def room_freed(self) -> None: ...

    def workers_changed(self, pids: Sequence[int]) -> None: ...

    def worker_request(self, lane: Lane, request: dict[str, Any]) -> None: ...


class Lanes:
    """All lanes of an engine. `accept` takes claimed jobs; their ends come out at the floor."""

    def __init__(
        self,
        settings: Settings,
        floor: Floor,
        errands: Errands,
        make_link: Callable[[], Link],
        greeting: dict[str, Any],
        concurrency: Callable[[str], int],
    ) -> None:
        self.loads: dict[str, Load] = {}
        self.held: dict[int, Held] = {}
        """Every job that this engine has claimed and whose end it does not know yet."""
        self.idle, self.gone = asyncio.Event(), asyncio.Event()
        """Set while no job is in any lane; while there is no lane."""
        self.idle.set()
        self.gone.set()
        self._settings = settings
        self._floor = floor
        self._errands = errands
        self._make_link = make_link
        self._greeting = greeting
        self._concurrency = concurrency
        self._lanes: list[Lane] = []
        self._backlog: dict[tuple[str, Role], deque[Held]] = {}
        self._kinds: dict[str, bool] = {}
        self._means: dict[str, float] = {}
        self._bounded: dict[int, Held] = {}
        self._running = 0
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._stopping = False
        self._pump_is_due = False
        self._loop = asyncio.get_running_loop()

    # What comes in

    def accept(self, jobs: Iterable[ClaimedJob]) -> None:
        """Claimed jobs: they start as soon as a lane and their queue's concurrency allow."""
        for job in jobs:
            held = Held(job, role=self._role(job))
            self._shelve(held)
            if self._kinds:
                load = self.loads[job.queue]
                load.sync_share += 0.2 * ((held.role is Role.SYNC) - load.sync_share)
        self.pump()

    def warm_up(self) -> None:
        """Start the workers that are kept in any case."""
        for _ in range(self._settings.min_workers - len(self._lanes)):
            self._start_lane()

    def learn(self, modules: Sequence[str]) -> None:
        """The app has defined jobs in more modules, perhaps in new places of `sys.path`."""
        self._greeting["modules"] = list(dict.fromkeys([*self._greeting["modules"], *modules]))
        for lane in self._lanes:
            lane.link.write(pack_json(Kind.MODULES, {"modules": list(modules), "path": sys.path}))

    def slots(self, queue: str) -> int:
        """How many more jobs of this queue could start at once as far as workers go.

        Which kind a job is shows when it is claimed; so this goes by the kinds of the queue's last
        jobs, and even when no worker is free it lets one in: it may be async.
        """
        if self._failed_starts >= GIVE_UP_AFTER:
            return 0
        load = self.loads.get(queue)
        if load is None or load.sync_share < 0.05:
            return self._settings.max_concurrent_jobs
        idle = sum(1 for lane in self._lanes if not lane.closing and not lane.jobs and lane.role is not Role.ASYNC)
        free = idle + max(0, self._settings.max_workers - self._alive())
        return max(int(free / load.sync_share), 0 if load.backlog else 1)

    # Placing

    def pump(self) -> None:
        """Give waiting jobs to lanes, and start lanes for those that find none."""
        if self._stopping:
            return
        touched: dict[int, Lane] = {}
        for (queue, role), waiting in self._backlog.items():
            while waiting:
                lane = self._place(queue, role, waiting[0])
                if lane is None:
                    break
                held = waiting.popleft()
                self.loads[queue].backlog -= 1
                self._put(lane, held, role)
                touched[id(lane)] = lane
        for lane in touched.values():
            lane.flush()
        self._start_missing_lanes()

    def _pump_and_tell(self) -> None:
        self._pump_is_due = False
        self.pump()
        self._floor.room_freed()

    def _place(self, queue: str, role: Role, held: Held) -> Lane | None:
        """The lane for this job, its slot taken; None when it has to wait."""
        load = self.loads[queue]
        may_start = load.running < self._concurrency(queue) and self._running < self._settings.max_concurrent_jobs
        if role is Role.SYNC:
            lane = self._idle_lane(Role.SYNC) if may_start else None
            if lane is None:
                return self._queueing_lane(queue, held)
        elif not may_start:
            return None
        else:
            lane = self._idle_lane(Role.ASYNC) if held.job.isolated else self._shared_lane()
        if lane is not None:
            load.running += 1
            self._running += 1
            self.idle.clear()
        return lane

    def _put(self, lane: Lane, held: Held, role: Role) -> None:
        lane.put(held, role)
        lane.exclusive = held.job.isolated and role is Role.ASYNC
        if held.job.timeout_ms is not None:
            self._bounded[held.job.id] = held

    def _idle_lane(self, role: Role) -> Lane | None:
        blank = None
        for lane in self._lanes:
            if lane.open and not lane.jobs:
                if lane.role is role:
                    return lane
                if lane.role is None:
                    blank = blank or lane
        return blank if self._count(role) < self._settings.max_workers else None

    def _shared_lane(self) -> Lane | None:
        shared = [lane for lane in self._lanes if lane.open and lane.role is Role.ASYNC]
        return min(shared, key=lambda lane: len(lane.jobs)) if shared else self._idle_lane(Role.ASYNC)

    def _queueing_lane(self, queue: str, held: Held) -> Lane | None:
        """A lane where this job is over soon after its turn comes, if it is known to be short."""
        mean = self._means.get(held.job.name)
        if mean is None or mean > SHORT:
            return None
        most = max(1, min(LONGEST_QUEUE, int(SHORT / max(mean, 1e-6))))
        for lane in self._lanes:
            if lane.open and lane.role is Role.SYNC and not lane.recalled and lane.has_room(most):
                first = next(iter(lane.jobs.values()))
                if first.job.queue == queue and self._means.get(first.job.name, SHORT) < SHORT:
                    return lane
        return None

    def _shelve(self, held: Held, *, first: bool = False) -> None:
        if self._stopping:
            self._end(held, Released(), 0, epoch_us())
            return
        queue = held.job.queue
        held.lane = None
        self.held[held.job.id] = held
        self.loads.setdefault(queue, Load()).backlog += 1
        waiting = self._backlog.setdefault((queue, held.role), deque())
        (waiting.appendleft if first else waiting.append)(held)

    # Starting and ending workers

    def _start_missing_lanes(self) -> None:
        starting = sum(1 for lane in self._lanes if not lane.ready and not lane.closing)
        missing = min(self._wanted_lanes(), self._settings.max_workers - self._alive() + starting)
        if missing <= 0 and self._starved():
            missing = 1
        for _ in range(missing - starting):
            self._start_lane()

    def _wanted_lanes(self) -> int:
        """How many more lanes the waiting jobs could use."""
        wanted = 0
        for (queue, role), waiting in self._backlog.items():
            if not waiting:
                continue
            free = max(0, self._concurrency(queue) - self.loads[queue].running)
            if role is Role.SYNC:
                enough = self._is_short(waiting[0]) and self._count(Role.SYNC) >= (os.cpu_count() or 1)
                wanted += 0 if enough else min(len(waiting), free)
            else:
                wanted += min(1, free) if not waiting[0].job.isolated else min(len(waiting), free)
        shared = [lane for lane in self._lanes if lane.open and lane.role is Role.ASYNC]
        return wanted + (1 if shared and all(len(lane.jobs) >= CROWDED for lane in shared) else 0)

    def _starved(self) -> bool:
        """Whether all workers are of one kind while a job of the other kind waits."""
        starting = any(not lane.ready and not lane.closing for lane in self._lanes)
        return not starting and any(
            waiting and self._count(role) == 0 and self._alive() <= self._settings.max_workers
            for (_, role), waiting in self._backlog.items()
        )

    def _start_lane(self) -> None:
        if self._stopping or monotonic() < self._start_not_before:
            return
        lane = Lane(self, self._make_link())
        self._lanes.append(lane)
        self.gone.clear()
        self._errands.start(self._live, lane)

    async def _live(self, lane: Lane) -> None:
        try:
            death = await lane.run(self._greeting)
        finally:
            self._lanes.remove(lane)
            if not self._lanes:
                self.gone.set()
            self._floor.workers_changed([lane.link.pid for lane in self._lanes])
        self._buried(lane, death)

    def _buried(self, lane: Lane, death: Death) -> None:
        if lane.jobs:
            logger.warning("worker %d: %s, with %d jobs in it", lane.link.pid, death.describe(), len(lane.jobs))
        current = self.held.get(lane.link.current()[0])
        for held, verdict in verdicts(list(lane.jobs.values()), current, lane.role, death):
            self._leave(lane, held)
            self._judge(held, verdict)
        if lane.since_hello is None and not self._stopping:
            self._start_failed(death)
        self.pump()
        if not self._stopping:
            self.warm_up()
        self._floor.room_freed()

    def _start_failed(self, death: Death) -> None:
        self._failed_starts += 1
        pause = START_WAITS[min(self._failed_starts, len(START_WAITS)) - 1]
        self._start_not_before = monotonic() + pause
        logger.error("a worker did not start: %s; next try in %g s", death.describe(), pause)
        if self._failed_starts >= GIVE_UP_AFTER:
            error = JobError("import", "WorkerStartFailed", f"no worker could start: {death.describe()}")
            self.release_backlog(error)

    def _judge(self, held: Held, verdict: Verdict) -> None:
        if verdict is None:
            self._shelve(held, first=True)
        else:
            self._end(held, verdict, held.started_us, epoch_us())

    # What lanes say

    def lane_ready(self, lane: Lane, kinds: dict[str, bool]) -> None:
        self._kinds |= kinds
        if lane.since_hello is None:
            lane.since_hello = monotonic()
            self._failed_starts = 0
            self._sort_out_backlog()
        self._floor.workers_changed([lane.link.pid for lane in self._lanes])
        self.pump()
        self._floor.room_freed()

    def lane_ends(self, lane: Lane, ends: Iterable[End]) -> None:
        now = monotonic()
        for end in ends:
            held = lane.jobs.get(end.id)
            if held is None:
                logger.warning("worker %d ended job %d, which was not in it", lane.link.pid, end.id)
                continue
            self._leave(lane, held)
            self._measure(held.job, (end.finished_us - end.started_us) / 1_000_000, now)
            self._end(held, end.outcome, end.started_us, end.finished_us)
        lane.since = now
        if not lane.jobs:
            lane.exclusive = False
            if lane.served >= self._settings.max_jobs_per_worker and not lane.closing:
                lane.close()
        if not self._pump_is_due:  # one pump for all frames that came in one read
            self._pump_is_due = True
            self._loop.call_soon(self._pump_and_tell)

    def lane_started(self, started: Iterable[tuple[int, int]]) -> None:
        for id, started_us in started:
            held = self.held.get(id)
            if held is not None and held.lane is not None:
                held.started_us = started_us
                self._tell_running(held)

    def lane_returned(self, lane: Lane, ids: Iterable[int]) -> None:
        for id in reversed(list(ids)):
            held = lane.jobs.get(id)
            if held is None:
                continue
            self._leave(lane, held)
            if held.stop is None:
                self._shelve(held, first=True)
            else:
                self._end_unstarted(held, held.stop)
        self.pump()

    def lane_progress(self, id: int, text: str) -> None:
        held = self.held.get(id)
        if held is not None:
            self._floor.job_progress(held, text)

    def lane_request(self, lane: Lane, request: dict[str, Any]) -> None:
        self._floor.worker_request(lane, request)

    # Stopping jobs

    def halt(self, id: int, reason: StopReason, grace: float | None = None) -> None:
        """Make a job stop: at once if it has not started, else by asking, and by killing after `grace`."""
        held = self.held.get(id)
        if held is None or held.stop is not None:
            return
        held.stop = reason
        lane = held.lane
        if lane is None:
            self._unshelve(held)
            self._end_unstarted(held, reason)
            return
        held.stop_by = monotonic() + (self._grace(held) if grace is None else grace)
        self._bounded[id] = held
        lane.recall()
        lane.halt(id, reason)

    def look(self) -> None:
        """One look: who runs since when, who is over time, which worker is idle."""
        now, now_us = monotonic(), epoch_us()
        for lane in list(self._lanes):
            if lane.jobs:
                self._look_into(lane, now_us)
            elif not lane.ready and not lane.closing and now - lane.since > self._settings.worker_start_timeout.total_seconds():
                self._errands.start(lane.link.kill, 0)
            elif lane.ready and not lane.closing:
                self._retire_idle(lane, now)
        for held in list(self._bounded.values()):
            self._check_limits(held, now, now_us)

    @property
    def busy(self) -> bool:
        """Whether any lane has a job in it, or is starting."""
        return any(lane.jobs or not lane.ready for lane in self._lanes)

    def _look_into(self, lane: Lane, now_us: int) -> None:
        id, since_us = lane.link.current()
        held = lane.jobs.get(id)
        if held is None:
            return
        held.started_us = held.started_us or since_us or now_us
        if now_us - held.started_us >= TOLD_AFTER_US:
            self._tell_running(held)
        stranded = lane.role is Role.SYNC and len(lane.jobs) > 1 and not lane.recalled
        if stranded and now_us - held.started_us > STRANDED_AFTER_US:
            lane.recall()

    def _check_limits(self, held: Held, now: float, now_us: int) -> None:
        if held.lane is None:
            return
        if held.stop is not None:
            over = now >= held.stop_by
        else:
            limit = (held.job.timeout_ms or 0) / 1000 + self._grace(held)
            over = held.started_us > 0 and now_us - held.started_us > limit * 1_000_000
        if over:
            held.stop = held.stop or StopReason.TIMEOUT
            self._bounded.pop(held.job.id, None)
            logger.warning(
                "job %d does not stop (%s): killing its worker %d", held.job.id, held.stop.describe(), held.lane.link.pid
            )
            self._errands.start(held.lane.link.kill, held.job.id)

    def _retire_idle(self, lane: Lane, now: float) -> None:
        idle = now - lane.since > self._settings.worker_idle_timeout.total_seconds()
        if idle and self._alive() > max(self._settings.min_workers, 0):
            lane.close()

    def _grace(self, held: Held) -> float:
        own = held.job.kill_grace_ms
        return self._settings.kill_grace.total_seconds() if own is None else own / 1000

    def _tell_running(self, held: Held) -> None:
        if not held.told_running:
            held.told_running = True
            self._floor.job_running(held)

    # Ending

    def stop_placing(self) -> None:
        """The engine is stopping: nothing new starts, running jobs are told."""
        self._stopping = True
        for lane in self._lanes:
            lane.link.write(pack(Kind.SHUTTING_DOWN))

    def release_backlog(self, error: JobError | None = None) -> None:
        """Give back what was claimed and has not started."""
        delay = START_FAILED_WAIT if error else timedelta(0)
        for waiting in self._backlog.values():
            while waiting:
                held = waiting.popleft()
                self.loads[held.job.queue].backlog -= 1
                self._end(held, Released(delay, error), 0, epoch_us())

    def abandon(self) -> None:
        """What is still in hand when all waiting is over goes back; inline jobs cannot be killed."""
        self.release_backlog()
        error = JobError("interrupt", "EngineStopped", StopReason.SHUTDOWN.describe())
        for lane in self._lanes:
            for held in list(lane.jobs.values()):
                self._leave(lane, held)
                self._end(held, Interrupted(error), held.started_us, epoch_us())

    def recall_all(self) -> None:
        for lane in self._lanes:
            if lane.role is Role.SYNC and len(lane.jobs) > 1:
                lane.recall()

    def running(self) -> list[int]:
        """The jobs that are in lanes."""
        return [id for lane in self._lanes for id in lane.jobs]

    def close_all(self) -> None:
        """Let the idle workers end; those with jobs in them are killed for no job's sake."""
        for lane in self._lanes:
            if lane.jobs or not lane.ready:
                self._errands.start(lane.link.kill, 0)
            elif not lane.closing:
                lane.close()

    def _end(self, held: Held, outcome: Outcome, started_us: int, finished_us: int) -> None:
        self.held.pop(held.job.id, None)
        self._bounded.pop(held.job.id, None)
        self._floor.job_ended(held, outcome, started_us, finished_us)

    def _end_unstarted(self, held: Held, reason: StopReason) -> None:
        self._end(held, Stopped() if reason is StopReason.CANCEL else Released(), 0, epoch_us())

    def _leave(self, lane: Lane, held: Held) -> None:
        """The job is no longer in the lane; its slot is free, or the lane's when that is empty."""
        del lane.jobs[held.job.id]
        held.lane = None
        if lane.role is Role.ASYNC or not lane.jobs:
            self.loads[held.job.queue].running -= 1
            self._running -= 1
            if not self._running:
                self.idle.set()

    def _unshelve(self, held: Held) -> None:
        self._backlog[held.job.queue, held.role].remove(held)
        self.loads[held.job.queue].backlog -= 1

    def _sort_out_backlog(self) -> None:
        """Jobs that were claimed before any worker could say what kind they are."""
        waiting = [held for backlog in self._backlog.values() for held in backlog]
        self._backlog.clear()
        for held in waiting:
            self.loads[held.job.queue].backlog -= 1
            held.role = self._role(held.job)
            self._shelve(held)

    def _role(self, job: ClaimedJob) -> Role:
        """Where the job runs; a job that no worker knows so far runs alone, and may turn out to be async."""
        return Role.ASYNC if self._kinds.get(job.name, False) else Role.SYNC

    def _measure(self, job: ClaimedJob, seconds: float, now: float) -> None:
        mean = self._means.get(job.name)
        self._means[job.name] = seconds if mean is None else mean + 0.1 * (seconds - mean)
        self.loads[job.queue].meter.ended(1, now)

    def _is_short(self, held: Held) -> bool:
        return self._means.get(held.job.name, 1.0) <= SHORT

    def _alive(self) -> int:
        return sum(1 for lane in self._lanes if not lane.closing)

    def _count(self, role: Role) -> int:
        return sum(1 for lane in self._lanes if not lane.closing and lane.role is role)
