"""REAPER PROCESS. Ends a test session's servers and deletes their files, however the session ends.

It reads one JSON line per server process (`{"pid": …, "signal": …}`) or directory
(`{"folder": …}`). The end of its input means that the session is over: closed, interrupted or
killed. It runs as a script, so that it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE = 10.0
"""Seconds between asking a server to stop and killing it."""


def main() -> None:
    servers: list[tuple[int, int, int]] = []
    folders: list[str] = []
    for line in sys.stdin:
        match json.loads(line):
            case {"pid": pid, "signal": number}:
                with suppress(ProcessLookupError):  # it has ended already
                    servers.append((pid, os.pidfd_open(pid), number))
            case {"folder": folder}:
                folders.append(folder)
    end(servers)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end(servers: list[tuple[int, int, int]]) -> None:
    """Ask all of them at once; kill those that do not stop in time, with all that they started."""
    families = {pidfd: family(pid) for pid, pidfd, _ in servers if alive(pidfd, within=0)}
    for _, pidfd, number in servers:
        for pid in families.get(pidfd, ()):
            send(pid, signal.SIGCONT)  # a frozen one would not hear the next signal
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
    deadline = time.monotonic() + GRACE
    for _, pidfd, _ in servers:
        if alive(pidfd, within=deadline - time.monotonic()):
            for pid in families.get(pidfd, ()):
                send(pid, signal.SIGKILL)
            alive(pidfd, within=GRACE)


def alive(pidfd: int, within: float) -> bool:
    """Whether the process is still there after so many seconds."""
    ended, _, _ = select.select([pidfd], [], [], max(within, 0))
    return not ended


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def family(pid: int) -> list[int]:
    """The process and all that descend from it, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += parents.get(one, ())
    return found


if __name__ == "__main__":
    # The terminal's Ctrl-C is for the session, which then closes our input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
