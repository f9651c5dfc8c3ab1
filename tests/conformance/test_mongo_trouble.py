"""MongoDB only: rivals, lost connections, frozen servers, fail-over, and writes that go wrong half-way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect

from sidequest.backends import mongo_changes, mongo_claim, mongo_insert
from sidequest.backends.base import JobFilter
from sidequest.backends.mongo import MongoBackend
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError, Released, Snoozed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.servers.server import Server

ON_BOTH = pytest.mark.parametrize("database", ["mongodb", "mongodb-standalone"], indirect=True)
ON_A_REPLICA_SET = pytest.mark.parametrize("database", ["mongodb"], indirect=True)
ON_A_STANDALONE = pytest.mark.parametrize("database", ["mongodb-standalone"], indirect=True)
WITH_BOTH_DRIVERS = pytest.mark.parametrize("driver", ["motor", "pymongo"])
ANY = QueueRecord("*")
ONE = [NewJob("shop:pay")]
ERROR = JobError("error", "ValueError", "no")
Make = Callable[..., Awaitable[MongoBackend]]


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Opens one more store on the database, with these options; all are closed when the test is over."""
    made: list[MongoBackend] = []

    async def make(options: str = "", role: str = "engine", url: str = url) -> MongoBackend:
        store = MongoBackend(DatabaseURL.parse(f"{url}{'&' if '?' in url else '?'}{options}".rstrip("?&")), role)
        made.append(store)
        await store.open()
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Make) -> MongoBackend:
    store = await make()
    await store.migrate()
    return store


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[Any]:
    """The database, by way of somebody else's client."""
    async with AsyncMongoClient[dict[str, Any]](url, tz_aware=True) as client:
        yield client.get_default_database()


async def waiting(store: MongoBackend) -> int:
    return (await store.count(JobFilter()))[State.WAITING]


async def claimed(store: MongoBackend, count: int) -> Sequence[ClaimedJob]:
    """So many jobs, inserted and claimed."""
    await store.insert(ONE * count, ANY)
    return await store.claim("e1", "l1", {"default": count})


def ends(store: MongoBackend, held: Sequence[ClaimedJob], result: str = "1") -> list[Change]:
    return [transitions.finish(job, Completed(result), None, store.now(), Random(1)) for job in held]


# Rivals between one command of a claim and the next


