"""WORKER PROCESS ⇄ engine. What an engine's executor calls here, by way of `entry`.

`prepare_process` is the executor's initializer and does nothing that could fail; `serve` is the one
long-lived call. Nothing that a job raises or returns leaves `serve` as a Python object.
"""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import io
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from ctypes import Array
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from sidequest import failpoints
from sidequest.clock import monotonic
from sidequest.config import read_job_defaults
from sidequest.event_loop import loop_factory
from sidequest.jobs import client as clients
from sidequest.jobs.naming import Script
from sidequest.wire.frames import Kind, pack, read_json
from sidequest.wire.messages import Role
from sidequest.wire.signals import DUMP_SIGNAL
from sidequest.worker import title
from sidequest.worker.async_host import AsyncHost, HostProtocol
from sidequest.worker.channel import Channel
from sidequest.worker.client import WorkerClient
from sidequest.worker.ends import Ends
from sidequest.worker.hygiene import Hygiene
from sidequest.worker.loading import Loader
from sidequest.worker.reporting import FrameReporter
from sidequest.worker.sync_host import SyncHost

LOOK = 1.0
"""Seconds between two looks of a worker at how long its engine may be trusted."""
MARK = "SIDEQUEST_WORKER"
"""Set in every worker to its own pid, so that programs which jobs start are no workers by inheritance."""
OOM_SCORE = 500
"""When memory runs out, the kernel takes a worker before the engine or the app."""


def in_worker() -> bool:
    """Whether this process is a worker: who starts a Sidequest here did so by importing the app's script."""
    return os.environ.get(MARK) == str(os.getpid())


class _Handed(NamedTuple):
    """What the engine gave this process when it was spawned: descriptors can only come this way."""

    channel: socket.socket
    word: Array[Any]
    unsent: Array[Any]
    stacks: socket.socket


_handed: list[_Handed] = []


def prepare_process(
    channel: socket.socket, word: Array[Any], unsent: Array[Any], stacks: socket.socket, output: Connection
) -> None:
    """Own session, deaf to the terminal's and systemd's signals, dead when the engine is."""
    _handed.append(_Handed(channel, word, unsent, stacks))
    with suppress(OSError):
        os.setsid()
    title.show(title.WORKER)
    _keep_descriptors()
    _leave_forkserver()
    _redirect_output(output)
    _volunteer_for_the_kernel()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)  # a Python no-op: SIG_IGN would be inherited by what jobs start
    os.environ[MARK] = str(os.getpid())
    threading.Thread(target=_die_with_engine, args=(word,), name="sidequest-watch", daemon=True).start()


def serve() -> None:
    """Say hello, then run jobs until the engine says CLOSE. At the engine's death the process ends."""
    channel, word, unsent, stacks = _handed[0]
    faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True, chain=False)
    _detach_stdin()
    frames = Channel(channel)
    _, payload = frames.receive_one()
    start = read_json(payload)
    sys.path[:] = start["path"]
    logging.basicConfig(level=start["log_level"], format="%(levelname)s %(name)s: %(message)s")
    send = _Redirect(frames.send)
    client = WorkerClient(send, read_job_defaults(start["job_defaults"]))
    clients.attach(client)
    loader = Loader(
        start["modules"], Script(**start["script"]) if start["script"] else None, start["shunned"],
        lambda module: frames.send(pack(Kind.LOADING, module.encode("utf-8", "replace"))),
    )  # fmt: skip
    loader.load_all()
    failpoints.hit("worker.before_hello")
    frames.send(loader.catalogue(Kind.HELLO))
    reporter = FrameReporter(send)
    kind, payload = frames.receive_one()
    while kind is Kind.MODULES:
        loader.extend(**read_json(payload))
        frames.send(loader.catalogue(Kind.CATALOGUE))
        kind, payload = frames.receive_one()
    if kind is not Kind.ROLE:
        return
    make_loop = loop_factory(start["event_loop"])
    if payload.decode() == Role.ASYNC:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_serve_async(frames, word, Ends(send, unsent), loader, client, reporter, send))
    else:
        SyncHost(frames, word, Ends(frames.send, unsent), loader, client, reporter, make_loop).run()


async def _serve_async(
    frames: Channel,
    word: Array[Any],
    ends: Ends,
    loader: Loader,
    client: WorkerClient,
    reporter: FrameReporter,
    send: _Redirect,
) -> None:
    loop = asyncio.get_running_loop()
    thread = threading.get_ident()
    host = AsyncHost(send, word, ends, loader, client, reporter, Hygiene())

    def connected(transport: asyncio.Transport) -> None:
        def write(frame: bytes) -> None:
            if threading.get_ident() == thread:
                transport.write(frame)
            else:  # a thread that a job started reports progress or enqueues
                loop.call_soon_threadsafe(transport.write, frame)

        send.target = write
        for kind, payload in frames.take_waiting():  # here: uvloop reads on as soon as this returns, paused or not
            host.handle(kind, payload)

    frames.socket.setblocking(False)
    await loop.connect_accepted_socket(lambda: HostProtocol(frames.splitter, host, connected), frames.socket)
    await host.closed.wait()


class _Redirect:
    """Where frames go: to the socket at first, to the event loop's transport once there is one."""

    def __init__(self, target: Callable[[bytes], None]) -> None:
        self.target = target

    def __call__(self, frame: bytes) -> None:
        self.target(frame)


def _keep_descriptors() -> None:
    """Programs that jobs start, in whatever way, get none of ours: they would hold the channel open after our death."""
    with suppress(OSError):  # not Linux
        for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            with suppress(OSError):  # the one that lists them
                os.set_inheritable(number, number <= 2)


def _leave_forkserver() -> None:
    """What jobs start by `multiprocessing` is to be in this worker's group, and to die with it: no child of the template.

    And a daemon that a job leaves behind must not keep the template alive by holding its line.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
        util.Finalize(None, atexit._run_exitfuncs, exitpriority=-1)  # before 3.13 a fork ends without


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass


def _die_with_engine(word: Array[Any]) -> None:
    """The channel's end is noticed by whoever reads it; this also when nobody gets to read.

    And an engine that stands still cannot say that its jobs are no longer its own: after the time
    that it has set (`word[3]`, monotonic, in µs) this process ends as well.
    """
    engine = multiprocessing.parent_process()
    while engine is not None:
        left = word[3] / 1_000_000 - monotonic() if word[3] else LOOK
        if left > 0:
            engine.join(min(left, LOOK))
        if left <= 0 or not engine.is_alive():
            os.killpg(0, signal.SIGKILL)


def _redirect_output(output: Connection) -> None:
    """What is printed here goes to the engine line by line, also from subprocesses and C code."""
    with suppress(OSError, ValueError):
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        output.close()
        stdout: object = sys.stdout
        if isinstance(stdout, io.TextIOWrapper):  # a pipe: it would keep lines back until there are many
            stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportUnknownMemberType]


def _volunteer_for_the_kernel() -> None:
    with suppress(OSError, ValueError):  # not Linux
        file = Path("/proc/self/oom_score_adj")
        file.write_text(str(max(OOM_SCORE, int(file.read_text()))))


def _detach_stdin() -> None:
    """A job that reads from stdin gets an end of file, not somebody else's bytes."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
