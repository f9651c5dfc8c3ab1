"""W4. How soon a job begins at low load: one job after each pause, from a process that does not own the workers.

The latency counts from before enqueue is called; `returned` from its return, which is negative when
the job began before the caller knew that it is stored.
"""

from __future__ import annotations

import time

from benchmarks.peers.cell import Cell, CellFailed
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload, percentile

JOBS = 200
PAUSE = 0.02
REST = 1.0
"""Seconds after the first job, for the workers to come to rest."""
AT_MOST = 60.0
WARM_UP = 1_000_000
"""The number of the job that wakes everything up."""


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
    began = {mark.job: mark.began for mark in reversed(cell.read_marks())}
    called = sorted((began[job] - before) / 1e6 for job, before, _ in calls)
    returned = sorted((began[job] - after) / 1e6 for job, _, after in calls)
    return {
        "p50": percentile(called, 50),
        "p95": percentile(called, 95),
        "p99": percentile(called, 99),
        "max": called[-1],
        "returned p50": percentile(returned, 50),
        "returned p99": percentile(returned, 99),
    }


WORKLOAD = Workload(
    "W4", "from the call of enqueue to the job's first line, one job every 20 ms",
    tuple(Figure(name, "ms", higher_is_better=False) for name in ("p50", "p95", "p99", "max", "returned p50", "returned p99")),
    measure, lambda contestant: "pipeline" not in contestant.system.kinds,
)  # fmt: skip
