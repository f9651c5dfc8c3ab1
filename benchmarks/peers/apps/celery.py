"""Celery's app."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery

from benchmarks.peers import bodies

app = Celery("bench", broker=os.environ["BENCH_URL"])
TASKS: dict[str, Any] = {kind: app.task(name=kind)(body) for kind, body in bodies.SYNC.items()}


def prepare() -> None:
    """Redis needs nothing."""


class Client:
    def enqueue(self, kind: str, number: int) -> None:
        TASKS[kind].delay(number)

    def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        with app.producer_or_acquire() as producer:
            for number in numbers:
                TASKS[kind].apply_async((number,), producer=producer)


@contextmanager
def connect(callers: int) -> Generator[Client, None]:
    app.conf.broker_pool_limit = max(callers, 10)
    yield Client()
