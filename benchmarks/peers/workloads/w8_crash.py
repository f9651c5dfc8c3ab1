"""W8. A job kills its own process, among 50 neighbours of one second.

A supervisor starts a worker again that has ended, as systemd would. `lost` are neighbours that have
not ended after `WATCHED` seconds, `again` those that were started more than once (their process has
died under them, so that is right), `twice` those that ended more than once. `next` is how long after
the crash a job starts again, `all` until every neighbour has ended.
"""

from __future__ import annotations

import time

from benchmarks.peers import marks
from benchmarks.peers.cell import BOOT, Cell, CellFailed, spans
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Memory, Values, Workload

NEIGHBOURS, BEFORE = 50, 5
"""So many, and so many of them are queued before the job that dies."""
KILLER = 1_000
WATCHED = 75.0
AFTER_CRASH = 2.0
"""Seconds that are watched at least, to see neighbours that run again though they had ended."""
LOOK = 0.02
RESTART = 0.1
"""Seconds after which the supervisor starts a worker again."""


def measure(cell: Cell, memory: Memory) -> Values:
    nap, die = cell.system.kind("nap", "sync_nap"), cell.system.kind("die", "sync_die")
    cell.client("mixed", f"{nap}:0:{BEFORE}", f"{die}:{KILLER}:1", f"{nap}:{BEFORE}:{NEIGHBOURS - BEFORE}")
    cell.start_workers()
    begin = time.monotonic()
    crashed, ended = 0.0, set[int]()
    seen = 0
    while time.monotonic() - begin < WATCHED:
        for mark in cell.read_marks(seen):
            seen += 1
            if mark.what == marks.END:
                ended.add(mark.job)
            elif mark.what == marks.CRASH and not crashed:
                crashed = time.monotonic()
        if crashed and len(ended) == NEIGHBOURS and time.monotonic() - crashed > AFTER_CRASH:
            break
        if not seen and time.monotonic() - begin > BOOT:
            raise CellFailed(f"no job began within {BOOT:g} s; its workers say: {cell.processes.last_words()}")
        if cell.processes.any_ended():
            time.sleep(RESTART)
            cell.processes.restart_ended()
        time.sleep(LOOK)
    return _counted(cell)


def _counted(cell: Cell) -> Values:
    found = cell.read_marks()
    crashes = [mark.ended for mark in found if mark.what == marks.CRASH]
    if not crashes:
        raise CellFailed("the job that dies was not started")
    starts: dict[int, list[int]] = {}
    for mark in found:
        if mark.what == marks.START:
            starts.setdefault(mark.job, []).append(mark.began)
    ends = {job: [end for _, end in runs] for job, runs in spans(found).items()}
    neighbours = range(NEIGHBOURS)
    next_start = min((began for job in neighbours for began in starts.get(job, ()) if began > crashes[0]), default=None)
    lost = sum(job not in ends for job in neighbours)
    return {
        "lost": lost,
        "twice": sum(len(ends.get(job, ())) > 1 for job in neighbours),
        "again": sum(len(starts.get(job, ())) > 1 for job in neighbours),
        "restarts": cell.processes.restarts,
        "crashes": len(crashes),
        "next": (next_start - crashes[0]) / 1e9 if next_start is not None else None,
        "all": (max(max(ends[job]) for job in neighbours) - crashes[0]) / 1e9 if not lost else None,
    }


def _fits(contestant: Contestant) -> bool:
    return contestant.system.kind("nap", "sync_nap") is not None


WORKLOAD = Workload(
    "W8", "a job kills its process among 50 that wait 1 s",
    (
        Figure("lost", "", higher_is_better=False),
        Figure("twice", "", higher_is_better=False),
        Figure("again", ""),
        Figure("restarts", ""),
        Figure("crashes", ""),
        Figure("next", "s", higher_is_better=False),
        Figure("all", "s", higher_is_better=False),
    ),
    measure, _fits, once=True,
)  # fmt: skip
