"""dramatiq's app."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import bodies

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_URL"]))
ACTORS: dict[str, Any] = {kind: dramatiq.actor(body, actor_name=kind) for kind, body in bodies.SYNC.items()}


def prepare() -> None:
    """Redis needs nothing."""


class Client:
    def enqueue(self, kind: str, number: int) -> None:
        ACTORS[kind].send(number)

    def enqueue_many(self, kind: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            ACTORS[kind].send(number)


@contextmanager
def connect(callers: int) -> Generator[Client, None]:
    yield Client()
