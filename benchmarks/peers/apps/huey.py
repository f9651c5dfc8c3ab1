"""huey's app."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from huey import SqliteHuey

from benchmarks.peers import bodies

huey = SqliteHuey(filename=os.environ["BENCH_URL"].removeprefix("sqlite:///"))
TASKS: dict[str, Any] = {kind: huey.task(name=kind)(body) for kind, body in bodies.SYNC.items()}


def prepare() -> None:
    """The tables are there as soon as it is imported."""


class Client:
    def enqueue(self, kind: str, number: int) -> None:
        TASKS[kind](number)

    def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            TASKS[kind](number)


@contextmanager
def connect(callers: int) -> Generator[Client, None]:
    yield Client()
