"""ENGINE PROCESS ⇄ worker. Starts one worker process, carries its frames, kills it, names its death.

Each worker is a `ProcessPoolExecutor` of one process that runs one long-lived call, `serve`. Its
future resolves only when the worker ends, so a death names exactly one worker; jobs and their ends
travel in frames over a private socket. Reasons and measurements: docs/design/decisions/0001 and 0007.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple, Protocol

from sidequest.clock import monotonic
from sidequest.engine import forkserver
from sidequest.engine.output import OutputPipe
from sidequest.wire.frames import BrokenFrame, Kind, Splitter, pack_json
from sidequest.wire.signals import DUMP_SIGNAL
from sidequest.wire.unsent import left_in, make_memory
from sidequest.worker.entry import prepare_process, serve

STACKS_LIMIT = 64_000
DUMP_WAIT = 0.2
"""Seconds in which a worker that is about to be killed may write its stacks."""
CLOSE_WAIT = 2.0
"""Seconds in which a worker that was told to close may end by itself."""
DRAIN_WAIT = 0.2
"""Seconds in which the last frames of a dead worker may arrive."""
MUTE_WAIT = 0.5
"""Seconds for which a worker may live on without its channel: it is about to end."""
HALF_WAIT = 5.0
"""Seconds after which the rest of a frame does not come any more."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    exitcode: int | None
    killed_for: int | None = None
    """The job for whose sake it was killed by us (0: for no job's sake); None when it was not."""
    stacks: str = ""
    """Where its threads were when we decided to kill it."""
    cause: str = ""
    """Why we killed it, if it was for what it did as a whole: then no job is named in `killed_for`."""
    suspect: int = 0
    """The job that was being run or stepped when we killed it for a cause."""
    lease_expired: bool = False
    """It ended itself, because this engine had stood still for too long."""

    @property
    def out_of_the_blue(self) -> bool:
        """A SIGKILL for no job's sake, or what may have been one, says nothing about which job provoked it."""
        return self.exitcode in (-signal.SIGKILL, None) and self.killed_for is None

    def describe(self) -> str:
        code = self.exitcode
        if self.cause:
            return f"the worker process was killed: {self.cause}"
        if code is None:
            return "the worker process died, and nobody could see how"
        if code >= 0:
            return f"the worker process exited with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        guess = ", which nobody here sent: probably out of memory" if self.out_of_the_blue else ""
        return f"the worker process was killed by {name}{guess}"


class Link(Protocol):
    """What a lane needs of the place where its jobs run."""

    pid: int
    """0 until there is a process."""
    gone: Callable[[], None]
    """Called when the process has ended, before its last words are heard; set by whoever wants to know."""

    async def run(
        self, greeting: dict[str, Any], on_frame: Callable[[Kind, bytes], None], on_output: Callable[[bytes], None]
    ) -> Death:
        """Start it, deliver its frames and what it prints, and return when it is gone."""
        ...

    def write(self, frame: bytes) -> None: ...

    def current(self) -> tuple[int, int]:
        """The job being stepped now (0: none), and for a sync job since when, in µs since 1970."""
        ...

    def steps(self) -> int:
        """How many steps of async jobs have begun: while it stands still, one step lasts."""
        ...

    def unsent(self) -> bytes:
        """What it would send of ended jobs if it sent now: the payload of an ENDS frame."""
        ...

    async def stacks(self) -> str:
        """Where all its threads are now, also while one holds the GIL; it goes on as if nothing had happened."""
        ...

    def trust_until(self, until_us: int) -> None:
        """The jobs are ours until then (monotonic, in µs); the worker ends itself when that has passed. 0: for ever."""
        ...

    async def kill(self, for_job: int | None, cause: str = "") -> None:
        """Make it end now, whatever it does: for a job's sake, for none (0), or for the cause (None)."""
        ...


