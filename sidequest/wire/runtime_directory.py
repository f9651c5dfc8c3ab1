"""EVERY PROCESS. The directory in which the processes of one user on this host find each other.

Engines have their sockets there, and apps the locks that say who keeps the engine. Nobody but the
user can enter it: what is found there was put there by the user's own processes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def places() -> Sequence[Path]:
    """Where the directory may be, the best place first."""
    user = os.geteuid()
    found: list[Path] = []
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    with suppress(OSError):
        if runtime.is_absolute() and runtime.stat().st_uid == user:
            found.append(runtime / "sidequest")
    with suppress(OSError):  # a system without a writable directory for temporary files
        found.append(Path(tempfile.gettempdir()) / f"sidequest-{user}")
    return found


def in_first_place(use: Callable[[Path], T]) -> T:
    """What `use` makes of the first directory that will do. Raises OSError with every reason when none does."""
    refusals: list[str] = []
    for directory in places():
        try:
            _make(directory)
            return use(directory)
        except OSError as error:
            refusals.append(f"{directory}: {error.strerror or error}")
    raise OSError("; ".join(refusals) or "there is no directory for temporary files")


def refuse_unsafe(directory: Path) -> None:
    """Raise OSError unless nobody but this user can put anything there."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError("it is not a directory")  # nor is a symbolic link to one
    if found.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if found.st_mode & 0o077:
        raise PermissionError(f"it is open to others (mode {stat.S_IMODE(found.st_mode):o})")


def short_name(text: str) -> str:
    """16 letters that stand for the text in a file's name."""
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()


def _make(directory: Path) -> None:
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    refuse_unsafe(directory)