@pytest.fixture
def in_between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[int]], Awaitable[None]]], None]:
    """Lets something happen, once, when a claim knows its candidates and has not marked them yet."""
    real = mongo_claim._candidates

    def in_between(happen: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        async def candidates(database: Any, rooms: Any) -> Any:
            found = await real(database, rooms)
            monkeypatch.setattr(mongo_claim, "_candidates", real)
            await happen([id for ids in found.values() for id in ids])
            return found

        monkeypatch.setattr(mongo_claim, "_candidates", candidates)

    return in_between


@ON_BOTH
async def test_rooms_are_filled_in_order_although_rivals_take_candidates(make, store, in_between):
    rival = await make()
    ids = await store.insert([NewJob("shop:pay", priority=-n) for n in range(12)], ANY)
    lost: list[int] = []

    async def take(candidates: Sequence[int]) -> None:
        lost.extend(job.id for job in await rival.claim("e2", "l2", {"default": 3}))

    in_between(take)
    mine = [job.id for job in await store.claim("e1", "l1", {"default": 5})]
    assert (lost, mine) == (list(ids[:3]), list(ids[3:8]))


@ON_BOTH
async def test_a_queue_whose_candidates_are_all_lost_is_looked_at_again_and_others_are_not(make, store, in_between):
    rival = await make()
    await store.insert([NewJob("shop:pay", queue=queue) for queue in "aabbb"], ANY)

    async def take(candidates: Sequence[int]) -> None:
        await rival.claim("e2", "l2", {"a": 9})
        await rival.insert([NewJob("shop:new", queue="a"), NewJob("shop:new", queue="b", priority=9)], ANY)

    in_between(take)
    found = await store.claim("e1", "l1", {"a": 2, "b": 3})
    assert [(job.queue, job.name) for job in found] == [
        ("a", "shop:new"),
        ("b", "shop:pay"),
        ("b", "shop:pay"),
        ("b", "shop:pay"),
    ]


@ON_BOTH
@pytest.mark.parametrize("room", [2, 3])
async def test_a_claimed_job_is_as_it_was_when_it_was_claimed(make, store, in_between, room):
    rival = await make()
    (id, *_) = await store.insert(ONE * 2, ANY)

    async def give_back(candidates: Sequence[int]) -> None:
        (held,) = await rival.claim("e2", "l2", {"default": 1})
        assert held.id == id
        now = rival.now()
        outcomes = [Snoozed(now - now), Released(now - now, ERROR)]
        await rival.apply([transitions.finish(held, outcomes[0], None, now, Random(1))])
        (held,) = await rival.claim("e2", "l3", {"default": 1})
        await rival.apply([transitions.finish(held, outcomes[1], None, now, Random(1))])

    in_between(give_back)
    found = await store.claim("e1", "l1", {"default": room})
    assert {job.id: (job.snoozes, job.errors is not None, job.lease, job.attempt) for job in found} == {
        id: (1, True, "l1", 1), id + 1: (0, False, "l1", 1),
    }  # fmt: skip


@ON_BOTH
async def test_candidates_that_were_canceled_in_between_are_not_claimed(make, store, in_between):
    rival = await make()
    ids = await store.insert(ONE * 3, ANY)

    async def cancel(candidates: Sequence[int]) -> None:
        records = await rival.get_many(ids[:2])
        assert not await rival.apply([transitions.cancel(record, rival.now()) for record in records])

    in_between(cancel)
    assert [job.id for job in await store.claim("e1", "l1", {"default": 3})] == [ids[2]]


@ON_BOTH
async def test_a_job_snoozed_between_the_look_and_the_promotion_is_not_promoted(make, store, foreign):
    ids = await store.insert([NewJob("shop:pay", delay=store.now() - store.now())] * 2, ANY)
    await foreign["sidequest_jobs"].update_many({}, {"$set": {"ready": False}})
    real = MongoBackend.now
    calls = 0

    async def snooze() -> None:
        record = await store.get(ids[0])
        later = store.now().replace(year=2100)
        await store.apply([Change(ids[0], None, (State.WAITING,), State.WAITING, {"available_at": later})])
        assert record is not None

    await snooze()
    assert await store.promote(10) == 1
    assert [job.id for job in await store.claim("e1", "l1", {"default": 5})] == [ids[1]]
    del real, calls


# Writes that go wrong half-way


@ON_BOTH
@pytest.mark.parametrize("largest", [10**9, 0])
async def test_an_insert_that_fails_half_way_leaves_nothing_behind(store, foreign, monkeypatch, largest):
    monkeypatch.setattr(mongo_insert, "LARGEST_TRANSACTION", largest)
    (last,) = await store.insert(ONE, ANY)
    await foreign["sidequest_jobs"].update_many({}, [{"$set": {"_id": "$_id"}}])
    copy = await foreign["sidequest_jobs"].find_one()
    await foreign["sidequest_jobs"].insert_one({**copy, "_id": last + 3})
    with pytest.raises(ValueError, match="refuses the value: E11000") as caught:
        await store.insert(ONE * 5, ANY)
    assert not hasattr(caught.value, "__notes__")
    assert [job.id for job in await store.list_after(0, None, 100)] == [last, last + 3]
    assert len(await store.insert(ONE * 5, ANY)) == 5


@ON_BOTH
async def test_a_batch_too_large_for_one_transaction_is_written_exactly_all_the_same(store, monkeypatch):
    monkeypatch.setattr(mongo_changes, "LARGEST_TRANSACTION", 0)
    held = await claimed(store, 30)
    batch = ends(store, held)
    batch[7] = batch[7]._replace(lease="stolen")
    batch[20] = batch[20]._replace(id=999_999)
    batch[25] = transitions.finish(held[25], Failed(ERROR), None, store.now(), Random(1))
    batch.append(Change(held[0].id, "l1", (State.COMPLETED,), State.WAITING, {}))
    batch.append(Change(held[1].id, "l1", (State.RUNNING,), State.WAITING, {}))
    assert await store.apply(batch) == {held[7].id, 999_999, held[1].id}
    states = {job.id: job.state for job in await store.get_many(job.id for job in held)}
    assert [states[held[n].id] for n in (0, 1, 2, 7, 20, 25)] == [
        State.WAITING, State.COMPLETED, State.COMPLETED, State.CLAIMED, State.CLAIMED, State.FAILED,
    ]  # fmt: skip
    assert (await store.get(999_999)) is None


@ON_A_REPLICA_SET
async def test_a_transaction_that_the_server_has_no_room_for_is_written_piece_by_piece(store, foreign):
    text = "x" * (1024 * 1024)
    ids = [
        (await store.insert([NewJob("shop:pay", text)], ANY))[0] for _ in range(150)
    ]  # more than its cache can rewrite at once
    held = await store.claim("e1", "l1", {"default": 150})
    assert await store.apply(ends(store, held)) == frozenset()
    assert (await store.count(JobFilter()))[State.COMPLETED] == 150
    assert await store.delete(ids) == set(ids)


@ON_A_REPLICA_SET
async def test_somebody_elses_transaction_is_waited_for(store, foreign):
    held = await claimed(store, 3)
    async with foreign.client.start_session() as session:
        await session.start_transaction()
        await foreign["sidequest_jobs"].update_one({"_id": held[1].id}, {"$set": {"priority": 5}}, session=session)
        write = asyncio.ensure_future(store.apply(ends(store, held)))
        done, _ = await asyncio.wait([write], timeout=0.2)
        assert not done
        assert (await store.count(JobFilter()))[State.CLAIMED] == 3
        await session.abort_transaction()
    assert await write == frozenset()


@ON_A_REPLICA_SET
async def test_a_transaction_that_ends_with_an_error_holds_nothing_up(store, monkeypatch):
    held = await claimed(store, 3)
    real = mongo_changes._write_all

    async def break_down(*arguments: Any) -> None:
        await real(*arguments)
        raise RuntimeError("in the midst")

    monkeypatch.setattr(mongo_changes, "_write_all", break_down)
    with pytest.raises(RuntimeError, match="in the midst"):
        await store.apply(ends(store, held))
    monkeypatch.setattr(mongo_changes, "_write_all", real)
    assert [job.id for job in await store.held_by("e1", 10)] == [job.id for job in held]
    assert await store.apply(ends(store, held)) == frozenset()


# Announcements


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
async def test_an_announcement_is_heard_by_all_who_listen(make, store, driver):
    heard = [asyncio.Event() for _ in range(2)]
    tasks = []
    for event in heard:
        other = await make(f"driver={driver}")
        tasks.append(asyncio.ensure_future(other.listen(event.set)))
        await asyncio.wait_for(event.wait(), 10)  # once when it has begun
        event.clear()
    for _ in range(2):
        await store.announce()
        for event in heard:
            await asyncio.wait_for(event.wait(), 10)
            event.clear()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


@ON_A_REPLICA_SET
async def test_listeners_do_not_hear_of_other_prefixes(make, store):
    other = await make("prefix=other_")
    await other.migrate()
    calls: list[None] = []
    begun = asyncio.Event()
    task = asyncio.ensure_future(store.listen(lambda: (calls.append(None), begun.set())))
    await asyncio.wait_for(begun.wait(), 10)
    await other.announce()
    await asyncio.sleep(0.2)
    assert len(calls) == 1
    task.cancel()
    await asyncio.wait([task])


@ON_A_REPLICA_SET
async def test_listening_ends_with_an_error_when_the_collection_goes(store, foreign):
    begun = asyncio.Event()
    task = asyncio.ensure_future(store.listen(begun.set))
    await asyncio.wait_for(begun.wait(), 10)
    await foreign["sidequest_signals"].drop()
    with pytest.raises(BackendUnavailable):
        await asyncio.wait_for(task, 10)


@ON_A_STANDALONE
async def test_a_standalone_server_cannot_tell(store):
    await store.announce()
    await store.listen(lambda: pytest.fail("nobody called"))
