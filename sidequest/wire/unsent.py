"""ENGINE and WORKER PROCESS. The ends that a worker has not sent yet, in memory that outlives it.

A worker sends ends in batches: a message for each would cost more than many a job. Until a batch is
sent its ends lie here, where the engine finds them if the worker dies, and takes them if they stay for
long because a later job does. Ends are numbered, so none counts twice, whichever way it came.
"""

from __future__ import annotations

import struct
from ctypes import Array
from multiprocessing.sharedctypes import RawArray
from typing import Any

SIZE = 64 * 1024
_HEAD = struct.Struct("<qq")
"""The number of the first end that lies here, and the bytes that all of them take."""
_FIRST = struct.Struct("<q")


def make_memory() -> Array[Any]:
    """Memory for the ends of one worker, to be handed to it."""
    memory: Array[Any] = RawArray("c", SIZE)
    return memory


class Unsent:
    """The worker's end; used by one thread."""

    def __init__(self, memory: Array[Any] | None) -> None:
        """Without memory the ends lie in this process alone."""
        self._memory = memoryview(bytearray(SIZE) if memory is None else memory).cast("B")
        self._used = _HEAD.size
        self.number = 0
        """That of the first end that lies here."""
        self.count = 0

    def add(self, end: bytes) -> bool:
        """Keep one packed end; False when there is no room for it."""
        after = self._used + len(end)
        if after > SIZE:
            return False
        self._memory[self._used : after] = end
        self._used = after
        self.count += 1
        _HEAD.pack_into(self._memory, 0, self.number, after - _HEAD.size)
        return True

    def batch(self, more: bytes = b"") -> bytes:
        """The payload that tells of all that lies here, and of one more end that had no room."""
        return _FIRST.pack(self.number) + self._memory[_HEAD.size : self._used].tobytes() + more

    def sent(self, more: int = 0) -> None:
        """What lay here, and so many ends beside it, have been sent."""
        _HEAD.pack_into(self._memory, 0, self.number, 0)  # first: a number must not come to others' ends
        self.number += self.count + more
        self._used, self.count = _HEAD.size, 0
        _HEAD.pack_into(self._memory, 0, self.number, 0)


def left_in(memory: Array[Any]) -> bytes:
    """What the worker has not sent, as the payload that would tell of it. Looks from outside, also while it works."""
    seen = memoryview(memory).cast("B")
    while True:
        number, size = _HEAD.unpack_from(seen, 0)
        if not 0 < size <= SIZE - _HEAD.size:
            return _FIRST.pack(number)
        ends = seen[_HEAD.size : _HEAD.size + size].tobytes()
        if _HEAD.unpack_from(seen, 0)[0] == number:
            return _FIRST.pack(number) + ends
