"""The truth log: what really ran, written by the jobs themselves, and the checker that compares it with the store.

Each run appends a line at its start and one at its end, each with a single write, to one file for all
processes. While it runs it also holds a lock on its job's number, which the kernel takes back when the
process dies, however it dies: a second run of the same job that finds the lock taken is an overlap,
also when the first one never came to its end.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

from sidequest import JobContext, State
from sidequest.jobs.record import JobRecord

VARIABLE = "SIDEQUEST_CHAOS_TRUTH"
"""Names the log to the processes that run jobs."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event of the log."""

    job: int
    attempt: int
    run: str
    """Names the run: no two runs share it."""
    pid: int
    event: str
    """`start`, `end` (it returned), or `raised`."""
    at: float
    """Monotonic, which all processes of a host share."""
    alone: bool
    """Whether nobody else was running this job."""


@dataclass(slots=True)
class Run:
    """One run of a job, as far as the log knows it."""

    job: int
    attempt: int
    pid: int
    start: float
    end: float | None = None
    returned: bool = False
    alone: bool = True


# Written by jobs


@contextmanager
def told(ctx: JobContext) -> Iterator[None]:
    """The block is a run of the job, and the log says so."""
    path = os.environ[VARIABLE]
    run = uuid4().hex[:12]
    lock = os.open(f"{path}.locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        _append(path, ctx, run, "start", alone=_take(lock, ctx.id))
        event = "raised"
        try:
            yield
            event = "end"
        finally:
            _append(path, ctx, run, event)
    finally:
        os.close(lock)


def _take(descriptor: int, number: int) -> bool:
    """Lock this byte for as long as the descriptor is open; False when another open file holds it."""
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError:
        return False
    return True


def _append(path: str, ctx: JobContext, run: str, event: str, *, alone: bool = True) -> None:
    line = {
        "job": ctx.id, "attempt": ctx.attempt, "run": run, "pid": os.getpid(), "event": event,
        "at": time.monotonic(), "alone": alone,
    }  # fmt: skip
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(log, json.dumps(line).encode() + b"\n")
    finally:
        os.close(log)


# Read by tests


class TruthLog:
    """The log of one test, and what can be read off it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[Line]:
        return [Line(**json.loads(line)) for line in self.path.read_bytes().splitlines()]

    def runs(self) -> Mapping[int, Sequence[Run]]:
        """All runs of each job, in the order of their starts."""
        runs: dict[str, Run] = {}
        for line in self.lines():
            if line.event == "start":
                runs[line.run] = Run(line.job, line.attempt, line.pid, line.at, alone=line.alone)
            else:
                runs[line.run].end = line.at
                runs[line.run].returned = line.event == "end"
        jobs: dict[int, list[Run]] = defaultdict(list)
        for run in sorted(runs.values(), key=lambda run: run.start):
            jobs[run.job].append(run)
        return jobs

    def running(self) -> list[Run]:
        """The runs that have started and not ended, as far as one knows."""
        return [run for runs in self.runs().values() for run in runs if run.end is None]

    def started(self) -> int:
        return sum(len(runs) for runs in self.runs().values())


@dataclass(frozen=True, slots=True)
class Expected:
    """How the jobs of one name must end, whatever happens to the processes that run them."""

    state: State = State.COMPLETED
    own_errors: int = 0
    """Attempts that the job wastes by itself."""
    own_crashes: int = 0


@dataclass(slots=True)
class Report:
    """What the checker found; `problems` is empty when all promises were kept."""

    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    reruns: int = 0
    """Runs of a job after one that was cut off."""
    charged: int = 0
    """Attempts that jobs lost by crashes which were not of their own making."""
    overlaps: int = 0
    stuck: int = 0
    slowest: float = 0.0
    """Seconds from a blow to the rerun of a job that it cut off for the first time, at most."""
    problems: list[str] = field(default_factory=list[str])

    def numbers(self) -> dict[str, Any]:
        return {
            "jobs": self.jobs, "states": dict(self.states), "runs": self.runs, "reruns": self.reruns, "charged": self.charged,
            "overlaps": self.overlaps, "stuck": self.stuck, "max_recovery_delay": round(self.slowest, 2),
            "problems": len(self.problems),
        }  # fmt: skip

    def assert_clean(self) -> None:
        print("chaos:", json.dumps(self.numbers()), flush=True)
        assert not self.problems, "\n".join([f"{len(self.problems)} problems", *self.problems[:20]])


def check(
    enqueued: Iterable[int],
    records: Iterable[JobRecord],
    log: TruthLog,
    expected: Mapping[str, Expected],
    *,
    blows: Sequence[float] = (),
    may_charge: bool = False,
) -> Report:
    """Compare what the store says with what ran.

    `expected` is by job name; `blows` are the instants (monotonic) at which processes were killed;
    `may_charge` says that workers were killed, which their jobs cannot be told from crashes of their own.
    """
    found = {record.id: record for record in records}
    runs = log.runs()
    report = Report(jobs=len(found), states=Counter(record.state.value for record in found.values()))
    given = list(enqueued)
    if len(set(given)) < len(given):
        report.problems.append(
            f"{len(given) - len(set(given))} ids were given twice: the database has forgotten what it committed"
        )
    for id in set(given) - found.keys():
        report.problems.append(f"job {id} was enqueued and is not in the store")
    for record in found.values():
        _check_job(report, record, runs.get(record.id, ()), expected[record.name], may_charge)
    for id in runs.keys() - found.keys():
        report.problems.append(f"job {id} ran and is not in the store")
    for id, of_one in runs.items():
        _check_runs(report, of_one)
        if id in found and found[id].interrupts == 1:  # from the second interrupt on a job waits on purpose
            report.slowest = max(report.slowest, _recovery(of_one, blows))
    return report


def _check_job(report: Report, record: JobRecord, runs: Sequence[Run], expected: Expected, may_charge: bool) -> None:
    told = f"job {record.id} ({record.name}, {record.state}, attempt {record.attempt}, {len(runs)} runs)"
    if record.state in (State.CLAIMED, State.RUNNING):
        report.stuck += 1
        report.problems.append(f"{told} is stuck")
    elif record.state is State.WAITING:
        report.problems.append(f"{told} has not ended")
    elif record.state is not expected.state and not (may_charge and record.state is State.FAILED and record.crashes):
        report.problems.append(f"{told} should be {expected.state}: {[e.message for e in record.errors]}")
    if record.attempt > record.max_attempts:
        report.problems.append(f"{told} had more attempts than {record.max_attempts}")
    if record.state is State.COMPLETED and not any(run.returned for run in runs):
        report.problems.append(f"{told} is completed and never came to its end")
    crashes = record.crashes - expected.own_crashes
    report.charged += max(0, crashes)
    if crashes > 0 and not may_charge:
        report.problems.append(f"{told} was charged with {record.crashes} crashes")
    free = record.interrupts - min(record.interrupts, 3)  # the fourth interrupt and all after it cost an attempt
    fair = expected.own_errors + expected.own_crashes + max(0, crashes) + free + (expected.state is State.COMPLETED)
    if record.state is State.COMPLETED and record.attempt != fair:
        report.problems.append(f"{told} should have had {fair} attempts: {[e.message for e in record.errors]}")


def _check_runs(report: Report, runs: Sequence[Run]) -> None:
    report.runs += len(runs)
    for earlier, later in pairwise(runs):
        cut_off = earlier.end is None
        report.reruns += cut_off
        if not later.alone or (earlier.end is not None and earlier.end > later.start):
            report.overlaps += 1
            report.problems.append(f"two runs of job {later.job} overlap: {earlier} and {later}")


def _recovery(runs: Sequence[Run], blows: Sequence[float]) -> float:
    """Seconds from the blow that cut off the first of these runs to the start of the next one; 0 when none did."""
    if len(runs) < 2 or runs[0].end is not None:
        return 0.0
    between = [blow for blow in blows if runs[0].start <= blow <= runs[1].start]
    return runs[1].start - between[0] if between else 0.0
