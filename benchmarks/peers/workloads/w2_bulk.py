"""W2. Many jobs at once, by the system's own call for it, until all of them are stored."""

from __future__ import annotations

from benchmarks.peers.cell import Cell
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload


def measure(cell: Cell, memory: Memory) -> Values:
    count = cell.system.bulk
    kind = cell.system.kind("noop", "sync_noop")
    assert kind is not None
    return {"jobs": count / cell.fill(kind, count), "n": count}


WORKLOAD = Workload(
    "W2", "bulk enqueue", (Figure("jobs", "/s", higher_is_better=True), Figure("n", "")), measure, lambda contestant: True
)
