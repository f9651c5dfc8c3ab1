"""W4. How soon a job begins at low load: one job after each pause, from a process that does not own the workers.

The latency counts from before enqueue is called; `returned` from its return, which is negative when
the job began before the caller knew that it is stored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.peers.cell import Cell, CellFailed
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload, percentile

JOBS = 200
PAUSE = 0.02
REST = 1.0
"""Seconds after the first job, for the workers to come to rest."""
AT_MOST = 60.0
WARM_UP = 1_000_000
"""The number of the job that wakes everything up."""


NAMES = ("p50", "p95", "p99", "max", "returned p50", "returned p99")
IN_APP = ("in an app p50", "in an app p99")


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("noop", "sync_noop")
    assert kind is not None
    cell.fill(kind, 1, WARM_UP)
    cell.start_workers()
    cell.await_marks(1, AT_MOST)
    time.sleep(REST)
    calls = cell.client("paced", kind, 0, JOBS, PAUSE)
    if not cell.await_marks(JOBS + 1, AT_MOST):
        raise CellFailed(f"{cell.count_marks() - 1} of {JOBS} jobs began within {AT_MOST:g} s")
    called, returned = _latencies(cell, calls, 0)
    return {
        "p50": percentile(called, 50),
        "p95": percentile(called, 95),
        "p99": percentile(called, 99),
        "max": called[-1],
        "returned p50": percentile(returned, 50),
        "returned p99": percentile(returned, 99),
        **_in_app(cell, kind),
    }


def _in_app(cell: Cell, kind: str) -> Values:
    """Of ours also from an app that has its engine with it, as most apps will."""
    if cell.system.name != "sidequest":
        return {}
    cell.processes.stop()
    skip = cell.count_marks()
    called, _ = _latencies(cell, cell.client("extra", "paced_in_app", kind, 0, JOBS, PAUSE), skip)
    return {"in an app p50": percentile(called, 50), "in an app p99": percentile(called, 99)}


def _latencies(cell: Cell, calls: Sequence[tuple[int, int, int]], skip: int) -> tuple[list[float], list[float]]:
    """From the calls, and from their returns, to the jobs' first lines; milliseconds, the shortest first."""
    began = {mark.job: mark.began for mark in reversed(cell.read_marks(skip))}
    called = sorted((began[job] - before) / 1e6 for job, before, _ in calls)
    return called, sorted((began[job] - after) / 1e6 for job, _, after in calls)


WORKLOAD = Workload(
    "W4", "from the call of enqueue to the job's first line, one job every 20 ms",
    tuple(Figure(name, "ms", higher_is_better=False) for name in (*NAMES, *IN_APP)),
    measure, lambda contestant: "pipeline" not in contestant.system.kinds,
)  # fmt: skip
