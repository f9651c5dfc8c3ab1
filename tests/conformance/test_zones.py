"""An instant is the same instant wherever the process, its caller and the server think they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from sidequest.backends.base import Bucket, JobFilter, Look, QueueLook
from sidequest.backends.instants import EPOCH, MICROSECOND
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

HOUR = timedelta(hours=1)
AUTUMN = datetime(2026, 11, 1, 1, 30, 0, 5000, ZoneInfo("America/New_York"))
"""When clocks there are put back: the same time of day comes twice."""
INSTANTS = {
    "before clocks are put back": AUTUMN,
    "after clocks are put back": AUTUMN.replace(fold=1),
    "an odd offset": datetime(2026, 1, 1, 12, tzinfo=ZoneInfo("Asia/Kathmandu")),
    "the next day already": datetime(2026, 3, 1, 1, tzinfo=ZoneInfo("Pacific/Kiritimati")),
}


@pytest.fixture(params=["Pacific/Kiritimati", "America/St_Johns"])
def zone_of_process(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


async def test_the_zone_of_the_process_changes_nothing(zone_of_process, backend, insert, claim, clock):
    inserted = clock.time
    (now,) = await insert()
    (later,) = await insert(at=inserted + HOUR)
    assert await backend.look() == Look([QueueLook(QueueRecord("default"), True)], HOUR)
    claimed = clock.advance(seconds=1)
    (held,) = await claim(9)
    assert held.enqueued_us == (inserted - EPOCH) // MICROSECOND
    record = await backend.get(now)
    assert (record.inserted_at, record.available_at, record.claimed_at) == (inserted, inserted, claimed)
    assert record.inserted_at.utcoffset() == timedelta(0)
    clock.advance(HOUR - timedelta(seconds=1))
    assert await backend.promote(9) == 1
    assert (await backend.get(later)).available_at == inserted + HOUR
    assert await backend.count_over_time(inserted, HOUR, 2, None) == [
        Bucket(inserted, 2, 0, 0, 0), Bucket(inserted + HOUR, 0, 0, 0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("at", INSTANTS.values(), ids=INSTANTS)
async def test_an_instant_of_any_zone_is_written_and_compared_as_what_it_is(backend, insert, clock, tick, at):
    clock.time = at.astimezone(UTC)
    (id,) = await insert(at=at)
    record = await backend.get(id)
    assert (record.available_at, record.inserted_at) == (at.astimezone(UTC), at.astimezone(UTC))
    assert [job.id for job in await backend.list_jobs(JobFilter(since=at, until=(at.astimezone(UTC) + tick)), 9)] == [id]
    assert (await backend.count(JobFilter(since=at)))[State.WAITING] == 1
    assert (await backend.count(JobFilter(until=at)))[State.WAITING] == 0
    assert not await backend.apply([Change(id, None, (State.WAITING,), State.COMPLETED, {"finished_at": at, "started_at": at})])
    record = await backend.get(id)
    assert (record.started_at, record.finished_at) == (at.astimezone(UTC), at.astimezone(UTC))
    assert [bucket[1:] for bucket in await backend.count_over_time(at, HOUR, 1, None)] == [(1, 1, 0, 0)]
    assert await backend.delete_finished(at, at, 0, 9) == (0, None)
    assert await backend.delete_finished(at.astimezone(UTC) + tick, at, 0, 9) == (1, None)


async def test_a_job_sent_back_in_any_zone_waits_as_long_as_it_should(backend, insert, claim, clock):
    clock.time = AUTUMN.astimezone(UTC)
    await insert(*(NewJob("shop:pay") for _ in range(2)))
    first, second = await claim(2)
    assert not await backend.apply(
        [
            Change(first.id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": AUTUMN}),
            Change(second.id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": AUTUMN.replace(fold=1)}),
        ]
    )
    assert [job.id for job in await claim(9)] == [first.id]
    assert (await backend.look()).next_due_in == HOUR
