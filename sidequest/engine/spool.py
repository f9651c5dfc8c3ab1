"""ENGINE PROCESS. The ends of jobs on this host's disk, while the database takes none.

One file per engine, one line per end: a checksum and JSON. The engine holds a lock on its file as long
as it lives; so a file that can be locked is a dead engine's, and whoever starts next on the host writes
what is in it, before anybody gives those jobs to others. Written under the same fence as ever: what had
landed after all, or is somebody else's by now, is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sidequest.backends.base import Backend
from sidequest.errors import SidequestError
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from sidequest.wire.runtime_directory import short_name

logger = logging.getLogger(__name__)
SPOOL, REPLAYING = ".spool", "replaying"
"""How the names of files end: of one with ends of jobs; of the one that who writes them into the database has locked."""
BATCH = 500
PAUSE = 0.05
"""Seconds between two looks at a file that another engine is replaying."""


class Spool:
    """This engine's file in the directory, and those of dead engines on the same database."""

    def __init__(self, directory: str, identity: str, engine_id: str) -> None:
        """`identity` is that of the database. Nothing is made before there is something to keep."""
        self._directory = Path(directory)
        self._prefix = f"sidequest-{short_name(identity)}-"
        self._path = self._directory / f"{self._prefix}{engine_id}{SPOOL}"
        self._replaying = self._directory / f"{self._prefix}{REPLAYING}"
        self._file: int | None = None
        self._turn = asyncio.Lock()

    async def keep(self, changes: Sequence[Change]) -> None:
        """Add them to the file; they survive whatever happens to this process once this returns. Raises OSError."""
        async with self._turn:
            await asyncio.to_thread(self._append, b"".join(map(to_line, changes)))

    async def clear(self) -> None:
        """All is written to the database: remove the file."""
        async with self._turn:
            await asyncio.to_thread(self._remove)

    async def replay(self, store: Backend) -> None:
        """Write into the store what dead engines have left; returns when nobody is at it any more.

        Raises what the store raises; the files stay then.
        """
        if not self._of_others():
            return
        try:
            turn = await self._take_turn()  # what another engine is writing must be there before anything is released
        except OSError as error:
            logger.error("what is in %s cannot be written, these jobs will run again: %s", self._directory, error)
            return
        try:
            for path in self._of_others():
                try:
                    await self._replay_one(store, path)
                except OSError as error:  # somebody else's, or on a disk that has become read-only
                    logger.error("the ends of jobs in %s cannot be written, these jobs will run again: %s", path, error)
        finally:
            with suppress(OSError):
                await asyncio.to_thread(self._replaying.unlink, missing_ok=True)
            os.close(turn)

    def _of_others(self) -> list[Path]:
        return sorted(path for path in self._directory.glob(f"{self._prefix}*{SPOOL}") if path != self._path)

    async def _take_turn(self) -> int:
        """A lock that one engine has at a time, on a file that is there as long."""
        while (turn := _locked(self._replaying, create=True)) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(PAUSE)
        return turn

    async def _replay_one(self, store: Backend, path: Path) -> None:
        if (file := _locked(path)) is not None:
            try:
                await self._replay_file(store, path, file)
            finally:
                os.close(file)

    async def _replay_file(self, store: Backend, path: Path, file: int) -> None:
        changes = await asyncio.to_thread(_read, file, path)
        refused = 0
        for first in range(0, len(changes), BATCH):
            refused += await _write(store, changes[first : first + BATCH])
        logger.warning(
            "wrote the ends of %d jobs that a dead engine had kept in %s; %d had been written before or belong to others",
            len(changes), path, refused,
        )  # fmt: skip
        await asyncio.to_thread(path.unlink)

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while self._file is None:  # a file that was locked, replayed and removed before we had its lock
                self._file = _locked(self._path, create=True)
            _sync_directory(self._directory)
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def _remove(self) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


async def _write(store: Backend, changes: Sequence[Change]) -> int:
    """How many of them were refused, by a fence or because the database does not take their values."""
    try:
        return len(await store.apply(changes))
    except SidequestError:  # some of them are ValueErrors, too
        raise
    except ValueError as error:
        if len(changes) > 1:
            return sum([await _write(store, [change]) for change in changes])
        logger.error("the end of job %d, which a dead engine had kept, cannot be stored: %s", changes[0].id, error)
        return 1


def to_line(change: Change) -> bytes:
    columns = {name: _plain(value) for name, value in change.columns.items()}
    text = json.dumps([change.id, change.lease, change.before, change.state, columns], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def from_line(line: bytes) -> Change:
    """Raises ValueError for a line that is torn or damaged."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
        raise ValueError("its checksum is wrong")
    id, lease, before, state, columns = json.loads(text)
    return Change(
        id,
        lease,
        tuple(map(State, before)),
        None if state is None else State(state),
        {name: _value(plain) for name, plain in columns.items()},
    )


def _plain(value: object) -> object:
    return {"at": value.isoformat()} if isinstance(value, datetime) else value


def _value(plain: Any) -> object:
    return datetime.fromisoformat(plain["at"]) if isinstance(plain, dict) else plain  # pyright: ignore[reportUnknownArgumentType]


def _read(file: int, path: Path) -> list[Change]:
    """The changes in the file. What cannot be read is told, and those jobs run again."""
    changes: list[Change] = []
    with os.fdopen(os.dup(file), "rb") as lines:
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            try:
                changes.append(from_line(line))
            except ValueError as error:
                logger.error("line %d of %s cannot be used, its job will run again: %s", number, path, error)
    return changes


def _locked(path: Path, *, create: bool = False) -> int | None:
    """The file, open and locked by us; None when somebody has the lock, or the file is no longer there."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino == path.stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(file)
    return None


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
