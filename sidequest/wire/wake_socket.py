"""EVERY PROCESS. Wakes the engines of this host, from any process of the same user.

Each engine has a datagram socket in a directory that nobody but its user can enter, under a name
that begins with the database. A datagram says what to look for and nothing more, so whatever comes
costs one look. One that is lost costs one poll. The exception is a lesson: a web worker tells the one
engine that its app has on this host of modules which only this worker has imported.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path

from sidequest.clock import monotonic
from sidequest.wire.runtime_directory import in_first_place, places, refuse_unsafe, short_name

logger = logging.getLogger(__name__)
LISTED_FOR = 0.05
"""Seconds for which the engines that were found are taken to be all there are."""
SETTLED_NS = 1_000_000_000
"""Nanoseconds after its last change from which on a directory shows every further one: its clock has a coarse tick."""
STALE_AFTER = 1.0
"""Seconds after which a socket's file that nobody answers for is removed: one that is being bound needs a moment."""
FULL = 10
"""Datagrams that fill a socket on Linux: when so many have come, others may have been turned away."""
STREAM = ".q"
"""How the name of a socket ends that is no datagram socket: one that answers questions."""
MOST_READ = 1_000
"""Datagrams read at a time: whoever sends without end must not keep the engine from its work."""


LESSON = b"m"
"""How a datagram begins that is a lesson."""
LONGEST = 65_536


class LookFor(Enum):
    """What an engine is woken for: the content of a datagram."""

    WORK = b"w"
    CANCELS = b"c"


class LocalSocket:
    """A socket by which other processes of this host find an engine. Raises OSError, which says why, when there is no place."""

    def __init__(self, kind: socket.SocketKind, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.setblocking(False)
        try:
            self.path = in_first_place(lambda directory: self._bind(directory, name))
        except BaseException:
            self._socket.close()
            raise

    def _bind(self, directory: Path, name: str) -> Path:
        sweep(directory)
        self._socket.bind(str(directory / name))
        return directory / name

    @property
    def in_place(self) -> bool:
        """Whether others can find it: who cleans up temporary files may have removed it."""
        return self.path.exists()

    def close(self) -> None:
        self._socket.close()
        with suppress(OSError):
            self.path.unlink()


class WakeSocket(LocalSocket):
    """An engine's end."""

    def __init__(self, identity: str, engine: str) -> None:
        """`identity` is the database's (`DatabaseURL.identity`)."""
        self.lessons: list[bytes] = []
        """What came to be learned, by the time `heard` was last called."""
        super().__init__(socket.SOCK_DGRAM, socket_name(identity, engine))

    def fileno(self) -> int:
        return self._socket.fileno()

    def heard(self) -> frozenset[LookFor]:
        """What others have called for since the last time; nothing when nobody has called."""
        came: list[bytes] = []
        with suppress(OSError):  # there is nothing more to read
            while len(came) < MOST_READ:
                came.append(self._socket.recv(LONGEST))
        self.lessons = [datagram.removeprefix(LESSON) for datagram in came if datagram.startswith(LESSON)]
        return frozenset(call for call in LookFor if call.value in came or len(came) >= FULL)


class LocalEngines:
    """The engines of one database on this host, as whoever has news for them sees them."""

    def __init__(self, identity: str) -> None:
        """`identity` is the database's (`DatabaseURL.identity`)."""
        self._prefix = _prefix(identity)
        self._listings = [_Listing(directory, self._prefix) for directory in places()]
        self._sockets: Mapping[str, str] = {}
        self._listed_at = -LISTED_FOR

    @property
    def reachable(self) -> bool:
        """Whether there is one that can be woken."""
        return bool(self._look())

    def wake(self, look_for: LookFor, but: str | None = None) -> None:
        """Wake all of them, except the engine `but`. Neither waits nor fails."""
        now = monotonic()
        if now - self._listed_at >= LISTED_FOR:
            self._sockets = self._look()
            self._listed_at = now
        skipped = None if but is None else f"{self._prefix}{_short(but)}"
        paths = [path for name, path in self._sockets.items() if name != skipped]
        if paths:
            _send(look_for.value, paths)

    def _look(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for listing in self._listings:
            with suppress(OSError):
                found |= listing.sockets()
        return found

    def teach(self, engine: str, lesson: bytes) -> None:
        """Tell this engine something before it is woken for it. Neither waits nor fails."""
        path = find(f"{self._prefix}{_short(engine)}")
        if path is not None:
            _send(LESSON + lesson, [str(path)])


class _Listing:
    """The sockets of one database in a directory, which is read again when anything has come or gone there."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._seen: tuple[int, ...] | None = None
        self._sockets: Mapping[str, str] = {}

    def sockets(self) -> Mapping[str, str]:
        """Name → path. Raises OSError for a directory that is not there, or not safe to use."""
        now_ns = time.time_ns()
        found = self._directory.lstat()
        seen = (found.st_mtime_ns, found.st_ino, found.st_dev, found.st_mode, found.st_uid)
        if seen != self._seen:
            refuse_unsafe(self._directory)
            names = os.listdir(self._directory)  # noqa: PTH208 - three times as fast
            ours = (name for name in names if name.startswith(self._prefix) and not name.endswith(STREAM))
            self._sockets = {name: f"{self._directory}/{name}" for name in ours}
            self._seen = seen if now_ns - found.st_mtime_ns > SETTLED_NS else None
        return self._sockets


def socket_name(identity: str, engine: str) -> str:
    """The name of an engine's socket in its directory."""
    return f"{_prefix(identity)}{_short(engine)}"


def find(name: str) -> Path | None:
    """Where the socket of this name is, in a place that is safe to use."""
    for directory in places():
        with suppress(OSError):
            refuse_unsafe(directory)
            if (directory / name).exists():
                return directory / name
    return None


def sweep(directory: Path) -> None:
    """Remove the sockets of engines that were killed, whatever their database was."""
    for path in list(directory.iterdir()):
        if not _is_socket(path):
            continue  # connecting to any other file is refused as well
        kind = socket.SOCK_STREAM if path.name.endswith(STREAM) else socket.SOCK_DGRAM
        with socket.socket(socket.AF_UNIX, kind) as caller:
            caller.setblocking(False)  # a stream socket may have many callers waiting already
            try:
                caller.connect(str(path))
            except ConnectionRefusedError:
                _remove(str(path))
            except OSError:
                continue


def _is_socket(path: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(path.lstat().st_mode)
    return False


def _send(datagram: bytes, paths: Iterable[str]) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for path in paths:
                try:
                    sender.sendto(datagram, path)
                except ConnectionRefusedError:
                    _remove(path)
                except OSError:
                    continue  # it has gone, or has so much to read that it will look anyway
    except OSError as error:  # no socket is to be had
        logger.debug("cannot wake the engines of this host: %s", error)


def _remove(path: str) -> None:
    with suppress(OSError):
        file = Path(path)
        if time.time() - file.lstat().st_mtime > STALE_AFTER:
            file.unlink()


def _prefix(identity: str) -> str:
    return f"{short_name(identity)}."


def _short(engine: str) -> str:
    """Enough of an engine's id to tell engines apart: a socket's path has hardly more than 100 bytes."""
    return engine[:16]
