"""W6. Jobs that compute: 200 of 50 ms of CPU time, queued before. From the first begin to the last end."""

from __future__ import annotations

from benchmarks.peers.cell import Cell
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads import w5_waiting
from benchmarks.peers.workloads.workload import Memory, Values, Workload

JOBS = 200
AT_MOST = 30.0


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("sync_compute", "compute")
    assert kind is not None
    return w5_waiting.run(cell, kind, JOBS, AT_MOST)


def _fits(contestant: Contestant) -> bool:
    return contestant.system.kind("sync_compute", "compute") is not None


WORKLOAD = Workload("W6", "200 jobs of 50 ms of CPU", w5_waiting.FIGURES, measure, _fits)
