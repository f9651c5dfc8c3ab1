"""W1. Enqueues that are awaited: each caller goes on when its job is stored."""

from __future__ import annotations

from benchmarks.peers.cell import Cell
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

SECONDS = 2.0
MANY = 32
"""Callers in one process: tasks of its event loop, or threads where the system knows none."""


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("noop", "sync_noop")
    return {f"{callers}": cell.client("singles", kind, callers, SECONDS) for callers in (1, MANY)}


WORKLOAD = Workload(
    "W1", "awaited enqueues per second, 1 caller and 32",
    (Figure("1", "/s", higher_is_better=True), Figure(f"{MANY}", "/s", higher_is_better=True)),
    measure, lambda contestant: True,
)  # fmt: skip
