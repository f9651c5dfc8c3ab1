"""W5. Jobs that wait: 2 000 of 100 ms, queued before; and 10 000 that are held at once.

From the first begin to the last end. A system that needs longer than `AT_MOST` is measured by what
it has done until then, and `seconds` is what all of them would have taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.cell import Cell, CellFailed, spans
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

JOBS, HELD = 2_000, 10_000
AT_MOST = 30.0


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("sleep", "sync_sleep")
    assert kind is not None
    return run(cell, kind, JOBS, AT_MOST)


def hold(cell: Cell, memory: Memory) -> Values:
    return run(cell, "hold", HELD, AT_MOST)


def run(cell: Cell, kind: str, count: int, at_most: float) -> Values:
    """Seconds that so many jobs take, and how many of them ran at once."""
    cell.fill(kind, count)
    started = cell.start_workers()
    complete = cell.await_marks(2 * count, at_most)
    found = cell.read_marks()
    done = spans(found)
    runs = [run for of_job in done.values() for run in of_job]
    if not runs:
        raise CellFailed(f"none of {count} jobs ended within {at_most:g} s")
    first, last = min(mark.began for mark in found), max(end for _, end in runs)
    seconds = (last - first) / 1e9
    return {
        "seconds": seconds if complete else seconds * count / len(done),
        "at once": at_once(runs),
        "boot": (first - started) / 1e9,
        "done": len(done),
    }


def at_once(runs: Sequence[tuple[int, int]]) -> int:
    """The most of them that ran at the same time."""
    changes = sorted([(begin, 1) for begin, _ in runs] + [(end, -1) for _, end in runs])
    most = current = 0
    for _, change in changes:
        current += change
        most = max(most, current)
    return most


FIGURES = (
    Figure("seconds", "s", higher_is_better=False),
    Figure("at once", ""),
    Figure("boot", "s"),
    Figure("done", ""),
)


def _fits(contestant: Contestant) -> bool:
    return contestant.system.kind("sleep", "sync_sleep") is not None


WORKLOADS = (
    Workload("W5", "2 000 jobs that wait 100 ms", FIGURES, measure, _fits),
    Workload("W5 held", "10 000 jobs that wait 2 s, held at once", FIGURES, hold, lambda c: "W5 held" in c.mode.only),
)
