"""TEMPLATE PROCESS. Imported by the forkserver, and by nobody else: what all workers of an engine are copies of.

Only our own code: a user's module may start threads or open connections when it is imported, and
neither survives a fork. Whatever is imported here must not remember this process: no number of it, no
thread, no descriptor.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from socket import socket
from types import FrameType

from sidequest.worker import title


def _listener() -> Path | None:
    """Where this process listens for its engine; nobody tells it."""
    for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - three times as fast
        with suppress(OSError):  # no socket
            found = socket(fileno=number)
            name = found.getsockname()
            found.detach()
            if isinstance(name, str) and Path(name).name.startswith("listener-"):
                return Path(name)
    return None


def _tidy(pid: int, listener: Path) -> None:
    """Leave no file behind; also when the engine was killed, which is why it is done here. (Workers are no template.)"""
    if os.getpid() == pid:
        with suppress(OSError):
            listener.unlink()
            listener.parent.rmdir()


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass


# systemd signals the whole group at the start of a stop, and the running workers' ends must still be told
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _ignore)
gc.disable()  # nothing of what is imported is garbage; to look for some takes a tenth of the time
import_module("sidequest.worker.serve")
gc.freeze()  # a collection in a worker would touch, and so copy, all that is here
gc.enable()
title.show(title.TEMPLATE)
if (_path := _listener()) is not None:
    atexit.register(_tidy, os.getpid(), _path)
