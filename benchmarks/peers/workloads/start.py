"""start. From the start of the worker processes to the first line of a job that is queued already."""

from __future__ import annotations

from benchmarks.peers.cell import Cell
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

BOOT = 60.0


def measure(cell: Cell, memory: Memory) -> Values:
    kind = cell.system.kind("noop", "sync_noop")
    assert kind is not None
    cell.fill(kind, 1)
    started = cell.start_workers()
    cell.await_marks(1, BOOT, BOOT)
    return {"first line": (cell.read_marks()[0].began - started) / 1e9, **_from_app(cell)}


def _from_app(cell: Cell) -> Values:
    """Of ours also from `async with Sidequest(…)` in an app that is running already."""
    if cell.system.name != "sidequest":
        return {}
    cell.processes.stop()
    return {"in an app": cell.client("extra", "start_up")}


def _fits(contestant: Contestant) -> bool:
    return "pipeline" not in contestant.system.kinds


WORKLOAD = Workload(
    "start", "from the start of the workers to the first line of the first job",
    (Figure("first line", "s", higher_is_better=False), Figure("in an app", "s", higher_is_better=False)),
    measure, _fits,
)  # fmt: skip
