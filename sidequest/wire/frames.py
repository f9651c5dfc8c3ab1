"""EVERY PROCESS. Frames: a length, a kind, a payload of bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

_HEADER = struct.Struct("<IB")
LONGEST = 256 * 1024 * 1024
"""A longer frame is no frame of ours: the stream is broken."""


class Kind(IntEnum):
    """What a frame says."""

    # app → engine
    START = 1
    WAKE = 2
    CANCELS = 3
    WATCH = 4
    MODULES = 5
    PING = 6
    STOP = 7
    # engine → app
    READY = 20
    FAILED = 21
    ENDED = 22
    WORKERS = 23
    PONG = 24
    # engine → worker
    ROLE = 40
    RUN = 41
    HALT = 42
    RECALL = 43
    SHUTTING_DOWN = 44
    REPLY = 45
    CLOSE = 46
    NEXT = 47
    STACK = 48
    # worker → engine
    HELLO = 60
    ENDS = 61
    STARTED = 62
    PROGRESS = 63
    RETURNED = 64
    REQUEST = 65
    CATALOGUE = 66
    SPOILED = 68
    STACK_SEEN = 69
    LOADING = 70


class BrokenFrame(Exception):
    """The stream does not hold frames of ours; nothing after this point can be trusted."""


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload), kind) + payload


def pack_json(kind: Kind, content: object) -> bytes:
    return pack(kind, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def read_json(payload: bytes) -> Any:
    """The content of a JSON frame. Raises BrokenFrame."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BrokenFrame(f"no JSON: {payload[:60]!r}") from error


def read_object(payload: bytes) -> dict[str, Any]:
    """The content of a JSON frame that holds an object. Raises BrokenFrame."""
    content = read_json(payload)
    if not isinstance(content, dict):
        raise BrokenFrame(f"no object: {payload[:60]!r}")
    return content  # pyright: ignore[reportUnknownVariableType]


class Splitter:
    """Cuts a stream of bytes into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that has come in part."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are complete with `data`. Raises BrokenFrame."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEADER.size:
                length, kind = _HEADER.unpack_from(buffer, start)
                if length > LONGEST or kind not in _KINDS:
                    raise BrokenFrame(f"kind {kind}, {length} bytes")
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    return
                payload = bytes(buffer[start + _HEADER.size : end])
                start = end
                yield _KINDS[kind], payload
        finally:
            del buffer[:start]


_KINDS = {int(kind): kind for kind in Kind}
