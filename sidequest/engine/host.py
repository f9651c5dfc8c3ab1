"""ENGINE PROCESS. Where an engine lives, and which of its neighbours have died.

Judged is only who names the same boot of the same machine and the same process namespace: a number
means nothing in another container. Where the kernel does not tell (not Linux), nobody is judged.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sidequest.backends.base import NOWHERE, EngineRecord, Home
from sidequest.engine.process_groups import DEAD, born, look_at

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")


def home() -> Home:
    """Where this process lives; `NOWHERE` when that cannot be told in full."""
    try:
        found = Home(BOOT.read_text().strip(), str(NAMESPACE.readlink()), born(os.getpid()))
    except OSError:
        return NOWHERE
    return found if all(found) else NOWHERE


def has_died(engine: EngineRecord, here: Home) -> bool:
    """Whether this is an engine of this host whose process is gone; False where that cannot be known."""
    theirs = engine.home
    if here == NOWHERE or engine.host != socket.gethostname() or theirs[:2] != here[:2] or not theirs.born:
        return False
    return not _runs(engine.pid, theirs.born)


def _runs(pid: int, since: str) -> bool:
    """Whether this very process runs. Asked by signal first: some hosts hide the files of others' processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's: it is there, and its file may tell since when
    seen = look_at(pid)
    return seen is None or (seen.born == since and seen.state not in DEAD)
