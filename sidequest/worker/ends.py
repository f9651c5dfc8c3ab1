"""WORKER PROCESS. Ends on their way to the engine, many in one message."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Array
from typing import Any

from sidequest.wire.frames import Kind, pack
from sidequest.wire.messages import End, pack_end
from sidequest.wire.unsent import Unsent

SEND_AT = 32
"""Ends that are sent in one message while other jobs wait here: so the engine sends more before those are over."""


class Ends:
    """Keeps ends until `flush`, where the engine finds them if this process dies before that."""

    def __init__(self, send: Callable[[bytes], None], memory: Array[Any] | None) -> None:
        self._send = send
        self._unsent = Unsent(memory)

    @property
    def kept(self) -> int:
        """How many have not been sent."""
        return self._unsent.count

    @property
    def total(self) -> int:
        """How many there have been, sent or not."""
        return self._unsent.number + self._unsent.count

    def put(self, end: End) -> None:
        packed = pack_end(end)
        if not self._unsent.add(packed):
            self._send(pack(Kind.ENDS, self._unsent.batch(packed)))
            self._unsent.sent(1)

    def flush(self, before: bytes = b"") -> None:
        """Send what is kept, behind the frame that must come `before` it."""
        self._send(before + pack(Kind.ENDS, self._unsent.batch()))
        self._unsent.sent()
