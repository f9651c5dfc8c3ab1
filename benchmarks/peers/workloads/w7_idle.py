"""W7. Nothing to do for 20 s: what all processes of the system cost, and what they ask their server."""

from __future__ import annotations

import time

from benchmarks.peers.cell import Cell
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

BOOT = 60.0
COMING_TO_REST = 12.0
"""Seconds after the one job: workers that are only kept for a while have ended."""
WATCHED = 20.0


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("noop", "sync_noop")
    assert kind is not None
    cell.fill(kind, 1)
    cell.eye.trace()
    cell.start_workers()
    cell.await_marks(1, BOOT)
    time.sleep(COMING_TO_REST)
    cpu, sent = cell.processes.cpu_seconds(), cell.eye.statements()
    time.sleep(WATCHED)
    cpu = cell.processes.cpu_seconds() - cpu
    asked = None
    if sent is not None:
        asked = ((cell.eye.statements() or 0) - sent) / WATCHED
    return {"cpu": cpu, "statements": asked, "processes": len(cell.processes.family()), "memory": cell.processes.memory()}


def _fits(contestant: Contestant) -> bool:
    return "pipeline" not in contestant.system.kinds


WORKLOAD = Workload(
    "W7", "idle for 20 s",
    (
        Figure("cpu", "s", higher_is_better=False),
        Figure("statements", "/s", higher_is_better=False),
        Figure("processes", ""),
        Figure("memory", "MB"),
    ),
    measure, _fits, once=True,
)  # fmt: skip
