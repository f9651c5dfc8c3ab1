"""HARNESS. One measurement of one contestant: an empty database, a file for marks, clients and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from benchmarks.peers import marks
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.marks import Mark
from benchmarks.peers.processes import TAG, Processes
from benchmarks.peers.stores import Eye, Store
from benchmarks.peers.venvs import ROOT, Environment
from tests.servers.process import Reaper

MEMORY = Path("/dev/shm")
"""Where the marks lie, if it is there: a database's fsync does not wait for them."""
LOOK = 0.005
"""Seconds between two looks of a harness that waits: one `stat` of a file."""
BOOT = 30.0
"""Seconds within which the first job must begin."""
CLIENT = 120.0
"""Seconds that a client may take."""


class CellFailed(Exception):
    """This contestant cannot be measured here; the message says why."""


class Cell:
    """Its processes are watched by a reaper of their own, which ends them should the harness be killed."""

    def __init__(self, contestant: Contestant, environment: Environment, store: Store) -> None:
        self.contestant = contestant
        self.system = contestant.system
        self._environment = environment
        self._store = store
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            parent = MEMORY if os.access(MEMORY, os.W_OK) else None
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sidequest-bench-", dir=parent)))
            self.marks = str(folder / "marks")
            self.url = opened.enter_context(self._store.empty())
            self._watcher = opened.enter_context(closing(Reaper()))
            self._watcher.watch_folder(folder)
            self.processes = Processes(self._watcher, folder)
            opened.callback(self.processes.kill)
            self._variables = self._environ()
            self._opened = opened.pop_all()
        try:
            self.client("prepare")
            self.eye: Eye = self._opened.enter_context(self._store.eye(self.url))
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _environ(self) -> dict[str, str]:
        """Ours without what would configure Sidequest, and what tells programs of a peer where everything is."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("SIDEQUEST_", "BENCH_"))}
        for name in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"):  # nobody compiles its modules at every start
            plain.pop(name, None)
        return plain | {
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "PATH": f"{self._environment.python.parent}:{os.environ.get('PATH', '')}",
            marks.VARIABLE: self.marks,
            "BENCH_URL": self.url,
            "BENCH_MODE": self.contestant.mode_name,
            **self.system.environment(self.url),
            **self.contestant.mode.environment,
        }

    def sibling(self) -> Cell:
        """Another one of the same contestant, on a database of its own; not opened."""
        return Cell(self.contestant, self._environment, self._store)

    # Clients

    def client(self, task: str, *arguments: object, patience: float = CLIENT) -> Any:
        """What a client of the system answers. Raises CellFailed."""
        running = self._begin_client(task, *arguments)
        return self._end_client(running, task, patience)

    def _begin_client(self, task: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [self._environment.python, "-m", "benchmarks.peers.client", self.system.name, task, *map(str, arguments)]
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**self._variables, TAG: self.processes.tag},
        )  # fmt: skip
        self._watcher.watch(running, signal.SIGTERM)
        return running

    def _end_client(self, running: subprocess.Popen[bytes], task: str, patience: float) -> Any:
        try:
            answer, errors = running.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            raise CellFailed(f"its client did not finish `{task}` within {patience:g} s") from None
        if running.returncode != 0:
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise CellFailed(f"its client failed at `{task}`: {' '.join(last) or running.returncode}")
        return json.loads(answer.splitlines()[-1])

    def fill(self, kind: str, count: int, first: int = 0) -> float:
        """Enqueue so many jobs at once; seconds that it took."""
        return float(self.client("fill", kind, first, count))

    # Workers

    def start_workers(self, commands: Sequence[Sequence[str]] | None = None) -> int:
        """Start all of the contestant's; the instant of that, in nanoseconds."""
        began = time.monotonic_ns()
        for program, *arguments in commands or self.contestant.mode.workers:
            self.processes.start([self._environment.program(program), *arguments], self._variables)
        return began

    def await_marks(self, count: int, within: float, boot: float = BOOT) -> bool:
        """Whether there are so many marks before `within` seconds have passed since the first new one.

        Raises CellFailed when there is none within `boot` seconds, or when all workers have ended.
        """
        begin = time.monotonic()
        before, first = marks.count(self.marks), 0.0
        while (found := marks.count(self.marks)) < count:
            now = time.monotonic()
            if found > before and not first:
                first = now
            if not first and now - begin > boot:
                raise CellFailed(f"no job began within {boot:g} s; its workers say: {self.processes.last_words()}")
            if first and now - first > within:
                return False
            if self.processes.all_ended():
                raise CellFailed(f"its workers ended: {self.processes.last_words()}")
            time.sleep(LOOK)
        return True

    def await_condition(self, condition: Callable[[], bool], within: float) -> bool:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)
        return True

    def await_acknowledged(self, within: float) -> int | None:
        """The instant at which the store had the ends of all jobs, in nanoseconds; None if the system writes none.

        Raises CellFailed when that takes too long.
        """
        question = self.system.left.get(self.contestant.database)
        if question is None:
            return None
        if not self.await_condition(lambda: self.eye.count(question) == 0, within):
            raise CellFailed(f"{self.eye.count(question)} jobs have no end in the store {within:g} s after the last one ended")
        return time.monotonic_ns()

    def read_marks(self, skip: int = 0) -> list[Mark]:
        return list(marks.read(self.marks, skip))

    def count_marks(self) -> int:
        return marks.count(self.marks)


def spans(found: Sequence[Mark]) -> Mapping[int, list[tuple[int, int]]]:
    """Begin and end of each run that ended, by job."""
    begun: dict[tuple[int, int], int] = {}
    done: dict[int, list[tuple[int, int]]] = {}
    for mark in found:
        if mark.what == marks.START:
            begun[mark.job, mark.pid] = mark.began
        elif mark.what == marks.WHOLE:
            done.setdefault(mark.job, []).append((mark.began, mark.ended))
        elif mark.what == marks.END:
            done.setdefault(mark.job, []).append((begun.pop((mark.job, mark.pid), mark.began), mark.ended))
    return done
