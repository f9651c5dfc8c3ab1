"""WORKER PROCESS. The private socket to the engine, for a worker that reads it in a thread."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from sidequest.wire.frames import Kind, Splitter

LARGE = 16_384
"""Bytes of a frame that may not fit into the socket at once."""


class Channel:
    """Sends whole frames from any thread; receives them in one. The engine's end means our end."""

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self.splitter = Splitter()
        self._waiting: list[tuple[Kind, bytes]] = []
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        with self._lock, _undisturbed() if len(frame) > LARGE else nullcontext():
            try:
                self.socket.sendall(frame)
            except OSError:
                end_with_engine()

    def receive(self, timeout: float | None = None) -> Sequence[tuple[Kind, bytes]]:
        """The frames that arrived; none when `timeout` seconds passed first."""
        if self._waiting:
            return self.take_waiting()
        try:
            if timeout is not None and not select.select([self.socket], [], [], timeout)[0]:
                return ()
            data = self.socket.recv(262_144)
        except OSError:
            end_with_engine()
        if not data:
            end_with_engine()
        return list(self.splitter.feed(data))

    def receive_one(self) -> tuple[Kind, bytes]:
        """The next frame; what came along with it waits."""
        while not (frames := self.receive()):
            pass
        self._waiting = list(frames[1:])
        return frames[0]

    def take_waiting(self) -> Sequence[tuple[Kind, bytes]]:
        """Frames that were read along with another one."""
        frames, self._waiting = self._waiting, []
        return frames


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Let no signal that stops a job cut a frame in two; it comes after that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_engine() -> NoReturn:
    """The engine is gone: nobody wants our results, so do not linger in anybody's clean-up code."""
    os._exit(0)