class WorkerProcess(asyncio.Protocol):
    """A worker process as its engine sees it; of one use."""

    def __init__(self) -> None:
        self.pid = 0
        self.gone: Callable[[], None] = _nothing
        self._word: Any = RawArray("q", 4)
        self._unsent = make_memory()
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        """Frames from before there was a transport: what the app has said since the greeting was made."""
        self._on_frame: Callable[[Kind, bytes], None] | None = None
        self._stacks_in: socket.socket | None = None
        self._output: OutputPipe | None = None
        self._stacks = ""
        self._dumping = asyncio.Lock()
        self._killed_for: int | None = None
        self._cause = ""
        self._suspect = 0
        self._end_of_frames = asyncio.Event()
        self._half: asyncio.TimerHandle | None = None
        """Runs while a frame has come in part."""
        self._over = False

    async def run(
        self, greeting: dict[str, Any], on_frame: Callable[[Kind, bytes], None], on_output: Callable[[bytes], None]
    ) -> Death:
        self._on_frame = on_frame
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self._stacks_in, stacks = socket.socketpair()
        self._stacks_in.setblocking(False)
        reader, writer = Pipe(duplex=False)
        self._output = OutputPipe(reader, on_output)
        # in a thread: the template may still import, and a machine without memory takes its time
        beginning = loop.run_in_executor(None, _begin, _Handed(theirs, self._word, self._unsent, stacks, writer))
        try:
            executor, future, process = await asyncio.shield(beginning)
        except BaseException as error:
            beginning.add_done_callback(_end_unwanted)
            del beginning  # which leads to the error, and that to this frame: its semaphores would never be freed
            self._over = True
            self._output.finish()
            ours.close()
            self._stacks_in.close()
            if self._unwanted and isinstance(error, Exception):
                return self._death(None)
            raise
        self.pid = process.pid or 0
        served = asyncio.wrap_future(future)
        gone = loop.create_task(_gone(process))
        gone.add_done_callback(lambda _: self.gone())
        if self._unwanted:
            self._kill_group()  # it was to be killed before there was anything to kill
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: self, ours)
            self._transport = transport
            transport.write(b"".join((pack_json(Kind.START, greeting), *self._early)))
            await asyncio.wait([served, gone], return_when=asyncio.FIRST_COMPLETED)
            executor.shutdown(wait=False)
            await asyncio.wait([gone], timeout=CLOSE_WAIT)
        finally:
            self._kill_group()
            await asyncio.shield(gone)
            self._output.finish()
            await self._drain()
            self._over = True
            served.add_done_callback(_forget)
            executor.shutdown(wait=False)
            self._stacks_in.close()
        return self._death(forkserver.exit_code(process))

    def write(self, frame: bytes) -> None:
        if self._transport is None:
            self._early.append(frame)
        else:
            self._transport.write(frame)

    def current(self) -> tuple[int, int]:
        id, since = self._word[0], self._word[1]
        return (id, since) if self._word[0] == id else (self._word[0], self._word[1])

    def steps(self) -> int:
        return int(self._word[2])

    def unsent(self) -> bytes:
        return left_in(self._unsent)

    def trust_until(self, until_us: int) -> None:
        self._word[3] = until_us

    async def kill(self, for_job: int | None, cause: str = "") -> None:
        if not self._unwanted:  # else somebody is at it, and may wait for the stacks
            self._killed_for, self._cause, self._suspect = for_job, cause, self._word[0]
            if not self.pid:
                forkserver.end()  # it does not get to make this worker: another one will
            self._stacks = await self.stacks()
            self._kill_group()

    def data_received(self, data: bytes) -> None:
        assert self._on_frame is not None
        assert self._output is not None
        self._output.drain()  # what a job printed comes before its end, so that it can be told whose it is
        try:
            for kind, payload in self._splitter.feed(data):
                self._on_frame(kind, payload)
        except BrokenFrame:
            self._distrust("what came through its channel was no message of ours")
            return
        if self._half is not None:
            self._half.cancel()
        self._half = None
        if self._splitter.pending:
            self._half = asyncio.get_running_loop().call_later(HALF_WAIT, self._distrust, "a message came in part only")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_frames.set()
        asyncio.get_running_loop().call_later(MUTE_WAIT, self._distrust, "its channel to the engine was closed")

    @property
    def _unwanted(self) -> bool:
        """Whether we have decided to kill it."""
        return self._killed_for is not None or bool(self._cause)

    def _death(self, exitcode: int | None) -> Death:
        limit_us = self._word[3]
        by_itself = not self._unwanted and exitcode == -signal.SIGKILL and 0 < limit_us <= monotonic() * 1_000_000
        killed_for = 0 if by_itself else self._killed_for
        return Death(exitcode, killed_for, self._stacks, self._cause, self._suspect, lease_expired=by_itself)

    def _distrust(self, cause: str) -> None:
        """Somebody wrote to our descriptor, or closed it: nothing that comes from there can be trusted."""
        if not self._unwanted and not self._over:
            self._cause, self._suspect = cause, self._word[0]
            self._kill_group()

    async def stacks(self) -> str:
        async with self._dumping:
            if self._over or self._stacks_in is None or not self.pid:
                return ""  # the number may belong to another process by now
            with suppress(OSError):  # what came too late for those who asked before
                self._stacks_in.recv(STACKS_LIMIT)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, DUMP_SIGNAL)
            await asyncio.sleep(DUMP_WAIT)
            try:
                return self._stacks_in.recv(STACKS_LIMIT).decode(errors="replace")
            except OSError:
                return ""

    def _kill_group(self) -> None:
        """The worker and whatever its jobs started in its process group."""
        if self._over or not self.pid:
            return  # the number may belong to another process by now
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # it may not have come to make its own group yet

    async def _drain(self) -> None:
        """What the worker sent before it died counts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_WAIT):
                await self._end_of_frames.wait()
        if self._transport is not None:
            self._transport.abort()


class _Handed(NamedTuple):
    """What a worker is given; all but the memory is closed here when it has it."""

    channel: socket.socket
    word: Any
    unsent: Any
    stacks: socket.socket
    output: Connection


class _Begun(NamedTuple):
    executor: ProcessPoolExecutor
    served: Future[None]
    process: BaseProcess


def _begin(handed: _Handed) -> _Begun:
    """Start the process, and `serve` in it. Called in a thread; what it returns is `run_in_executor` in parts."""
    context = forkserver.make_context()
    try:
        executor = ProcessPoolExecutor(1, context, initializer=prepare_process, initargs=tuple(handed))
        return _Begun(executor, executor.submit(serve), context.process)
    finally:
        for given in (handed.channel, handed.stacks, handed.output):
            given.close()


def _end_unwanted(beginning: asyncio.Future[_Begun]) -> None:
    """A worker that came when nobody waited for it any more."""
    if not beginning.cancelled() and beginning.exception() is None:
        executor, _, process = beginning.result()
        process.kill()
        executor.shutdown(wait=False)


def _nothing() -> None:
    pass


async def _gone(process: BaseProcess) -> None:
    """Return when the process has ended, also while a grandchild holds its pipes open."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        watch = os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # not Linux, or gone already
        watch = None
    if watch is not None:
        loop.add_reader(watch, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
    while process.exitcode is None:  # noqa: ASYNC110 - the executor's own thread may be the one that reaps it
        await asyncio.sleep(0.002 if watch is not None else 0.02)


def _forget(served: asyncio.Future[None]) -> None:
    """Its exception only says that the worker is gone, which we know from the process itself."""
    if not served.cancelled():
        served.exception()
