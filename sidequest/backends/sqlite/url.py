"""THE STORE, on SQLite: what a `sqlite://` URL says, checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sidequest.backends.options import one_of, seconds
from sidequest.config import DatabaseURL

OPTIONS = ("busy_timeout", "prefix", "synchronous")
BUSY_TIMEOUT = 5.0
SYNCHRONOUS = {"app": "full", "engine": "normal"}
"""An enqueue is a promise and survives a power cut; what an engine wrote may be done again."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the file is, and how it is used."""

    path: str
    busy_timeout: timedelta
    """How long a writer waits for another one."""
    synchronous: str


def read_url(url: DatabaseURL, role: str) -> Access:
    """Raises ConfigError naming the option, and what would be right."""
    url.refuse_unknown_options(OPTIONS)
    return Access(
        path=url.target,
        busy_timeout=timedelta(seconds=seconds(url.options, "busy_timeout", BUSY_TIMEOUT, 0, 3600)),
        synchronous=one_of(url.options, "synchronous", ("full", "normal"), default=SYNCHRONOUS[role]),
    )
