"""What is timed: a job table that claims and ends. The prototypes are one each, and so is the product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

QUEUES = ("bulk", "default", "mail", "reports")
PRIORITIES = 10
NAME = "benchmarks.jobs:sync_noop"
ARGS = '{"kwargs": {"user": 48213, "template": "welcome", "language": "en"}}'
RESULT = '{"sent": true, "id": "msg-000123"}'
TABLE = "bench_prototype"
"""The prototypes' table, on every database."""
LOAD = 5_000
"""Rows that are put into a table at a time before anything is measured."""


class WaitingRow(NamedTuple):
    """What differs among the jobs of a table."""

    queue: str
    priority: int


def waiting_rows(count: int) -> Iterator[list[WaitingRow]]:
    """Jobs of random queues and priorities, the same ones every time: neighbours in a claim are on different pages."""
    chance = Random(1)
    for begin in range(0, count, LOAD):
        yield [
            WaitingRow(QUEUES[chance.randrange(len(QUEUES))], chance.randrange(PRIORITIES))
            for _ in range(min(LOAD, count - begin))
        ]


class JobStore(ABC):
    """A table of jobs, on two connections: one claims while the other one writes ends."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create the table."""

    @abstractmethod
    async def fill(self, rows: int) -> None:
        """Put in `rows` finished jobs and then as many waiting ones."""

    @abstractmethod
    async def claim(self, queue: str, room: int) -> Sequence[Any]:
        """Up to `room` jobs of the queue in claim order, with all that an engine needs to run them."""

    @abstractmethod
    async def end(self, claimed: Sequence[Any]) -> int:
        """Write that these jobs have run, each with its times and its result; how many were still ours."""

    @abstractmethod
    async def insert(self, count: int) -> None:
        """Store new jobs; as safely as an enqueue promises, and with their ids in hand."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class Prototype(JobStore):
    """The driver, the statements, and nothing else."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        await self.connect()
        await self.create()

    @abstractmethod
    async def connect(self) -> None:
        """To a table that is there already."""

    @abstractmethod
    async def create(self) -> None:
        """The table."""

    @abstractmethod
    async def take_stock(self, table: str) -> None:
        """Let the server do now what it does by itself after a while: remove what is dead, and count the rest."""
