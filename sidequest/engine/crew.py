"""ENGINE PROCESS. The lanes there are: started when needed, replaced after their share, ended when idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any

from sidequest.clock import monotonic
from sidequest.config import Settings
from sidequest.engine.errands import Errands
from sidequest.engine.lane import Lane, LaneOwner
from sidequest.engine.memory import Memory
from sidequest.engine.worker_process import Death, Link
from sidequest.wire.frames import Kind, pack, pack_json
from sidequest.wire.messages import Role

logger = logging.getLogger(__name__)
START_WAITS = (0.1, 0.5, 1.0, 2.0, 5.0)
GIVE_UP_AFTER = 3
"""Workers that failed to start in a row before claimed jobs are given back."""
SHUNNED_FOR = 60.0
"""Seconds for which workers start without a module whose import has ended one."""
WORTH = 20
"""How many times as long as its start took a worker lives at least: else fast jobs would keep all CPUs busy with imports."""
EXACT = 1_000
"""Shares below this are kept to the job: who sets one wants few jobs in a process, whatever that costs."""
CLOSE_WAIT = 2.0
"""Seconds after which a worker that was told to close is killed."""


class Crew:
    """Starts and ends lanes for their owner, who is told through `changed` and `died`."""

    def __init__(
        self,
        settings: Settings,
        owner: LaneOwner,
        errands: Errands,
        make_link: Callable[[], Link],
        greeting: dict[str, Any],
        changed: Callable[[Sequence[int]], None],
        died: Callable[[Lane, Death], None],
    ) -> None:
        self.gone = asyncio.Event()
        """Set while there is no lane."""
        self.gone.set()
        self._settings = settings
        self._owner = owner
        self._errands = errands
        self._make_link = make_link
        self._greeting = greeting
        self._changed = changed
        self._died = died
        self._memory = Memory(None if settings.engine == "inline" else settings.max_worker_memory, errands)
        self._lanes: list[Lane] = []
        self._deadly: dict[str, tuple[float, str]] = {}
        """Modules whose import has ended a worker: until when they are left out, and how it ended."""
        self._doubted: set[str] = set()
        """Modules in whose import a worker was killed once, and nobody knows by whom: it may have been chance."""
        self._failed_starts = 0
        self._start_not_before = 0.0
        self._stopping = False
        self._trusted_until_us = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes))

    # Counting and choosing

    def alive(self, role: Role | None = None) -> int:
        """Lanes that take jobs or will do so, of one role or of any."""
        return sum(1 for lane in self._lanes if not lane.leaving and (role is None or lane.role is role))

    @property
    def starting(self) -> int:
        return sum(1 for lane in self._lanes if not lane.ready and not lane.closing)

    @property
    def room(self) -> int:
        """Lanes that may be started beside those that are alive."""
        return max(0, self._settings.max_workers - self.alive())

    @property
    def gave_up(self) -> bool:
        """Whether worker after worker failed to start; after a pause another one may be tried."""
        failing = self._failed_starts >= GIVE_UP_AFTER and monotonic() < self._start_not_before
        return failing and not any(lane.ready for lane in self._lanes)

    def idle(self, role: Role) -> Lane | None:
        """A lane of this role without jobs, or one that has no role so far and may take it."""
        blank = None
        for lane in self._lanes:
            if lane.open and not lane.jobs:
                if lane.role is role:
                    return lane
                if lane.role is None:
                    blank = blank or lane
        return blank if self.alive(role) < self._settings.max_workers else None

    def shared(self) -> list[Lane]:
        """The lanes in which async jobs run side by side, those with the fewest first."""
        lanes = [lane for lane in self._lanes if lane.open and lane.role is Role.ASYNC]
        return sorted(lanes, key=lambda lane: len(lane.jobs))

    # Starting

    def warm_up(self) -> None:
        """Start the lanes that are kept in any case."""
        self.start(self._settings.min_workers - self.alive())

    def start(self, count: int) -> None:
        """Start more lanes; none while the last ones could not start, nor when all is ending."""
        for _ in range(count):
            if self._stopping or monotonic() < self._start_not_before:
                return
            lane = Lane(self._owner, self._make_link())
            lane.link.trust_until(self._trusted_until_us)
            lane.link.gone = partial(self._gone, lane)
            self._lanes.append(lane)
            self.gone.clear()
            self._errands.start(self._live, lane)

    def welcome(self, lane: Lane) -> bool:
        """The lane's worker said hello or has news; whether it was its first word."""
        first = lane.since_hello is None
        if first:
            lane.since_hello = monotonic()
            lane.start_took = lane.since_hello - lane.since
            self._failed_starts = 0
            self._doubted.clear()
            self._tell()
        return first

    def unknown(self, modules: Sequence[str]) -> list[str]:
        """Those of the modules that workers do not import."""
        return [module for module in modules if module not in self._greeting["modules"]]

    def learn(self, modules: Sequence[str], path: Sequence[str]) -> None:
        """The app has defined jobs in more modules, perhaps in new places of `sys.path`."""
        self._greeting["modules"] = list(dict.fromkeys([*self._greeting["modules"], *modules]))
        for lane in self._lanes:
            lane.link.write(pack_json(Kind.MODULES, {"modules": list(modules), "path": list(path)}))

    def trust_until(self, until: float) -> None:
        """The engine holds its jobs until then (monotonic); workers must not outlive that with jobs in them."""
        self._trusted_until_us = round(until * 1_000_000)
        for lane in self._lanes:
            lane.link.trust_until(self._trusted_until_us)

    def trust_expired(self) -> None:
        """That time is almost over, and no job begins before it is set anew: a worker without jobs may live on."""
        self._trusted_until_us = 0
        for lane in self._lanes:
            if not lane.jobs:
                lane.link.trust_until(0)

    async def _live(self, lane: Lane) -> None:
        try:
            death = await lane.run(self._greeting | {"shunned": self._shunned()})
        except Exception:  # no more processes or descriptors: a start that failed like any other
            logger.exception("a worker process could not be started")
            death = Death(None)
        finally:
            self._lanes.remove(lane)
            if not self._lanes:
                self.gone.set()
            self._tell()
        if lane.since_hello is None and not self._stopping:
            self._start_failed(lane, death)
        self._died(lane, death)

    def _gone(self, lane: Lane) -> None:
        """Its process has ended: the next one starts while its last words and the verdicts on its jobs are still to come."""
        lane.closing = True
        if lane.since_hello is not None:
            self.warm_up()

    def _start_failed(self, lane: Lane, death: Death) -> None:
        self._failed_starts += 1
        too_slow = death.killed_for == 0
        if lane.loading and death.out_of_the_blue and lane.loading not in self._doubted:
            self._doubted.add(lane.loading)
        elif lane.loading:
            how = "importing it took too long" if too_slow else f"{death.describe()} while it imported this"
            self._deadly[lane.loading] = (monotonic() + SHUNNED_FOR, how)
            logger.error("importing %s ends workers, so they start without it for a while: %s", lane.loading, how)
        pause = START_WAITS[min(self._failed_starts, len(START_WAITS)) - 1]
        self._start_not_before = monotonic() + pause
        why = "it took longer than worker_start_timeout" if too_slow else death.describe()
        logger.error("a worker did not start: %s; next try in %g s", why, pause)

    def _shunned(self) -> dict[str, str]:
        """The modules whose import has just ended a worker: the jobs of all others must run."""
        now = monotonic()
        self._deadly = {module: (until, how) for module, (until, how) in self._deadly.items() if until > now}
        return {module: how for module, (_, how) in self._deadly.items()}

    def _tell(self) -> None:
        self._changed([lane.link.pid for lane in self._lanes])

    # Ending

    def look(self) -> None:
        """End lanes that are idle for too long or use too much; kill those that neither start nor close."""
        now = monotonic()
        for lane in self:
            self._memory.look(lane)
            if lane.jobs:
                continue
            if now - lane.since > self._patience(lane):
                self._errands.start(lane.link.kill, 0)
            elif lane.retiring and not lane.closing:
                lane.close()
            elif lane.open and self.alive() > self._settings.min_workers:
                self._retire_idle(lane, now)
        self.warm_up()

    def end_its_share(self, lane: Lane) -> None:
        """After some of its jobs ended or came back: a lane that has had its share takes no more, and closes when empty."""
        lane.since = monotonic()
        self._memory.look(lane)
        lane.retiring = lane.retiring or self._has_had_its_share(lane)
        if lane.retiring and not lane.jobs and not lane.closing:
            lane.close()

    def _has_had_its_share(self, lane: Lane) -> bool:
        share = self._settings.max_jobs_per_worker
        if lane.served < share or share < EXACT or lane.since_hello is None:
            return lane.served >= share
        return monotonic() - lane.since_hello >= WORTH * lane.start_took

    def shut_down(self) -> None:
        """Nothing new starts; running jobs are told."""
        self._stopping = True
        for lane in self._lanes:
            lane.link.write(pack(Kind.SHUTTING_DOWN))

    def close_all(self) -> None:
        """Let the idle workers end; those with jobs in them are killed for no job's sake."""
        for lane in self:
            if lane.jobs or not lane.ready:
                self._errands.start(lane.link.kill, 0)
            elif not lane.closing:
                lane.close()

    def _patience(self, lane: Lane) -> float:
        """How long a lane without jobs may stay as it is: starting, closing, or ready."""
        if lane.closing:
            return CLOSE_WAIT
        return inf if lane.ready else self._settings.worker_start_timeout.total_seconds()

    def _retire_idle(self, lane: Lane, now: float) -> None:
        if now - lane.since > self._settings.worker_idle_timeout.total_seconds():
            lane.close()
