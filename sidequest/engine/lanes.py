"""ENGINE PROCESS. Which job runs where: the lanes, the claimed jobs that wait for one, and stops.

Async jobs share lanes; a sync job has its lane to itself while it runs, though several short ones
may queue in it; an isolated job has a lane that takes no other. A lane whose worker dies takes
along only what was running in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from math import ceil
from typing import Any, Protocol

from sidequest.clock import epoch_us, monotonic
from sidequest.config import Settings
from sidequest.engine.crew import Crew
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Held, Lane
from sidequest.engine.queue_scheduler import Load
from sidequest.engine.stops import Stops
from sidequest.engine.verdicts import verdicts
from sidequest.engine.watchdog import Watchdog
from sidequest.engine.worker_process import Death, Link
from sidequest.jobs.outcome import Interrupted, JobError, Outcome, Released, Stopped
from sidequest.jobs.record import ClaimedJob
from sidequest.wire.messages import MOST_BEHIND, End, Role, StopReason

logger = logging.getLogger(__name__)
SHORT = 0.005
"""Jobs that take less than this may queue in a lane; seconds of work that may queue there."""
CROWDED = 50
"""Async jobs in a lane from which on another lane is started."""
MOST_SUSPECTS = 3
LATE = SHORT
"""Seconds between two looks for ends that a worker keeps back."""
TOLD_AFTER_US = 25_000
STRANDED_AFTER = 0.05
"""Seconds without an end after which what waits in a lane is called back."""
START_FAILED_WAIT = timedelta(seconds=30)


class Floor(Protocol):
    """What the engine does with what happens in lanes."""

    def jobs_ended(self, ended: Sequence[tuple[Held, End]]) -> None: ...

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
        self.idle, self.at_work = asyncio.Event(), asyncio.Event()
        """Set while no job is in any lane; while there is one."""
        self.idle.set()
        self.crew = Crew(settings, self, errands, make_link, greeting, floor.workers_changed, self.lane_died)
        self._settings = settings
        self._floor = floor
        self._concurrency = concurrency
        self._backlog: dict[tuple[str, Role], deque[Held]] = {}
        self._kinds: dict[str, bool] = {}
        self._means: dict[str, float] = {}
        self._stops = Stops(settings.kill_grace.total_seconds(), errands)
        self._watchdog = Watchdog(errands)
        self._running = 0
        self._stopping = False
        self.may_start: Callable[[], bool] = lambda: True
        """Whether claimed jobs may begin: not while it is unsure that they are still ours."""
        self._pump_is_due = self._late_look_is_due = False
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

    def slots(self, queue: str) -> int:
        """How many more jobs of this queue could start at once as far as workers go.

        Which kind a job is shows when it is claimed; so this goes by the kinds of the queue's last
        jobs, and even when no worker is free it lets one in: it may be async.
        """
        if self.crew.gave_up:
            return 0
        load = self.loads.get(queue)
        if load is None or load.sync_share < 0.05:
            return self._settings.max_concurrent_jobs
        idle = sum(1 for lane in self.crew if not lane.leaving and not lane.jobs and lane.role is not Role.ASYNC)
        free = idle + self.crew.room
        return max(int(free / load.sync_share), 0 if load.backlog else 1)

    # Placing

    def pump(self) -> None:
        """Give waiting jobs to lanes, and start lanes for those that find none."""
        if self._stopping or not self.may_start():
            return
        touched: dict[Lane, None] = {}
        for (queue, role), waiting in self._backlog.items():
            if waiting:
                touched |= dict.fromkeys(self._place(queue, role, waiting))
        for lane in touched:
            lane.flush()
        self._start_missing_lanes()
        self._look_for_late_ends()

    def _pump_and_tell(self) -> None:
        self._pump_is_due = False
        self.pump()
        self._floor.room_freed()

    def _place(self, queue: str, role: Role, waiting: deque[Held]) -> Iterator[Lane]:
        """Start as many of these jobs as slots allow; short ones may then go behind others of their queue."""
        yield from self._start_sync(queue, waiting) if role is Role.SYNC else self._start_async(queue, waiting)
        if not waiting or not self._depth(waiting[0]):
            return
        lanes = [lane for lane in self.crew if lane.role is role and self._takes_more(lane, queue, self._depth(waiting[0]))]
        for number, lane in enumerate(lanes):
            for _ in range(ceil(len(waiting) / (len(lanes) - number))):
                if lane.behind.get(queue, 0) < self._depth(waiting[0]):
                    self._put(lane, waiting.popleft(), role, behind=True)
            yield lane

    def _start_sync(self, queue: str, waiting: deque[Held]) -> Iterator[Lane]:
        """Give each idle lane one of these jobs."""
        for _ in range(min(self._free(queue), len(waiting))):
            lane = self.crew.idle(Role.SYNC)
            if lane is None:
                return
            self._put(lane, waiting.popleft(), Role.SYNC)
            yield lane

    def _start_async(self, queue: str, waiting: deque[Held]) -> Iterator[Lane]:
        """Give these jobs to the lanes where the fewest are, and isolated ones to empty lanes."""
        lanes = self.crew.shared()
        for _ in range(min(self._free(queue), len(waiting))):
            isolated = waiting[0].job.isolated
            if isolated or not lanes:
                lane = self.crew.idle(Role.ASYNC)
                if lane is None:
                    return
                lanes = [shared for shared in lanes if shared is not lane] if isolated else [lane]
            else:
                lane = lanes[0] if len(lanes) == 1 else min(lanes, key=lambda lane: len(lane.jobs))
            self._put(lane, waiting.popleft(), Role.ASYNC)
            yield lane

    def _takes_more(self, lane: Lane, queue: str, most: int) -> bool:
        """Whether up to `most` short jobs of this queue may wait in this lane: filled up when half empty, in one go."""
        if not lane.jobs or not lane.open or lane.recalled or lane.behind.get(queue, 0) > most // 2:
            return False
        first = next(iter(lane.jobs.values()))  # what lasts long comes to be the first
        return first.job.queue == queue and self._depth(first) > 0

    def _depth(self, held: Held) -> int:
        """How many such jobs may wait in a lane, so that the last one starts soon; 0 if it is not known to be short."""
        mean = self._means.get(held.job.name)
        if mean is None or mean > SHORT or held.job.isolated:
            return 0
        return min(MOST_BEHIND, int(SHORT / max(mean, 1e-6)))

    def _free(self, queue: str) -> int:
        """How many more jobs of this queue may run, as far as the limits of queue and engine go."""
        of_queue = self._concurrency(queue) - self.loads[queue].running
        return max(0, min(of_queue, self._settings.max_concurrent_jobs - self._running))

    def _put(self, lane: Lane, held: Held, role: Role, *, behind: bool = False) -> None:
        load = self.loads[held.job.queue]
        load.backlog -= 1
        if not behind:
            load.running += 1
            self._running += 1
            self.idle.clear()
            self.at_work.set()
        lane.put(held, role, behind=behind)
        if held.job.isolated and role is Role.ASYNC:
            lane.exclusive = True
        if held.job.timeout_ms is not None:
            self._stops.limit(held)

    def _shelve(self, held: Held, *, first: bool = False) -> None:
        if self._stopping:
            self._end(held, Released(), 0, epoch_us())
            return
        queue = held.job.queue
        held.lane = None
        self.held[held.job.id] = held
        if queue not in self.loads:
            self.loads[queue] = Load()
        self.loads[queue].backlog += 1
        waiting = self._backlog.get((queue, held.role))
        if waiting is None:
            waiting = self._backlog[queue, held.role] = deque()
        (waiting.appendleft if first else waiting.append)(held)

    # Which workers are needed

    def _start_missing_lanes(self) -> None:
        starting = self.crew.starting
        missing = min(self._wanted_lanes(), self.crew.room + starting)
        if missing <= 0 and self._starved():
            missing = 1
        self.crew.start(missing - starting)

    def _wanted_lanes(self) -> int:
        """How many more lanes the waiting jobs could use."""
        wanted = 0
        for (queue, role), waiting in self._backlog.items():
            if not waiting:
                continue
            free = self._free(queue)
            if role is Role.SYNC:
                enough = self._depth(waiting[0]) > 0 and self.crew.alive(Role.SYNC) >= (os.cpu_count() or 1)
                wanted += 0 if enough else min(len(waiting), free)
            else:
                wanted += min(1, free) if not waiting[0].job.isolated else min(len(waiting), free)
        shared = self.crew.shared()
        return wanted + (1 if shared and len(shared[0].jobs) - shared[0].waiting >= CROWDED else 0)

    def _starved(self) -> bool:
        """Whether all workers are of one kind while a job of the other kind waits."""
        return not self.crew.starting and any(
            waiting and self._free(queue) and self.crew.alive(role) == 0 and self.crew.alive() <= self._settings.max_workers
            for (queue, role), waiting in self._backlog.items()
        )

    # What lanes say

    def lane_ready(self, lane: Lane, kinds: dict[str, bool]) -> None:
        self._kinds |= kinds
        if self.crew.welcome(lane):
            self._sort_out_backlog()
        self.pump()
        self._floor.room_freed()

    def lane_died(self, lane: Lane, death: Death) -> None:
        """Its worker is gone, and everything that it said was delivered."""
        if lane.jobs:
            logger.warning("worker %d: %s, with %d jobs in it", lane.link.pid, death.describe(), len(lane.jobs))
        current = self.held.get(lane.link.current()[0])
        for held, verdict in reversed(list(verdicts(list(lane.jobs.values()), current, lane.role, death))):
            self._leave(lane, held)
            if verdict is None:
                self._unstart(held)
            else:
                self._end(held, verdict, held.started_us, epoch_us())
        if self.crew.gave_up:
            self.release_backlog(JobError("import", "WorkerStartFailed", f"no worker could start: {death.describe()}"))
        self.pump()
        self.crew.warm_up()
        self._floor.room_freed()

    def lane_ends(self, lane: Lane, ends: Iterable[End]) -> None:
        ended: list[tuple[Held, End]] = []
        for end in ends:
            held = lane.jobs.pop(end.id, None)
            if held is None:
                logger.warning("worker %d ended job %d, which was not in it", lane.link.pid, end.id)
            else:
                held.lane = None
                ended.append((held, end))
        gone = Counter([held.job.queue for held, _ in ended])
        self._vacate(lane, gone)
        self._measure(ended, gone)
        self._finish(ended)
        lane.exclusive = lane.exclusive and bool(lane.jobs)
        self.crew.end_its_share(lane)
        if not self._pump_is_due:  # one pump for all frames that came in one read
            self._pump_is_due = True
            self._loop.call_soon(self._pump_and_tell)

    def _look_for_late_ends(self) -> None:
        """A worker may keep ends back while there is more to do: not for longer than this."""
        if not self._late_look_is_due and any(map(_may_keep_back, self.crew)):
            self._late_look_is_due = True
            self._loop.call_later(LATE, self._take_late_ends)

    def _take_late_ends(self) -> None:
        self._late_look_is_due = False
        for lane in self.crew:
            if _may_keep_back(lane):
                lane.take_late_ends()
        self._look_for_late_ends()

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
            self._unstart(held)
        self.crew.end_its_share(lane)
        self.pump()

    def lane_spoiled(self, lane: Lane, ids: Sequence[int], found: Sequence[str]) -> None:
        """A job has left its worker in a state that others should not find: they get a new one."""
        lane.retiring = True
        if lane.waiting and not lane.recalled:
            lane.recall()
        jobs = [lane.jobs[id].job for id in ids if id in lane.jobs]
        told = ", ".join(f"job {job.id} ({job.name})" for job in jobs[:MOST_SUSPECTS])
        if len(ids) > len(jobs[:MOST_SUSPECTS]):
            told = f"one of {len(ids)} jobs, the last of them {told}" if told else f"one of {len(ids)} jobs"
        logger.warning("%s left worker %d spoiled: %s; it is replaced", told, lane.link.pid, "; ".join(found))

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
        if held.lane is not None:
            self._stops.ask(held, reason, grace)
            return
        self._unshelve(held)
        self._end_unstarted(held, reason)

    def lose(self, ids: Iterable[int]) -> None:
        """These jobs are somebody else's now: those that run are stopped, and no end of theirs counts."""
        for id in ids:
            held = self.held.get(id)
            if held is not None:
                held.lost = True
                self.halt(id, StopReason.LEASE)

    def fence(self, grace: float) -> None:
        """Others may soon take what runs here: stop it before they can."""
        for id in self.running():
            self.halt(id, StopReason.LEASE, grace)

    def look(self) -> None:
        """One look: who runs since when, who is over time, which worker is idle."""
        now_us = epoch_us()
        for lane in self.crew:
            if lane.jobs:
                self._look_into(lane, now_us)
                self._watchdog.look(lane)
                if lane.waiting and not lane.recalled and monotonic() - lane.since > STRANDED_AFTER:
                    lane.recall()
        self._stops.enforce()
        self.crew.look()
        self.pump()  # a lane may have come free of what blocked it

    @property
    def busy(self) -> bool:
        """Whether any lane has a job in it, or is starting or closing."""
        return any(lane.jobs or not lane.ready or lane.closing for lane in self.crew)

    def _look_into(self, lane: Lane, now_us: int) -> None:
        id, since_us = lane.link.current()
        held = lane.jobs.get(id)
        if held is None:
            return
        held.started_us = held.started_us or since_us or now_us
        if now_us - held.started_us >= TOLD_AFTER_US:
            self._tell_running(held)

    def _tell_running(self, held: Held) -> None:
        if not held.told_running:
            held.told_running = True
            self._floor.job_running(held)

    # Ending

    def stop_placing(self) -> None:
        """The engine is stopping: nothing new starts, running jobs are told."""
        self._stopping = True
        self.crew.shut_down()

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
        for lane in self.crew:
            for held in list(lane.jobs.values()):
                self._leave(lane, held)
                self._end(held, Interrupted(error), held.started_us, epoch_us())

    def recall_all(self) -> None:
        for lane in self.crew:
            if lane.waiting:
                lane.recall()

    def running(self) -> list[int]:
        """The jobs that are in lanes."""
        return [id for lane in self.crew for id in lane.jobs]

    def _end(self, held: Held, outcome: Outcome, started_us: int, finished_us: int) -> None:
        self._finish([(held, End(held.job.id, outcome, started_us, finished_us))])

    def _finish(self, ended: Sequence[tuple[Held, End]]) -> None:
        for _, end in ended:
            self.held.pop(end.id, None)
        self._stops.forget([end.id for _, end in ended])
        self._floor.jobs_ended(ended)

    def _end_unstarted(self, held: Held, reason: StopReason) -> None:
        self._end(held, Stopped() if reason is StopReason.CANCEL else Released(), 0, epoch_us())

    def _unstart(self, held: Held) -> None:
        """It left its lane before it started there: it waits for another one, unless it had to stop."""
        if held.stop is None:
            self._shelve(held, first=True)
        else:
            self._end_unstarted(held, held.stop)

    def _leave(self, lane: Lane, held: Held) -> None:
        del lane.jobs[held.job.id]
        held.lane = None
        self._vacate(lane, {held.job.queue: 1})

    def _vacate(self, lane: Lane, gone: Mapping[str, int]) -> None:
        """So many jobs of each queue have left: their slots are free, but for those that pass to jobs that wait there."""
        for queue, count in gone.items():
            slots = lane.vacated(queue, count)
            self.loads[queue].running -= slots
            self._running -= slots
        if not self._running:
            self.idle.set()
            self.at_work.clear()

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

    def _measure(self, ended: Sequence[tuple[Held, End]], counts: Mapping[str, int]) -> None:
        """What these jobs, so many of each queue, tell about the next ones of their kind and of their queue."""
        for held, end in ended:
            name, seconds = held.job.name, (end.finished_us - end.started_us) / 1_000_000
            mean = self._means.get(name)
            self._means[name] = seconds if mean is None else mean + 0.1 * (seconds - mean)
        now = monotonic()
        for queue, count in counts.items():
            self.loads[queue].meter.ended(count, now)


def _may_keep_back(lane: Lane) -> bool:
    """Whether its worker may have ends that it has not sent, because there is more to do."""
    return lane.waiting > 0 or (lane.role is Role.SYNC and len(lane.jobs) > 1)
