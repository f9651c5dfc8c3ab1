"""Enqueueing: what is stored, and that it is all or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from sidequest.backends.base import JobFilter
from sidequest.backends.sql.rows import MOST
from sidequest.jobs import transitions
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.conformance.conftest import START


async def test_a_minimal_job_gets_the_documented_defaults(backend, insert, clock):
    (id,) = await insert(NewJob("shop:pay"))
    assert await backend.get(id) == JobRecord(
        id=id, name="shop:pay", queue="default", state=State.WAITING, priority=0, available_at=clock.time, attempt=0,
        max_attempts=5, timeout=None, kill_grace=None, backoff="exponential", retry_delay=timedelta(seconds=1),
        isolated=False, tags=(), engine=None, lease=None, inserted_at=clock.time, claimed_at=None, started_at=None,
        finished_at=None, cancel_requested_at=None, interrupts=0, crashes=0, snoozes=0, progress=None, args_json="{}",
        meta_json=None, result_json=None, errors_json=None,
    )  # fmt: skip


async def test_every_option_is_stored_and_read_back(backend, insert, clock):
    (id,) = await insert(
        NewJob(
            "shop:ship", '{"args":[1]}', queue="mail", priority=-7, max_attempts=2, timeout=timedelta(milliseconds=1500),
            kill_grace=timedelta(seconds=3), backoff="fixed", retry_delay=timedelta(seconds=9), isolated=True,
            tags=("b", "a"), meta='{"who":"me"}', delay=timedelta(seconds=30),
        )
    )  # fmt: skip
    assert await backend.get(id) == JobRecord(
        id=id, name="shop:ship", queue="mail", state=State.WAITING, priority=-7,
        available_at=clock.time + timedelta(seconds=30), attempt=0, max_attempts=2, timeout=timedelta(milliseconds=1500),
        kill_grace=timedelta(seconds=3), backoff="fixed", retry_delay=timedelta(seconds=9), isolated=True,
        tags=("b", "a"), engine=None, lease=None, inserted_at=clock.time, claimed_at=None, started_at=None,
        finished_at=None, cancel_requested_at=None, interrupts=0, crashes=0, snoozes=0, progress=None,
        args_json='{"args":[1]}', meta_json='{"who":"me"}', result_json=None, errors_json=None,
    )  # fmt: skip


async def test_a_timeout_below_a_millisecond_does_not_become_none_at_all(backend, insert):
    (id,) = await insert(timeout=timedelta(microseconds=1))
    assert (await backend.get(id)).timeout == timedelta(milliseconds=1)


@pytest.mark.parametrize("number", [2, 30, 1000])
async def test_many_jobs_get_their_ids_in_order(backend, insert, number):
    ids = await insert(*(NewJob(f"shop:n{n}") for n in range(number)))
    assert [job.name for job in await backend.get_many(ids)] == [f"shop:n{n}" for n in range(number)]
    assert list(ids) == sorted(set(ids))


async def test_a_great_many_jobs_in_one_call_get_their_ids_in_order(backend, insert):
    ids = await insert(*(NewJob(f"shop:n{n}", queue=f"q{n % 7}") for n in range(20_000)))
    assert list(ids) == sorted(set(ids))
    assert [job.name for job in await backend.get_many(ids)] == [f"shop:n{n}" for n in range(20_000)]


async def test_ids_are_plain_integers_wherever_they_come_from(backend, insert, claim, clock):
    ids = [*await insert(), *await insert(*(NewJob("shop:pay") for _ in range(3)))]
    held = await claim(3)
    await backend.apply([transitions.cancel(await backend.get(held[0].id), clock.time)])
    refused = await backend.apply([Change(ids[3], "nobody's", (State.WAITING,), State.CANCELED, {})])
    await backend.apply([Change(held[1].id, "l1", (State.CLAIMED,), State.FAILED, {})])
    ends, missing = await backend.ends([held[1].id, 777])
    found = [
        *ids, *(job.id for job in held), *await backend.cancel_requests("e1"), *refused,
        *(job.id for job in await backend.held_by("e1", 9)), (await backend.get(ids[0])).id,
        *(job.id for job in await backend.get_many(ids)), *(job.id for job in await backend.list_jobs(JobFilter(), 9)),
        *(job.id for job in await backend.list_after(0, None, 9)), *(end.id for end in ends), *missing,
        await backend.last_id(), *await backend.delete([ids[3]]),
    ]  # fmt: skip
    assert len(found) == 28
    assert {type(id) for id in found} == {int}


async def test_no_jobs_is_no_work(backend):
    assert list(await backend.insert([], QueueRecord("*"))) == []


async def test_ids_are_never_used_again(backend, insert):
    (first,) = await insert()
    await backend.delete([first])
    (second,) = await insert()
    third, _fourth = await insert(NewJob("shop:a"), NewJob("shop:b"))
    assert first < second < third


async def test_ids_rise_however_jobs_come(insert):
    """One by one, and many at once."""
    ids: list[int] = []
    for number in (1, 1, 1, 30, 1, 1, 2, 1, 700, 1, 1):
        ids += await insert(*(NewJob("shop:pay") for _ in range(number)))
    assert ids == sorted(set(ids))


async def test_a_bulk_with_one_bad_job_stores_nothing(backend, insert):
    await insert()
    with pytest.raises(Exception, match="."):
        await insert(NewJob("shop:good", queue="fresh"), NewJob(None, queue="fresh"))
    assert (await backend.count(JobFilter()))[State.WAITING] == 1
    assert await backend.get_queue("fresh") is None
    await insert(queue="fresh")
    assert await backend.get_queue("fresh") == QueueRecord("fresh")


async def test_a_bulk_of_several_statements_with_a_bad_job_in_the_last_stores_nothing(backend, insert):
    await insert()
    with pytest.raises(Exception, match="."):
        await insert(*(NewJob(f"shop:n{n}") for n in range(3 * MOST)), NewJob(None))
    assert (await backend.count(JobFilter()))[State.WAITING] == 1


async def test_an_instant_in_another_zone_is_the_same_instant(backend, insert, tick):
    at = datetime(2026, 7, 1, 1, 2, 3, 456_000, timezone(timedelta(hours=5, minutes=30))) + 789 * tick
    (id,) = await insert(at=at)
    found = (await backend.get(id)).available_at
    assert found == at
    assert found.utcoffset() == timedelta(0)


async def test_every_queue_of_a_batch_is_created(backend, insert):
    await backend.create_queue(QueueRecord("b", 7))
    await insert(*(NewJob("shop:pay", queue=queue) for queue in "cbaca"))
    assert await backend.list_queues() == [QueueRecord("a"), QueueRecord("b", 7), QueueRecord("c")]


async def test_a_new_queue_gets_the_defaults_given(backend):
    await backend.insert([NewJob("shop:pay", queue="mail")], QueueRecord("*", 3, 4, True))
    assert await backend.list_queues() == [QueueRecord("mail", 3, 4, True)]


async def test_an_existing_queue_keeps_its_settings(backend, connect):
    await backend.create_queue(QueueRecord("mail", 7, 1))
    await backend.insert([NewJob("shop:pay", queue="mail")], QueueRecord("*", 3, 4, True))
    other = await connect()
    await other.insert([NewJob("shop:pay", queue="mail")], QueueRecord("*", 5, 6, True))
    assert await backend.list_queues() == [QueueRecord("mail", 7, 1)]


@pytest.mark.parametrize("letter", ["x", "漢"])
async def test_a_mebibyte_of_args_and_of_meta_travels_unchanged(backend, insert, claim, letter):
    text = json.dumps({"args": [letter * ((1024 * 1024 - 20) // len(letter.encode()))]}, ensure_ascii=False)
    (id,) = await insert(args=text, meta=text)
    record = await backend.get(id)
    (held,) = await claim()
    assert (record.args_json, record.meta_json, held.args, held.meta) == (text, text, text, text)


async def test_the_largest_and_smallest_numbers_are_kept(backend, insert):
    (low,) = await insert(priority=-(2**31 - 1))
    (high,) = await insert(priority=2**31 - 1, max_attempts=2**31 - 1, timeout=timedelta(days=36_500))
    low, high = await backend.get_many([low, high])
    assert (low.priority, high.priority, high.max_attempts, high.timeout) == (
        -(2**31 - 1), 2**31 - 1, 2**31 - 1, timedelta(days=36_500),
    )  # fmt: skip


async def test_the_farthest_instant_is_kept(backend, insert, clock):
    (id,) = await insert(delay=timedelta(days=36_500))
    assert (await backend.get(id)).available_at == clock.time + timedelta(days=36_500)


VARIED = {
    "queue": "mail", "priority": 3, "max_attempts": 2, "timeout": timedelta(seconds=9), "kill_grace": timedelta(seconds=2),
    "backoff": "fixed", "retry_delay": timedelta(seconds=7), "isolated": True, "tags": ("a", "b"), "meta": '{"who":"me"}',
    "delay": timedelta(hours=1), "at": START + timedelta(days=3),
}  # fmt: skip


async def test_jobs_that_differ_in_one_thing_each_keep_what_is_theirs(backend, insert):
    different = [NewJob(f"shop:{option}", f'{{"args":["{option}"]}}', **{option: value}) for option, value in VARIED.items()]
    plain = [NewJob("shop:plain")] * len(different)
    jobs = [job for pair in zip(different, plain, strict=True) for job in pair]
    alone = [record for job in jobs for record in await backend.get_many(await insert(job))]
    together = await backend.get_many(await insert(*jobs))
    assert [replace(record, id=0) for record in together] == [replace(record, id=0) for record in alone]


@pytest.mark.parametrize("option", VARIED)
async def test_jobs_that_differ_in_one_option_keep_it(backend, insert, option):
    jobs = [NewJob("shop:pay", **values) for values in ({}, {option: VARIED[option]}, {}, {})]
    alone = [record for job in jobs for record in await backend.get_many(await insert(job))]
    together = await backend.get_many(await insert(*jobs))
    assert [replace(record, id=0) for record in together] == [replace(record, id=0) for record in alone]
    assert len({replace(record, id=0) for record in together}) == 2
