"""Processes of servers: each in a session of its own, watched by the reaper, logging to a file."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import reaper

LAST_LINES = 15
"""How much of a log stands in an error."""


class Reaper:
    """The process that ends what this session started, however the session ends."""

    def __init__(self) -> None:
        self._watched: list[subprocess.Popen[bytes]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-I", reaper.__file__], stdin=subprocess.PIPE, start_new_session=True, env=environment()
        )

    def watch(self, process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
        self._watched.append(process)
        self._tell(pid=process.pid, signal=stop_signal)

    def watch_folder(self, folder: Path) -> None:
        self._tell(folder=str(folder))

    def close(self) -> None:
        """End all that it watches, and delete the folders; they are gone when this returns."""
        self._process.communicate()
        for process in self._watched:
            process.wait()

    def _tell(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()


class Process:
    """A server that runs, or the command that sets one up."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, reaper: Reaper, stop_signal: signal.Signals, user: str = ""
    ) -> None:
        """`user` is who it runs as; empty: we."""
        self.log = log
        self._stop_signal = stop_signal
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", env=environment(), start_new_session=True,
                **as_user(user),
            )  # fmt: skip
        reaper.watch(self._process, stop_signal)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, within: float) -> int:
        return self._process.wait(within)

    def stop(self) -> None:
        self._process.send_signal(self._stop_signal)
        self._process.wait(30)

    def kill(self) -> None:
        """Kill it and all that it started."""
        self.send(signal.SIGKILL)
        self._process.wait(30)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        for pid in reaper.family(self._process.pid):
            reaper.send(pid, number)

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def as_user(name: str) -> Mapping[str, Any]:
    """What makes a child of ours run as that user alone."""
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": ()} if name else {}


def environment() -> Mapping[str, str]:
    """Ours, without that by which tests recognise the processes that they started."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SIDEQUEST_")}
