"""ENGINE PROCESS. How worker processes come into the world: forked from a template, or started anew.

The template is `multiprocessing`'s forkserver, which has our worker's code loaded, no thread, no
connection, and nothing of the user's. A worker that is forked from it is not a child of the engine; so
this is done only where the kernel tells of the end of any process, by a pidfd (Linux). Everywhere else
each worker is a fresh interpreter (spawn). Reasons and measurements: docs/design/decisions/0007.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from math import inf
from multiprocessing import forkserver, popen_forkserver, util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from threading import Lock
from time import sleep
from typing import Any

from sidequest.clock import monotonic

TEMPLATE = "sidequest.worker.template"
"""The module that the forkserver imports; it brings the others."""
ON_UVLOOP = "sidequest.worker.on_uvloop"
"""What it imports before that, unless workers are to run on asyncio's own loop."""
STATUS_WAIT = 1.0
"""Seconds in which the forkserver may tell how a worker ended, once that has ended."""
LAST_WAIT = 0.5
"""Seconds in which the template may end by itself when the engine does."""
UNTOLD = 256
"""Stands for an exit code that nobody knows, because the forkserver died or stands still; no process can have it."""
_preloaded = [TEMPLATE]
"""What the next template imports."""


def begin(event_loop: str) -> None:
    """Let the template begin to import, if workers are to be forked. Returns at once."""
    _preloaded[:] = [TEMPLATE] if event_loop == "asyncio" else [ON_UVLOOP, TEMPLATE]
    if forks():
        forkserver.set_forkserver_preload(_preloaded)
        with suppress(OSError):  # no more processes or descriptors: the first worker tries again, and says so
            forkserver.ensure_running()


def end() -> None:
    """Kill a template that does not answer; the next worker brings a new one. Those that it has made live on."""
    server: Any = forkserver._forkserver
    pid: int | None = server._forkserver_pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish() -> None:
    """Let the template end, and see to it that it has: where an engine was, nothing of it may be left."""
    server: Any = forkserver._forkserver
    pid: int | None = server._forkserver_pid
    if pid is None:
        return
    with suppress(OSError):
        os.close(server._forkserver_alive_fd)  # the end of this line is the end of the template
    if not _has_ended(pid, LAST_WAIT):
        end()
        _has_ended(pid, LAST_WAIT)


def _has_ended(pid: int, within: float) -> bool:
    """Whether this child ends in so many seconds."""
    until = monotonic() + within
    while monotonic() < until:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:  # somebody else has reaped it
            return True
        sleep(0.002)
    return False


def forks() -> bool:
    """Whether workers are forked here."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # not Linux, a kernel before 5.3, or a sandbox that does not let us
        return False
    return True


def make_context() -> Forking | Spawning:
    """For the executor of one worker."""
    return Forking() if forks() else Spawning()


def exit_code(process: BaseProcess) -> int | None:
    """How a process that is gone has ended, if anybody can tell."""
    return None if process.exitcode == UNTOLD else process.exitcode


class _Popen(popen_forkserver.Popen):
    """A forked process, which this one knows to be over when it is, whatever has become of the forkserver.

    The original takes the forkserver's end for that of all processes, and may read the exit code twice
    when two threads ask at once; the second then gets another one.
    """

    def _launch(self, process_obj: BaseProcess) -> None:
        super()._launch(process_obj)  # type: ignore[misc]
        self._status: int = self.sentinel
        self._told_by = inf
        self._asking = Lock()
        self._unwatch: Callable[[], object] | None = None
        with suppress(ProcessLookupError):  # over already: then its status is there
            self.sentinel = os.pidfd_open(self.pid)
            self._unwatch = util.Finalize(self, os.close, (self.sentinel,))

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        patient = flag != os.WNOHANG
        if self.returncode is None and wait([self.sentinel], None if patient else 0):
            if not self._asking.acquire(blocking=patient):
                return None
            try:
                if self.returncode is None:
                    self.returncode = self._ask(patient)
            finally:
                self._asking.release()
        return self.returncode

    def _ask(self, patient: bool) -> int | None:
        self._told_by = min(self._told_by, monotonic() + STATUS_WAIT)
        if wait([self._status], self._told_by - monotonic() if patient else 0):
            try:
                return int(forkserver.read_signed(self._status))
            except (OSError, EOFError):  # the forkserver died
                return UNTOLD
        return None if monotonic() < self._told_by else UNTOLD

    def close(self) -> None:
        super().close()
        if self._unwatch is not None:
            self._unwatch()


class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Popen:  # noqa: N802 - as multiprocessing calls it
        return _Popen(process_obj)

    def __reduce__(self) -> Any:
        """A worker gets what it would get by spawn: nothing of an engine, and `spawn` as the way to start processes."""
        return object.__new__, (SpawnProcess,), vars(self)


class Forking(ForkServerContext):
    """Remembers the process that was made with it."""

    process: BaseProcess

    def __init__(self) -> None:
        super().__init__()
        forkserver.set_forkserver_preload(_preloaded)  # where nobody began beforehand

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override] # noqa: N802
        self.process = _Process(*args, **kwargs)
        return self.process


class Spawning(SpawnContext):
    """Remembers the process that was made with it."""

    process: BaseProcess

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override] # noqa: N802
        self.process = SpawnProcess(*args, **kwargs)
        return self.process
