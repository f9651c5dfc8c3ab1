"""scale. Ours alone: a table with a past and a future, a long drain, and several engines on one database."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.peers.cell import Cell, CellFailed, spans
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.marks import Mark
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

KIND = "sync_noop"
JOBS = 40_000
"""In one drain."""
DRAINS = 3
FUTURE = 200_000
LONG, SLICE = 200_000, 20_000
ENGINES, MANY = 4, 120_000
AT_MOST = 120.0
FILLING = 3_600.0
"""Seconds that a million rows may take."""


def rows(cell: Cell, memory: Memory) -> Values:
    """Drains of an almost empty table, and of one with finished and future rows, in turns."""
    with cell.sibling() as other:
        cell.client("extra", "past", memory["rows"], FUTURE, patience=FILLING)
        pairs = [(_drain(other), _drain(cell)) for _ in range(DRAINS)]
    return {**_compared(pairs, "empty", "full"), "rows": memory["rows"]}


def long(cell: Cell, memory: Memory) -> Values:
    """One drain, slice after slice."""
    ends = sorted(mark.ended for mark in _drained(cell, LONG, 1))
    speeds = [SLICE / ((ends[begin + SLICE - 1] - ends[begin]) / 1e9) for begin in range(0, LONG, SLICE)]
    half = len(speeds) // 2
    flat = 100 * median(speeds[half:]) / median(speeds[:half])
    return {"flat": flat, "first": speeds[0], "last": speeds[-1], "slowest": min(speeds), "fastest": max(speeds)}


def engines(cell: Cell, memory: Memory) -> Values:
    """Drains by one engine and by four, in turns; their later halves, when all engines have booted."""
    return _compared([(_later_half(cell, 1), _later_half(cell, ENGINES)) for _ in range(DRAINS)], "one", "four")


def _compared(pairs: Sequence[tuple[float, float]], first: str, second: str) -> Values:
    """Medians, and the median of the pairs' ratios in percent."""
    befores, afters = zip(*pairs, strict=True)
    kept = median(100 * after / before for before, after in pairs)
    return {"kept": kept, first: median(befores), second: median(afters)}


def _drain(cell: Cell, of_engines: int = 1) -> float:
    """Jobs per second."""
    found = _drained(cell, JOBS, of_engines)
    return JOBS / ((max(mark.ended for mark in found) - min(mark.began for mark in found)) / 1e9)


def _later_half(cell: Cell, of_engines: int) -> float:
    """Jobs per second."""
    ends = sorted(mark.ended for mark in _drained(cell, MANY, of_engines))
    return (MANY - MANY // 2) / ((ends[-1] - ends[MANY // 2 - 1]) / 1e9)


def _drained(cell: Cell, count: int, of_engines: int) -> list[Mark]:
    skip = cell.count_marks()
    cell.fill(KIND, count)
    cell.start_workers(of_engines * list(cell.contestant.mode.workers))
    complete = cell.await_marks(skip + count, AT_MOST)
    cell.processes.stop()
    found = cell.read_marks(skip)
    if not complete or any(len(runs) > 1 for runs in spans(found).values()):
        raise CellFailed(f"of {count} jobs {len(found)} ran within {AT_MOST:g} s, or one of them twice")
    return found


def _fits(contestant: Contestant) -> bool:
    return contestant.system.name == "sidequest" and contestant.mode_name == "tuned"


def _speeds(first: str, *names: str) -> tuple[Figure, ...]:
    percent = Figure(first, "%", higher_is_better=True)
    return (percent, *(Figure(name, "/s", higher_is_better=True) for name in names))


WORKLOADS = (
    Workload(
        "scale rows", "drain beside 200 000 future and very many finished rows, against an empty table",
        (*_speeds("kept", "full", "empty"), Figure("rows", "")), rows, _fits, once=True,
    ),
    Workload(
        "scale long", "200 000 jobs in a row, in slices of 20 000: the later half's speed against the earlier one's",
        _speeds("flat", "first", "last", "slowest", "fastest"), long, _fits, once=True,
    ),
    Workload(
        "scale engines", "four engines on one database against one", _speeds("kept", "four", "one"), engines, _fits, once=True
    ),
)  # fmt: skip
