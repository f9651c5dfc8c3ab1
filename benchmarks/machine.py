"""This machine: what it is, its processes, and what they cost."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import sidequest


def description() -> dict[str, str | int | None]:
    return {
        "sidequest": sidequest.__version__,
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
    }


def engine_pid() -> int:
    """The engine process that this process has started."""
    [pid] = [pid for pid in children(os.getpid()) if b"sidequest.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def children(parent: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def descendants(ancestor: int) -> list[int]:
    """Children, and what they have started: workers are forked by a child of their engine."""
    found = children(ancestor)
    for pid in found:
        found += children(pid)
    return found


def own_memory(pid: int) -> int:
    """Bytes of its memory, that which several share being divided among them."""
    smaps = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(next(line for line in smaps.splitlines() if line.startswith("Pss:")).split()[1])


def cpu_seconds(pid: int) -> float:
    """What the process has used so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
