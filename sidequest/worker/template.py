"""TEMPLATE PROCESS. Imported by the forkserver, and by nobody else: what all workers of an engine are copies of.

Only our own code: a user's module may start threads or open connections when it is imported, and
neither survives a fork. Whatever is imported here must not remember this process: no number of it, no
thread, no descriptor.
"""

from __future__ import annotations

import gc
import signal
from importlib import import_module
from types import FrameType

from sidequest.worker import title


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
