"""APP PROCESS. The lock that says which process of this host keeps an app's engine.

A POSIX record lock: it goes with its process however that ends, and a forked child does not inherit
it. Such locks do not conflict inside one process, and any `close` of the file lets go of them, so the
locks that this process has taken are listed here, and their files are opened once.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidequest.clock import monotonic
from sidequest.config import DatabaseURL, Settings
from sidequest.wire.frames import BrokenFrame, read_object
from sidequest.wire.runtime_directory import in_first_place, short_name

LONGEST_NOTE = 1_000
RENEW_AFTER = 30.0
"""Seconds after which the file's age is renewed: who cleans up temporary files goes by that."""

_taken: dict[str, HostLock] = {}
_guard = threading.Lock()


def app_key(settings: Settings) -> str:
    """The same text in all processes that are one app on one database, and another one in any other.

    One app: the same command line, working directory, interpreter and settings. So the workers of a
    web server agree with each other, and two programs or two versions in two directories do not.
    """
    try:
        directory = os.getcwd()  # noqa: PTH109 - the text is all that counts
    except FileNotFoundError:
        directory = ""
    identity = DatabaseURL.parse(settings.url).identity
    given = settings.to_json()
    return json.dumps([identity, sys.executable, getattr(sys, "argv", []), directory, given], sort_keys=True)


class HostLock:
    """Held by one process of this host, and there by one holder, for each key."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._name = f"{short_name(key)}.lock"
        self._path: Path | None = None
        self._file: int | None = None
        self._note = b""
        self._renewed_at = 0.0

    def take(self) -> bool:
        """Whether it is held by this one now. Never waits. Raises OSError when there is no place for it."""
        with _guard:
            if self._key in _taken:
                return _taken[self._key] is self
            return self._take()

    def release(self) -> None:
        """Let the next one have it. Nothing of it is left in the directory."""
        with _guard:
            if self._file is not None:
                assert self._path is not None
                if _is(self._path, self._file):
                    with suppress(OSError):
                        self._path.unlink()
                self._let_go()

    def renew(self) -> None:
        """Keep the file in the directory while this is held; from time to time will do."""
        with _guard:
            if self._file is None or self._path is None or monotonic() - self._renewed_at < RENEW_AFTER:
                return
            self._renewed_at = monotonic()
            with suppress(OSError):
                if _is(self._path, self._file):
                    os.utime(self._file)
                    return
                self._let_go()  # somebody has removed the file, so that others cannot see the lock
                if self._take():
                    self._write()

    def write(self, note: Mapping[str, Any]) -> None:
        """Leave a note for whoever reads: who holds it. Nothing depends on it."""
        self._note = json.dumps(note).encode()
        with _guard:
            self._write()

    def read(self) -> Mapping[str, Any]:
        """The note of whoever holds it; empty when nobody does."""
        with _guard, suppress(OSError, BrokenFrame):
            holder = _taken.get(self._key)
            return read_object(in_first_place(self._read) if holder is None else _text_of(holder))
        return {}

    def _take(self) -> bool:
        found = in_first_place(lambda directory: _lock(directory / self._name))
        if found is None:
            return False
        self._path, self._file = found
        self._renewed_at = monotonic()
        _taken[self._key] = self
        return True

    def _write(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, self._note, 0)

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        _taken.pop(self._key, None)

    def _read(self, directory: Path) -> bytes:
        file = os.open(directory / self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(file, LONGEST_NOTE, 0)
        finally:
            os.close(file)


def _text_of(holder: HostLock) -> bytes:
    assert holder._file is not None
    return os.pread(holder._file, LONGEST_NOTE, 0)


def _lock(path: Path) -> tuple[Path, int] | None:
    """The file, locked by this process; None when another one has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        if _is(path, file):
            return path, file
        os.close(file)  # its last holder has just removed it: what is locked is no longer there


def _is(path: Path, file: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except OSError:
        return False


def _forget_the_parents() -> None:
    """After a fork: the locks are the parent's, and so are their files."""
    global _guard  # noqa: PLW0603 - another thread of the parent may have held it
    _guard = threading.Lock()
    for lock in list(_taken.values()):
        lock._let_go()


os.register_at_fork(after_in_child=_forget_the_parents)
