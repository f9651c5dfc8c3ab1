"""Jobs that do what no job should do."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sidequest import JobContext, job


@job
async def healthy(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@job
def healthy_sync(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


# Ends of the process


@job(max_attempts=1)
def exits(code: int) -> None:
    sys.exit(code)


@job(max_attempts=1)
def exits_at_once(code: int) -> None:
    os._exit(code)


@job(max_attempts=1)
async def exits_at_once_async(code: int) -> None:
    os._exit(code)


@job(max_attempts=1)
def segfaults() -> None:
    ctypes.string_at(0)


@job(max_attempts=1)
def aborts() -> None:
    faulthandler.disable()
    os.abort()


@job(max_attempts=1)
def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(max_attempts=1)
def balloons(megabytes: int) -> int:
    """Take memory bit by bit, and hold it."""
    held = []
    for _ in range(megabytes):
        held.append(b"x" * 1024 * 1024)
        time.sleep(0.001)
    time.sleep(30)
    return len(held)


@job
async def grows(megabytes: int) -> int:
    """Leave something behind that is not given back."""
    leak.append(b"x" * megabytes * 1024 * 1024)
    return os.getpid()


leak: list[bytes] = []


@job(max_attempts=1)
def kills_its_group() -> None:
    os.killpg(0, signal.SIGKILL)


# Not stopping


@job(max_attempts=1, timeout=0.2, kill_grace=0.3)
def ignores_sigterm() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        with suppress(BaseException):
            time.sleep(60)


@job(max_attempts=1, timeout=0.2, kill_grace=0.3)
def hogs_the_gil() -> None:
    sum(range(10**12))


@job(max_attempts=1)
async def blocks_the_loop(seconds: float) -> None:
    time.sleep(seconds)


# Other processes


@job(max_attempts=1)
def forks(path: str) -> int:
    """A child, and one that made itself a child of nobody."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            Path(path).write_text(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)
    return os.getpid()


@job(max_attempts=1)
def leaves_a_subprocess() -> int:
    subprocess.Popen(["sleep", "60"])
    return os.getpid()


# Descriptors


@job(max_attempts=1)
def closes_stdout() -> int:
    os.close(1)
    os.close(2)
    return os.getpid()


@job(max_attempts=1)
def closes_everything() -> None:
    os.closerange(0, 1024)


@job(max_attempts=1)
async def closes_everything_async() -> None:
    os.closerange(0, 1024)
    await asyncio.sleep(60)


@job(max_attempts=1)
def floods(megabytes: int) -> int:
    line = b"x" * 999 + b"\n"
    for _ in range(megabytes):
        os.write(1, line * 100)
        for _ in range(9):
            os.write(2, line * 100)
    return megabytes


@job(max_attempts=1)
def writes_to_its_channel(data: str) -> None:
    for fd in _sockets():
        with suppress(OSError):
            os.write(fd, bytes.fromhex(data))
    time.sleep(0.3)


@job(max_attempts=1)
def begins_a_message() -> None:
    header = struct.pack("<IB", 1_000_000, 61)
    for fd in _sockets():
        with suppress(OSError):
            os.write(fd, header + b"half")


def _sockets() -> list[int]:
    found = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return [fd for fd in found if fd > 2 and _is_socket(fd)]


def _is_socket(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as found:
            return found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM
    except OSError:
        return False


# Results and errors


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("no pickle of me")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (42,)


class HostileError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (43,)


class NeedsTwo(Exception):
    """Cannot be built again from what `args` holds."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class NoWords(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@job(max_attempts=1)
def returns(what: str) -> object:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    values: dict[str, object] = {
        "unpicklable": Unpicklable(),
        "hostile": Hostile(),
        "lock": threading.Lock(),
        "nan": {"a": [1.0, float("nan")]},
        "surrogate": {"a": "\ud800"},
        "cyclic": cyclic,
        "50 MB": "x" * 50_000_000,
        "generator": (n for n in range(3)),
    }
    return values[what]


@job(max_attempts=1)
def raises(what: str) -> NoReturn:
    raise errors_by_name()[what]


@job(max_attempts=1)
async def raises_async(what: str) -> NoReturn:
    await asyncio.sleep(0)
    raise errors_by_name()[what]


def errors_by_name() -> dict[str, BaseException]:
    return {
        "unpicklable": ValueError(threading.Lock().__class__.__name__, Unpicklable()),
        "hostile": HostileError("run me"),
        "two arguments": NeedsTwo(1, 2),
        "no words": NoWords(),
        "CancelledError": asyncio.CancelledError("by itself"),
        "StopIteration": StopIteration("enough"),
        "StopAsyncIteration": StopAsyncIteration("enough"),
        "KeyboardInterrupt": KeyboardInterrupt("ctrl"),
        "GeneratorExit": GeneratorExit("leave"),
        "SystemExit": SystemExit("bye"),
        "BaseException": BaseException("base"),
        "surrogate": ValueError("\ud800"),
        "long": ValueError("x" * 1_000_000),
    }


@job(max_attempts=1)
def recurses(n: int = 0) -> int:
    return deeper(n)


def deeper(n: int) -> int:
    return deeper(n + 1) + 1


# What is left behind


@job
async def leaks_a_task() -> str:
    async def stubborn() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    leaked.append(asyncio.get_running_loop().create_task(stubborn()))
    return "done"


leaked: list[asyncio.Task[None]] = []


@job
async def leaks_a_thread_of_the_loop() -> str:
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, time.sleep, 60)
    await asyncio.sleep(0)
    return "done"


@job
async def waits_too_briefly() -> str:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(time.sleep, 60), 0.1)
    return "done"


@job
def leaks_a_thread() -> int:
    threading.Thread(target=time.sleep, args=(60,), name="left-behind").start()
    return os.getpid()


@job
def sleeps_at_exit() -> int:
    import atexit

    atexit.register(time.sleep, 60)
    return os.getpid()


@job
def changes(what: str, path: str = "/") -> int:
    match what:
        case "cwd":
            os.chdir(path)
        case "gone":
            Path(path).mkdir()
            os.chdir(path)
            Path(path).rmdir()
        case "umask":
            os.umask(0o777)
        case "environment":
            os.environ["POISON"] = "1"
        case "variable":
            del os.environ["PATH"]
        case "signals":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        case "alarm":
            signal.setitimer(signal.ITIMER_REAL, 60)
        case "limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
        case _:
            raise ValueError(what)
    return os.getpid()


@job
async def changes_async(path: str) -> int:
    os.chdir(path)
    return os.getpid()


@job
def surroundings() -> list[object]:
    """What a job finds: pid, working directory, umask, a variable."""
    mask = os.umask(0o22)
    os.umask(mask)
    return [os.getpid(), str(Path.cwd()), mask, os.environ.get("POISON")]


@job
async def where_it_waits(ctx: JobContext, gate: str) -> None:
    await deep_inside(gate)


async def deep_inside(gate: str) -> None:
    while not Path(gate).exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)


@job
def where_it_sits(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.05)


@job
def speaks(ctx: JobContext) -> None:
    import logging

    print("to stdout")  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    subprocess.run(["echo", "from a child"], check=True)
    os.write(1, b"\xff\n")
    logging.getLogger("shop").warning("out of stock")
    ctx.log("from the context")
