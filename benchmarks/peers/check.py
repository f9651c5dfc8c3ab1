"""HARNESS. Whether the instruments measure right: `python -m benchmarks.peers.check`, seconds.

It proves that no mark is lost or torn among processes that are killed, that double runs are seen, and
that no process outlives its measurement, whoever its parent is.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.peers import marks
from benchmarks.peers.cell import spans
from benchmarks.peers.marks import Mark
from benchmarks.peers.processes import Processes
from benchmarks.peers.results import Summary, summary
from benchmarks.peers.venvs import ROOT
from benchmarks.peers.workloads.w5_waiting import at_once
from tests.servers.process import Reaper

WRITERS, JOBS = 4, 5_000
WRITER = f"""
import os, sys, time
from benchmarks.peers import marks
for job in range(int(sys.argv[1]), int(sys.argv[1]) + {JOBS}):
    marks.whole(job, time.monotonic_ns())
while True:
    marks.now(-1, marks.START)
"""
ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
"""
PATIENCE = 30.0


def marks_are_whole() -> None:
    with tempfile.TemporaryDirectory() as name, closing(Reaper()) as watcher:
        folder, file = Path(name), f"{name}/marks"
        writers = Processes(watcher, folder)
        for writer in range(WRITERS):
            writers.start([sys.executable, "-c", WRITER, str(writer * JOBS)], _environment(file))
        deadline = time.monotonic() + PATIENCE
        while len({mark.job for mark in marks.read(file)}) < WRITERS * JOBS + 1:
            assert time.monotonic() < deadline, writers.last_words()
            time.sleep(0.1)
        writers.kill()
        found = list(marks.read(file))
    assert sorted(mark.job for mark in found if mark.job >= 0) == [*range(WRITERS * JOBS)]
    assert all(mark.began <= mark.ended and mark.what in (marks.WHOLE, marks.START) for mark in found)


def runs_are_counted() -> None:
    begun, killed, again = Mark(1, 10, 10, 7, marks.START), Mark(2, 15, 15, 7, marks.START), Mark(2, 30, 30, 8, marks.START)
    ended, second = Mark(1, 20, 20, 7, marks.END), Mark(2, 40, 40, 8, marks.END)
    twice = Mark(3, 50, 51, 8, marks.WHOLE), Mark(3, 60, 61, 8, marks.WHOLE)
    found = spans([begun, killed, ended, again, second, *twice])
    assert found == {1: [(10, 20)], 2: [(30, 40)], 3: [(50, 51), (60, 61)]}
    assert at_once([(0, 10), (5, 15), (10, 20)]) == 2


def ratios_are_of_the_same_round() -> None:
    theirs = [{"round": 0, "jobs": 50.0}, {"round": 1, "jobs": 10.0}, {"round": 2, "jobs": None}]
    ours = [{"round": 0, "jobs": 100.0}, {"round": 1, "jobs": 20.0}, {"round": 2, "jobs": 1.0}]
    assert summary(theirs, ours, "jobs") == Summary(median=30.0, low=10.0, high=50.0, ratio=0.5)


def nobody_is_left() -> None:
    with tempfile.TemporaryDirectory() as name, closing(Reaper()) as watcher:
        processes = Processes(watcher, Path(name))
        processes.start([sys.executable, "-c", ORPHAN], _environment("unused"))
        deadline = time.monotonic() + PATIENCE
        while not (processes.all_ended() and len(processes.tagged()) == 1):
            assert time.monotonic() < deadline, processes.last_words()
            time.sleep(0.02)
        processes.stop(patience=0.1)
        assert processes.tagged() == []


def _environment(file: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), marks.VARIABLE: file}


if __name__ == "__main__":
    for check in (marks_are_whole, runs_are_counted, ratios_are_of_the_same_round, nobody_is_left):
        check()
        print(f"{check.__name__}: yes")
