"""WORKER PROCESS. What a job has left behind in its process that the next one would find.

Nothing is put right: nobody could be sure to do that. The engine is told what was found, and
replaces this worker. What a lazily imported module adds to the environment is the module's doing
and comes again in every worker, so that alone spoils nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import thread as executors
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

LIMITS = {
    name: getattr(resource, name)
    for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC")
    if hasattr(resource, name)
}
SIGNALS = sorted(map(int, signal.valid_signals()))
_handler: Callable[[int], Any] = import_module("_signal").getsignal
"""What is below the enums of `signal`: ten times as fast."""
TASKS = "/proc/self/task"
MOST_FINDINGS = 10


class Hygiene:
    """Compares the process with what it was when it was ready for its first job."""

    def __init__(self) -> None:
        self._directory = _directory()
        self._umask = _umask()
        self._handlers = _handlers()
        self._timers = _timers()
        self._limits = _limits()
        self._environment = dict(_environment())
        self._modules = len(sys.modules)
        self._threads = set(threading.enumerate())
        self._children = set(_children())

    def check(self, *, nothing_runs: bool = True) -> list[str]:
        """What is not as it was, in words; nothing when all is well. Threads and children of jobs that run are their own."""
        try:
            found = [*self._settings(), *self._variables()]
            if nothing_runs:
                found += self._left_running()
        except Exception as error:  # the job has replaced what this is made of
            return [f"it cannot be looked at ({type(error).__name__})"]
        return found[:MOST_FINDINGS]

    def _settings(self) -> Iterator[str]:
        if (directory := _directory()) != self._directory:
            yield f"the working directory is {directory or 'gone'}"
        if (umask := _umask()) != self._umask:
            yield f"the umask is {umask:04o}"
        if (handlers := _handlers()) != self._handlers:
            for number, before, after in zip(SIGNALS, self._handlers, handlers, strict=True):
                if before != after:
                    yield f"{_signal_name(number)} has another handler"
        if _timers() != self._timers:
            yield "an interval timer was changed"
        if (limits := _limits()) != self._limits:
            for name, before, after in zip(LIMITS, self._limits, limits, strict=True):
                if before != after:
                    yield f"{name} is {after[0]}"
        for number, name in ((1, "stdout"), (2, "stderr")):
            if not _is_open(number):
                yield f"{name} is closed"

    def _variables(self) -> Iterator[str]:
        environment = _environment()
        if environment == self._environment:
            return
        changed = [name for name, value in self._environment.items() if environment.get(name) != value]
        added = [name for name in environment if name not in self._environment]
        imported = len(sys.modules) != self._modules
        self._environment, self._modules = dict(environment), len(sys.modules)
        for name in (*changed, *(() if imported else added)):
            yield f"the environment variable {_text(name)} was changed"

    def _left_running(self) -> Iterator[str]:
        if threading.active_count() != len(self._threads):
            for thread in threading.enumerate():
                if thread not in self._threads and not thread.daemon and not _is_an_executors(thread):
                    yield f"the thread {thread.name!r} still runs"
        for pid in _children():
            if pid not in self._children and not _is_dead(pid):
                yield f"process {pid} still runs"


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - the cheapest way
    except OSError:
        return ""


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _handlers() -> list[Any]:
    return [_handler(number) for number in SIGNALS]


def _timers() -> list[bool]:
    """Which interval timers run."""
    return [signal.getitimer(which)[0] > 0 for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(number) for number in LIMITS.values()]


def _environment() -> dict[Any, Any]:
    """As it is stored, because decoding it costs more than all the rest."""
    stored: dict[Any, Any] = getattr(os.environ, "_data", {})
    return stored


def _children() -> Iterator[int]:
    """The processes that this one has started and that are still its children; Linux only."""
    if not _has_children():
        return
    with suppress(OSError, ValueError):
        for task in os.listdir(TASKS):  # noqa: PTH208 - three times as fast
            file = os.open(f"{TASKS}/{task}/children", os.O_RDONLY)
            try:
                yield from map(int, os.read(file, 65_536).split())
            finally:
                os.close(file)


def _has_children() -> bool:
    """What nearly always says that there is nothing to look for, at a twentieth of the cost."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except AttributeError:  # macOS before Python 3.13
        pass
    return True


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_an_executors(thread: threading.Thread) -> bool:
    """A thread of a pool waits for work; the pool ends it."""
    return thread in getattr(executors, "_threads_queues", ())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(name: bytes | str) -> str:
    return os.fsdecode(name)
