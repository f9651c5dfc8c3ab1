"""What the databases are filled with: the same jobs in each, at random, but always the same ones.

Of `rows` waiting and `rows` completed jobs neither stands together: ids, priorities and due times
have nothing to do with one another, so that whatever goes by priority or time finds each row on
another page. Beside them are the kinds of which there are few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import islice
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")
NOW = datetime(2026, 3, 1, 12, 0, 0, 123000, UTC)
"""What the database's clock says. Whole milliseconds: MongoDB knows no shorter time."""
RATE = timedelta(seconds=1)
"""Between two inserts: the last hour has the same jobs, however long the past is."""
QUEUES = ("emails", "images", "reports", "webhooks")
SMALL_QUEUE = "thumbnails"
ENGINES = ("e1", "e2", "e3")
YOUNG_ENGINE = "e4"
"""Holds as much as the others, and has ended little yet."""
ARGS = '{"order": %d, "customer": "customer-%d", "note": "as agreed on the telephone", "amounts": [1, 20, 300]}'
RESULT = '{"sent": true, "order": %d}'
ERRORS = '[{"kind": "error", "type": "ValueError", "message": "order %d has no address", "attempt": 3}]'


class Kind(IntEnum):
    DUE = 0
    COMPLETED = 1
    LATER = 2
    """Waiting for its time."""
    OVERDUE = 3
    """Its time has come, and nobody has promoted it yet."""
    FAILED = 4
    CANCELED = 5
    CLAIMED = 6
    RUNNING = 7


class Row(NamedTuple):
    """A job as the tables hold it; columns not named here are NULL, or zero for counters."""

    name: str
    queue: str
    args: str
    state: str
    ready: bool | None
    priority: int
    available_at: datetime
    attempt: int
    max_attempts: int
    backoff: str
    retry_delay_ms: int
    isolated: bool
    tags: str | None
    interrupts: int
    crashes: int
    snoozes: int
    inserted_at: datetime
    engine: str | None
    lease: str | None
    claimed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    result: str | None
    errors: str | None


class Stock:
    """The jobs of one database, with the ids 1, 2, 3, …"""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.counts = {
            Kind.DUE: rows,
            Kind.COMPLETED: rows,
            Kind.LATER: max(1_000, rows // 50),
            Kind.OVERDUE: max(200, rows // 500),
            Kind.FAILED: max(200, rows // 400),
            Kind.CANCELED: max(200, rows // 800),
            Kind.CLAIMED: max(100, rows // 2_000),
            Kind.RUNNING: max(100, rows // 2_000),
        }
        self.total = sum(self.counts.values())
        self.begin = NOW - self.total * RATE

    def jobs(self) -> Iterator[Row]:
        """All of them, by id."""
        chance = Random(7)
        kinds = bytearray().join(bytes([kind]) * count for kind, count in self.counts.items())
        chance.shuffle(kinds)
        inserted_at = self.begin
        for number, kind in enumerate(kinds, 1):
            inserted_at += RATE
            yield _job(number, kind, inserted_at, chance)


async def write_in_blocks(rows: Iterator[T], size: int, write: Callable[[Sequence[T]], object]) -> None:
    """Write all rows, `size` at a time: each block in a thread, while the next one is made."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        writing = loop.run_in_executor(thread, write, list(islice(rows, size)))
        while block := list(islice(rows, size)):
            await writing
            writing = loop.run_in_executor(thread, write, block)
        await writing


def _job(number: int, kind: int, inserted_at: datetime, chance: Random) -> Row:
    bits = chance.getrandbits
    waiting_since = inserted_at - timedelta(milliseconds=bits(31))  # up to 24 days: no order of ids is left in it
    claimed_at = inserted_at + timedelta(milliseconds=bits(18))
    finished_at = claimed_at + timedelta(milliseconds=bits(12))
    held_now = kind in (Kind.CLAIMED, Kind.RUNNING)
    engine = YOUNG_ENGINE if number % (4 if held_now else 60) == 0 else ENGINES[number % 3]
    lease = f"{engine}-{number // 100}"

    state, ready, attempt, available_at = "waiting", None, 1, waiting_since
    held: tuple[str | None, str | None, datetime | None, datetime | None] = engine, lease, claimed_at, claimed_at
    ended, asked, result, errors = finished_at, None, None, None
    match kind:
        case Kind.DUE | Kind.LATER | Kind.OVERDUE:
            ready, attempt, held, ended = kind == Kind.DUE, 0, (None, None, None, None), None
            if kind == Kind.LATER:
                available_at = NOW + timedelta(minutes=1, milliseconds=bits(31))
        case Kind.COMPLETED:
            state, result = "completed", RESULT % number
        case Kind.FAILED:
            state, attempt, errors = "failed", 3, ERRORS % number
        case Kind.CANCELED:
            state = "canceled"
        case Kind.CLAIMED:
            state, held, ended = "claimed", (engine, lease, claimed_at, None), None
        case Kind.RUNNING:
            state, ended, asked = "running", None, NOW if number % 5 == 0 else None
    return Row(
        name="shop:send_invoice",
        queue=SMALL_QUEUE if bits(10) == 0 else QUEUES[bits(2)],
        args=ARGS % (number, number),
        state=state,
        ready=ready,
        priority=bits(16) % 10,
        available_at=available_at,
        attempt=attempt,
        max_attempts=3,
        backoff="exponential",
        retry_delay_ms=1_000,
        isolated=False,
        tags='["vip"]' if number % 10 == 0 else None,
        interrupts=0,
        crashes=0,
        snoozes=0,
        inserted_at=inserted_at,
        engine=held[0],
        lease=held[1],
        claimed_at=held[2],
        started_at=held[3],
        finished_at=ended,
        cancel_requested_at=asked,
        result=result,
        errors=errors,
    )
