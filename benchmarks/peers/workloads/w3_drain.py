"""W3. No-ops that were queued before the workers start: how fast they are drained.

From the first job's begin to the last one's end, and to the instant when the store has all ends.
Boot time is apart. As many jobs as last `ENOUGH` seconds; a system that needs longer than `AT_MOST`
is measured by what it has done until then.
"""

from __future__ import annotations

from functools import partial
from math import ceil

from benchmarks.peers.cell import Cell, CellFailed, spans
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

ENOUGH, AT_MOST = 1.5, 30.0
"""Seconds."""
AIM = 2.5
"""Seconds that are aimed at when a drain was too short."""
FEW, MOST = 2_000, 200_000
"""Jobs."""
ACKNOWLEDGED = 30.0
"""Seconds within which the last end must be in the store."""


class TooShort(Exception):
    """The drain was over before it was worth measuring; there must be more jobs."""


def measure(kind: str, cell: Cell, memory: Memory) -> Values:
    if "pipeline" in cell.system.kinds:
        return {"jobs": cell.client("extra", "pipeline")}
    count = memory.get("jobs", FEW)
    cell.fill(kind, count)
    started = cell.start_workers()
    complete = cell.await_marks(count, AT_MOST)
    stored = cell.await_acknowledged(ACKNOWLEDGED) if complete else None
    found = cell.read_marks()
    first, last = min(mark.began for mark in found), max(mark.ended for mark in found)
    seconds = (last - first) / 1e9
    if complete and seconds < ENOUGH and count < MOST:
        memory["jobs"] = min(MOST, count * min(20, ceil(AIM / max(seconds, 0.01))))
        raise TooShort
    memory["jobs"] = count
    done = spans(found)
    if len(done) < 2:
        raise CellFailed(f"{len(done)} of {count} jobs ended within {AT_MOST:g} s")
    return {
        "jobs": (len(done) if complete else len(done) - 1) / seconds,
        "stored": count / ((stored - first) / 1e9) if stored else None,
        "lag": (stored - last) / 1e6 if stored else None,
        "boot": (first - started) / 1e9,
        "n": len(done),
        "twice": sum(len(runs) > 1 for runs in done.values()),
    }


FIGURES = (
    Figure("jobs", "/s", higher_is_better=True),
    Figure("stored", "/s", higher_is_better=True),
    Figure("lag", "ms"),
    Figure("boot", "s"),
    Figure("n", ""),
    Figure("twice", ""),
)


def _workload(key: str, what: str, kind: str) -> Workload:
    def fits(contestant: Contestant) -> bool:
        return kind in contestant.system.kinds or "pipeline" in contestant.system.kinds

    return Workload(key, f"drain of queued {what} no-ops", FIGURES, partial(measure, kind), fits)


WORKLOADS = (_workload("W3 async", "async", "noop"), _workload("W3 sync", "sync", "sync_noop"))
