"""ENGINE PROCESS. How many jobs of which queue to claim now: arithmetic only, no I/O.

Queues are served by priority, without starving: each queue with work gets a slot in each round while
there is room, and those that were passed over ten rounds in a row go first, the longest before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sidequest.config import serves
from sidequest.jobs.queue import QueueRecord

PATIENCE = 10
"""Rounds that a queue with work may be passed over before it goes first."""
AHEAD = 0.05
"""Seconds of work to claim ahead of free slots, at the rate at which the queue's jobs end. Several engines share a rate,
and small claims cost each of them the way to the first job that no other one has: with 0.02 four took 1.4 times as long."""
MOST_AHEAD = 500
MOST_AT_ONCE = 500
"""Jobs for free slots in one claim: from there on a bigger one is no cheaper, and keeps workers waiting for its first job."""


@dataclass(slots=True)
class QueueMeter:
    """How fast one queue's jobs end here."""

    rate: float = 0.0
    """Jobs per second, smoothed."""
    _ended: int = 0
    _since: float = 0.0

    def ended(self, jobs: int, now: float) -> None:
        self._ended += jobs
        elapsed = now - self._since
        if elapsed > 1:  # a pause: what came before says nothing about now
            self.rate, self._ended, self._since = 0.0, jobs, now
        elif elapsed > 0.01:
            self.rate += 0.5 * (self._ended / elapsed - self.rate)
            self._ended, self._since = 0, now

    def ahead(self) -> int:
        """Jobs worth having in hand beyond the free slots, so that no slot waits for a claim."""
        return min(MOST_AHEAD, int(self.rate * AHEAD))


@dataclass(slots=True)
class Load:
    """What this engine has in hand of one queue."""

    running: int = 0
    """Slots of the queue's concurrency in use."""
    backlog: int = 0
    """Claimed, and not yet given to a worker."""
    sync_share: float = 0.0
    """How many of its last jobs were sync, from 0 to 1."""
    meter: QueueMeter = field(default_factory=QueueMeter)


class QueueScheduler:
    """Decides the rooms of the next claim."""

    def __init__(self, max_concurrent_jobs: int, serve: tuple[str, ...]) -> None:
        self._most = max_concurrent_jobs
        self._serve = serve
        self._queues: list[QueueRecord] = []
        self._dry: set[str] = set()
        self._passed_over: dict[str, int] = {}

    def know(self, queues: Iterable[tuple[QueueRecord, bool]]) -> None:
        """The queues as they stand, and whether each has work."""
        known = [(queue, ready) for queue, ready in queues if serves(self._serve, queue.name)]
        self._queues = [queue for queue, _ in known]
        self._dry = {queue.name for queue, ready in known if not ready}

    def concurrency(self, queue: str) -> int:
        return next((known.concurrency for known in self._queues if known.name == queue), 1)

    def expect_work(self) -> None:
        """Somebody enqueued something: ask every queue again."""
        self._dry.clear()

    def ran_dry(self, queue: str) -> None:
        """A claim returned less than it asked for."""
        self._dry.add(queue)

    def rooms(self, loads: Mapping[str, Load], slots: Callable[[str], int]) -> dict[str, int]:
        """How many jobs to claim from each queue; empty when there is nothing to do.

        `slots(queue)` is how many of its jobs could start at once as far as workers go.
        """
        active = [queue for queue in self._queues if not queue.paused and queue.name not in self._dry]
        room = min(MOST_AT_ONCE, self._most - sum(load.running for load in loads.values()))
        open_slots = {queue.name: _open_slots(queue, loads.get(queue.name), slots(queue.name)) for queue in active}
        rooms = self._share(active, open_slots, room)
        for queue in active:
            load = loads.get(queue.name)
            if load is not None:
                rooms[queue.name] = _topped_up(rooms.get(queue.name, 0), load)
        return {name: count for name, count in rooms.items() if count > 0}

    def _share(self, active: list[QueueRecord], wanted: Mapping[str, int], room: int) -> dict[str, int]:
        """The room, shared: one each as long as it lasts, then by priority."""
        hungry = [queue for queue in active if wanted[queue.name] > 0]
        if room <= 0:
            return {}
        hungry.sort(key=lambda queue: -max(0, self._passed_over.get(queue.name, 0) - PATIENCE + 1))
        shares = {queue.name: 1 for queue in hungry[:room]}
        room -= len(shares)
        for queue in active:
            if queue.name in shares and room > 0:
                more = min(room, wanted[queue.name] - 1)
                shares[queue.name] += more
                room -= more
        self._passed_over = {
            queue.name: self._passed_over.get(queue.name, 0) + 1 for queue in hungry if queue.name not in shares
        }
        return shares


def _open_slots(queue: QueueRecord, load: Load | None, slots: int) -> int:
    running = load.running if load is not None else 0
    return max(0, min(queue.concurrency - running, slots))


def _topped_up(share: int, load: Load) -> int:
    """The share plus what should be in hand ahead, less what is; small top-ups wait for more."""
    ahead = load.meter.ahead()
    want = share + ahead - load.backlog
    idle_soon = load.backlog < max(share, 1)
    return want if idle_soon or want > ahead // 2 else 0
