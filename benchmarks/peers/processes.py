"""HARNESS. The processes of one measurement: they are all gone when it is over, whatever they did meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from tests.servers import reaper
from tests.servers.process import Reaper

TAG = "BENCH_CELL"
"""An environment variable by which all processes of a measurement are known, also those whose parents have died."""
TICK = os.sysconf("SC_CLK_TCK")
LAST_LINES = 6


class Processes:
    """Worker processes, and what they start."""

    def __init__(self, watcher: Reaper, folder: Path) -> None:
        self.tag = uuid4().hex
        self.restarts = 0
        """How often `restart_ended` had to do something."""
        self._watcher = watcher
        self._folder = folder
        self._running: list[tuple[subprocess.Popen[bytes], Sequence[str], Mapping[str, str]]] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self._folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
                env={**environment, TAG: self.tag}, start_new_session=True,
            )  # fmt: skip
        self._watcher.watch(process, signal.SIGTERM)
        self._running.append((process, command, environment))

    def any_ended(self) -> bool:
        """Whether one of them has ended by itself."""
        return any(process.poll() is not None for process, _, _ in self._running)

    def all_ended(self) -> bool:
        return all(process.poll() is not None for process, _, _ in self._running)

    def restart_ended(self) -> None:
        """What a supervisor does."""
        for process, command, environment in list(self._running):
            if process.poll() is not None:
                self._running.remove((process, command, environment))
                self.restarts += 1
                self.start(command, environment)

    def family(self) -> list[int]:
        """All that are alive."""
        return [pid for process, _, _ in self._running if process.poll() is None for pid in reaper.family(process.pid)]

    def cpu_seconds(self) -> float:
        """What they have used so far, with their children that have ended."""
        return sum(_cpu_seconds(pid) for pid in self.family())

    def memory(self) -> float:
        """Megabytes: what they share is counted once."""
        return sum(_pss(pid) for pid in self.family()) / 1024

    def stop(self, patience: float = 5.0) -> None:
        """Ask them to end, then kill what is left."""
        for process, _, _ in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self.tagged() and time.monotonic() < deadline:
            for process, _, _ in self._running:
                process.poll()
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        while alive := self.tagged():
            for pid in alive:
                reaper.send(pid, signal.SIGKILL)
            for process, _, _ in self._running:
                process.poll()
            time.sleep(0.01)
        for process, _, _ in self._running:
            process.wait()
        self._running.clear()

    def last_words(self) -> str:
        log = self._folder / "workers.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return " / ".join(lines[-LAST_LINES:])

    def tagged(self) -> list[int]:
        """All processes of the measurement, also those that left their family."""
        mine = f"{TAG}={self.tag}".encode()
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mine in entry.read_bytes() and not _is_zombie(entry.parent):
                    found.append(int(entry.parent.name))
            except OSError:  # it ended meanwhile, or is none of ours
                continue
        return found


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICK


def _pss(pid: int) -> int:
    """Kilobytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
