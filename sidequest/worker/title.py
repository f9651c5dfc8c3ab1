"""WORKER PROCESS. The name that `ps -o comm`, `top` and `pgrep` show, since a fork has the command line of its template."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

TEMPLATE = "sq-template"
WORKER = "sq-worker"


def show(title: str) -> None:
    """At most 15 bytes; Linux only."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(title)
