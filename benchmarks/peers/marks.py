"""EVERY PROCESS. How jobs say that they ran: fixed-size records at the end of one file, and no database in between.

A record is one `write` of 32 bytes to a file opened for appending, which the kernel never tears or
mixes, whatever dies. All times are of the monotonic clock that all processes of this host share.
A job that runs twice leaves its records twice.

Nothing but the standard library, because every peer's environment imports it.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

VARIABLE = "BENCH_MARKS"
"""The environment variable that names the file."""
RECORD = struct.Struct("<qqqii")
WHOLE, START, END, CRASH = range(4)
"""What a record says: that a job began and ended, that it began, that it ended, that it kills its process now."""


class Mark(NamedTuple):
    job: int
    began: int
    """Nanoseconds; of records that know only one instant, that one."""
    ended: int
    pid: int
    what: int


class _File:
    """Opened at the first mark, once in each process; a child that inherits it appends as well."""

    descriptor = -1


def whole(job: int, began: int) -> None:
    """The job began then and ends now."""
    _write(RECORD.pack(job, began, time.monotonic_ns(), os.getpid(), WHOLE))


def now(job: int, what: int) -> None:
    instant = time.monotonic_ns()
    _write(RECORD.pack(job, instant, instant, os.getpid(), what))


def _write(record: bytes) -> None:
    if _File.descriptor < 0:
        _File.descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(_File.descriptor, record)


def count(path: str) -> int:
    """How many records there are; costs nothing."""
    try:
        return Path(path).stat().st_size // RECORD.size
    except FileNotFoundError:
        return 0


def read(path: str, skip: int = 0) -> Iterator[Mark]:
    """The records after the first `skip`."""
    try:
        with Path(path).open("rb") as file:
            file.seek(skip * RECORD.size)
            found = file.read()
    except FileNotFoundError:
        return
    whole_ones = len(found) // RECORD.size * RECORD.size
    for values in RECORD.iter_unpack(found[:whole_ones]):
        yield Mark(*values)
