"""Hosts: an app with its engine and its workers, in processes that can be killed, frozen and stopped.

A host is all processes with its mark in their environment, so that a whole one can die at once, as
when its power fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.truth import VARIABLE
from tests.integration.waiting import MARK, marked_processes, marked_workers

ROOT = Path(__file__).parents[2]


class Host:
    """An app that runs an engine. `start` returns at once; `ready` says whether it has come up."""

    def __init__(self, name: str, url: str, mark: str, folder: Path, truth: Path, **settings: Any) -> None:
        """`settings` are those of `Sidequest`; `environ` among them is added to the environment."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._mark = f"{mark}.{name}."
        self._environ: Mapping[str, str] = settings.pop("environ", {})
        self._settings = settings
        self._url = url
        self._truth = truth
        self._app: subprocess.Popen[bytes] | None = None
        self._read = 0

    def start(self) -> None:
        environ = {
            **os.environ, **self._environ, MARK: self._mark, VARIABLE: str(self._truth),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }  # fmt: skip
        self._read = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self._app = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.chaos.host_app", self._url, json.dumps(self._settings)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    @property
    def ready(self) -> bool:
        return b"chaos host is ready" in self._new_log()

    @property
    def exit_code(self) -> int | None:
        """The app's, once it has ended."""
        return None if self._app is None else self._app.poll()

    @property
    def app(self) -> list[int]:
        return [] if self._app is None or self._app.poll() is not None else [self._app.pid]

    @property
    def engines(self) -> list[int]:
        return self._pids("-m sidequest.engine")

    @property
    def workers(self) -> list[int]:
        return sorted(marked_workers(self._mark))

    def words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:]) if self.log.exists() else ""

    def terminate(self) -> None:
        """Ask the app to stop, as a deploy does."""
        for pid in self.app:
            send(pid, signal.SIGTERM)

    def die(self) -> None:
        """All of it at once; nobody there has time for a last word."""
        if self._app is not None:
            self._app.kill()  # by its number: one that was started just now does not bear its mark yet
            self._app.wait()
        while left := marked_processes(self._mark):  # what was being started while we killed is found by the next look
            kill_all(left)
            time.sleep(0.01)

    def reap(self) -> None:
        if self._app is not None:
            self._app.poll()

    def _pids(self, word: str) -> list[int]:
        return [pid for pid, command in marked_processes(self._mark).items() if word in command]

    def _new_log(self) -> bytes:
        with self.log.open("rb") as log:
            log.seek(self._read)
            return log.read()


def send(pid: int, number: int) -> bool:
    """Whether the process was still there to get the signal."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        send(pid, signal.SIGKILL)
