"""ENGINE PROCESS. Where the engine's own words go: never in the way of its loop.

The engine's stderr is the app's. That may be a pipe that nobody reads, and a write to a full pipe
waits for ever: so a thread writes, and what it cannot write in time is dropped and counted.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque

MOST_HELD = 1024 * 1024
"""Characters that wait to be written, from which on more are dropped."""


class Sink(io.TextIOBase):
    """Text for a descriptor. `write` never waits and never fails; the order is kept."""

    def __init__(self, fd: int, most: int = MOST_HELD) -> None:
        self._fd = fd
        self._most = most
        self._texts: deque[str] = deque()
        self._held = 0
        self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._write_on, name="sidequest-log", daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        with self._changed:
            if self._held + len(text) > self._most:
                self._dropped += max(1, text.count("\n"))
                self._changed.notify_all()
            else:
                self._texts.append(text)
                self._held += len(text)
                self._changed.notify_all()
        return len(text)

    def drain(self, within: float) -> bool:
        """Wait until everything is written, at most that many seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held and not self._dropped, within)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._texts or self._dropped))
                text = "".join(self._texts)
                self._texts.clear()
                if self._dropped:
                    text += f"… {spaced(self._dropped)} log lines dropped: nobody read them\n"
                    self._dropped = 0
            self._put(text.encode("utf-8", "backslashreplace"))
            with self._changed:
                self._held = sum(map(len, self._texts))
                self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            return  # whoever read it has gone


def spaced(number: int) -> str:
    """A number for people: 3 120."""
    return f"{number:,}".replace(",", " ")
