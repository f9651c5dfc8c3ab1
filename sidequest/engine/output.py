"""ENGINE PROCESS. What jobs print: read from their worker without ever waiting, logged line by line.

Stdout and stderr of a worker are one pipe, so what its subprocesses and C code write comes along.
Whoever prints faster than anybody can read loses lines, not time: a full pipe would stop the job.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from sidequest.clock import monotonic
from sidequest.engine.log import spaced

logger = logging.getLogger("sidequest.job.output")
LINES_PER_SECOND = 200
"""Lines of one worker that are logged in a second; the others are counted."""
LONGEST_LINE = 4_000
"""Bytes of a line that are logged."""
PIPE_SIZE = 256 * 1024
"""What a job can print while the engine is busy."""
CHUNK = 64 * 1024
MOST_CHUNKS = 4
"""Chunks read at a time: a flood must not keep the engine from its work."""
LAST_CHUNKS = 2 * PIPE_SIZE // CHUNK


class OutputPipe:
    """The reading end of a worker's stdout and stderr."""

    def __init__(self, reader: Connection, heard: Callable[[bytes], None]) -> None:
        self._reader = reader
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        os.set_blocking(reader.fileno(), False)
        with suppress(AttributeError, OSError):  # not Linux, or the user has too many pipes: a smaller one does
            fcntl.fcntl(reader.fileno(), fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._loop.add_reader(reader.fileno(), self.drain)

    def drain(self, chunks: int = MOST_CHUNKS) -> None:
        """Pass on what is there now."""
        while chunks and not self._reader.closed:
            chunks -= 1
            try:
                data = os.read(self._reader.fileno(), CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close()  # all who could write have closed it
                return
            self._heard(data)
            if len(data) < CHUNK:
                return

    def finish(self) -> None:
        """The worker is gone: pass on its last words. What it left running may not write any more."""
        self.drain(LAST_CHUNKS)
        self._close()

    def _close(self) -> None:
        if not self._reader.closed:
            self._loop.remove_reader(self._reader.fileno())
            self._reader.close()


class OutputLog:
    """Cuts what a worker prints into lines, and logs as many as anybody may want to read."""

    def __init__(
        self,
        speaker: Callable[[], str],
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`speaker` says whose line it is; `later` calls back after that many seconds."""
        self._speaker = speaker
        self._later = later
        self._clock = clock
        self._unfinished = b""
        self._skipping = False
        """The line that is coming in was logged or counted already: wait for its end."""
        self._left = LINES_PER_SECOND
        self._since = clock()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Bytes as they came. Every line is either logged or counted, once."""
        if self._clock() - self._since >= 1:
            self._begin_second()
        at = 0
        while self._left and (end := data.find(b"\n", at)) >= 0:
            self._end_line(data[at:end])
            at = end + 1
        rest = data[at:]
        if not rest:
            return
        if self._left:
            self._begin_line(rest)
        else:
            self._drop(rest)

    def end_line(self) -> None:
        """What comes now is somebody else's: it is not the rest of a line that has begun."""
        if self._unfinished:
            self._end_line(b"")

    def finish(self) -> None:
        """Nothing more will come."""
        self.end_line()
        self._begin_second()

    def _begin_line(self, part: bytes) -> None:
        if self._skipping:
            return
        self._unfinished += part
        if len(self._unfinished) > LONGEST_LINE:
            self._log(self._unfinished)
            self._unfinished, self._skipping = b"", True

    def _end_line(self, part: bytes) -> None:
        if self._skipping:
            self._skipping = False
            return
        line, self._unfinished = self._unfinished + part, b""
        self._log(line)

    def _log(self, line: bytes) -> None:
        self._left -= 1
        text = line[:LONGEST_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
        logger.info("%s: %s%s", self._speaker(), text, " … (cut)" if len(line) > LONGEST_LINE else "")

    def _drop(self, rest: bytes) -> None:
        ends = rest.count(b"\n")
        if self._skipping and not ends:
            return
        if not self._dropped:
            self._later(1.0, self._begin_second)
        unfinished = not rest.endswith(b"\n")  # counted now, so its end is not
        self._dropped += ends - self._skipping + unfinished
        self._unfinished, self._skipping = b"", unfinished

    def _begin_second(self) -> None:
        self._since, self._left = self._clock(), LINES_PER_SECOND
        if self._dropped:
            logger.warning("%s: … %s lines dropped", self._speaker(), spaced(self._dropped))
            self._dropped = 0
