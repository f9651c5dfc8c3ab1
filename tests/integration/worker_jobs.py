"""Jobs that tell what process they are in, and some that harm whoever started it."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import random
import resource
import secrets
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from uuid import uuid4

from sidequest import job
from sidequest.event_loop import kind_of

if folder := os.environ.get("SIDEQUEST_TEST_IMPORTS"):
    (Path(folder) / str(os.getpid())).touch()


def loop_here() -> tuple[str, bool]:
    """What kind of loop runs here, and whether it was made for this one job."""
    alone = any(frame.filename.endswith("lone_loop.py") for frame in traceback.extract_stack())
    return kind_of(asyncio.get_running_loop()), alone


@job
async def running_loop() -> tuple[str, bool]:
    return loop_here()


@job
def parent() -> tuple[int, int]:
    """This process and the one that it is a child of."""
    return os.getpid(), os.getppid()


@job
def imported() -> list[str]:
    return sorted(sys.modules)


@job
def surroundings() -> dict[str, object]:
    """What jobs can see of the process that they are in, as far as it must be the same in each worker."""
    engine = multiprocessing.parent_process()
    assert engine is not None
    return {
        "leads its group and session": (os.getpgrp(), os.getsid(0)) == (os.getpid(), os.getpid()),
        "watches": engine.pid,
        "directory": str(Path.cwd()),
        "umask": os.umask(0o022),
        "path": sys.path,
        "environment": {name: value for name, value in os.environ.items() if name != "SIDEQUEST_WORKER"},
        "marked": os.environ["SIDEQUEST_WORKER"] == str(os.getpid()),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
        "title": Path("/proc/self/comm").read_text(),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "handlers": {str(int(number)): handler_of(number) for number in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1),
        "limits": [
            resource.getrlimit(number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_AS)
        ],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "start method": multiprocessing.get_start_method(),
        "flags": list(sys.flags),
        "descriptors": descriptors(),
        "argv": sys.argv,
    }


def handler_of(number: int) -> str:
    handler = signal.getsignal(number)
    return getattr(handler, "__qualname__", repr(handler))


def descriptors() -> list[str]:
    """What each open descriptor is, and whether programs that are started here get it."""
    found: list[str] = []
    for number in sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        try:
            kind = str(Path(f"/proc/self/fd/{number}").readlink()).partition(":")[0].partition("-")[0]
            found.append(f"{kind} inherited" if os.get_inheritable(number) else kind)
        except OSError:  # the one that lists them
            continue
    return sorted(found)


@job
def chances() -> list[str]:
    return [str(random.random()), str(uuid4()), secrets.token_hex(), os.urandom(8).hex()]


@job
def descriptors_of_a_program(path: str) -> list[str]:
    """Those that a program gets which is started without any care."""
    os.system(f"ls -l /proc/self/fd > {path}")
    return [line.split()[-3] for line in Path(path).read_text().splitlines()[1:]]


@job(max_attempts=1)
def exits_at_once(code: int) -> None:
    os._exit(code)


@job
def sleeps(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@job
def waits(gate: str) -> int:
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()


@job(max_attempts=1)
def exits_when_told(gate: str, code: int) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)
    os._exit(code)


@job(max_attempts=1)
async def leaves_a_child_that_holds_everything(path: str) -> None:
    """The child is a copy of the worker, with all of its descriptors, and in a session of its own."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.write(its, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(mine, 1)
    Path(path).write_text(str(child))
    os._exit(9)


@job
def starts_a_process(method: str) -> tuple[int, int, int]:
    """Of `multiprocessing`, which lives on: this process, that one, and the group that it is in."""
    process = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    assert process.pid is not None
    return os.getpid(), process.pid, os.getpgid(process.pid)


@job
def writes_at_exit(path: str) -> None:
    atexit.register(Path(path).write_text, "goodbye")


@job
def kills_its_parent(number: int) -> int:
    os.kill(os.getppid(), number)
    return os.getpid()
