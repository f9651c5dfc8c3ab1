"""HARNESS. Who takes part: a system, on a database, in one of its modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Argv = Sequence[str]
Left = Callable[[Any], int]
"""How many jobs have no end in the store yet, asked through a client of Redis."""

BOTH = ("noop", "sleep", "nap", "die", "sync_noop", "sync_compute")
"""Kinds of jobs of a system that runs async and sync ones."""
SYNC_ONLY = ("sync_noop", "sync_sleep", "sync_nap", "sync_die", "sync_compute")
"""Of one that runs plain functions in threads or processes."""
ASYNC_ONLY = ("noop", "sleep", "nap", "die", "compute")
"""Of one that runs coroutines and nothing else."""


@dataclass(frozen=True)
class Mode:
    """How the worker processes are started."""

    says: str
    """The settings in words, for the results."""
    workers: Sequence[Argv]
    """A command for each worker process: a program of the environment's `bin`, and its arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What else the workers and the clients find in their environment."""
    only: Sequence[str] = ()
    """The workloads that this mode is for; all, when empty."""


@dataclass(frozen=True)
class System:
    name: str
    modes: Mapping[str, Mode]
    requires: Sequence[str] = ()
    """What pip installs into its environment; nothing: it runs in the environment of the harness."""
    databases: Sequence[str] = ("postgres",)
    kinds: Sequence[str] = BOTH
    python: tuple[int, int] = (3, 11)
    """The oldest that it runs on."""
    environment: Callable[[str], Mapping[str, str]] = lambda url: {}
    """What its programs find in their environment, besides BENCH_URL, by the URL of the database."""
    left: Mapping[str, str | Left] = field(default_factory=dict)
    """By database: a query for the number of jobs without an end, or a function that asks Redis.
    No entry: the system writes no end, so there is no lag that it could hide."""
    bulk: int = 50_000
    """Jobs of a bulk enqueue."""
    about: str = ""
    """What one must know to read its figures."""

    def kind(self, *wanted: str) -> str | None:
        """The first of these kinds that it runs."""
        return next((kind for kind in wanted if kind in self.kinds), None)


@dataclass(frozen=True)
class Contestant:
    system: System
    database: str
    mode_name: str

    @property
    def mode(self) -> Mode:
        return self.system.modes[self.mode_name]

    @property
    def name(self) -> str:
        return f"{self.system.name} {self.database} {self.mode_name}"

    def __str__(self) -> str:
        return self.name

    def takes_part(self, workload: str) -> bool:
        return not self.mode.only or workload in self.mode.only
