"""MongoDB only: rivals, lost connections, frozen servers, fail-over, and writes that go wrong half-way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect, OperationFailure

from sidequest.backends.base import JobFilter
from sidequest.backends.mongo import changes as mongo_changes
from sidequest.backends.mongo import claim as mongo_claim
from sidequest.backends.mongo import insert as mongo_insert
from sidequest.backends.mongo import session as mongo_session
from sidequest.backends.mongo.backend import MongoBackend
from sidequest.backends.mongo.url import ENGINE_POOL
from sidequest.config import DatabaseURL
from sidequest.errors import BackendFull, BackendUnavailable
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError, Released, Snoozed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.servers import proxy
from tests.servers.proxy import Proxy
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
    id, _ = await store.insert([NewJob("shop:pay", priority=1), NewJob("shop:pay")], ANY)

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


# Writes that go wrong half-way


@ON_BOTH
@pytest.mark.parametrize("largest", [10**9, 0])
async def test_an_insert_that_fails_half_way_leaves_nothing_behind(store, foreign, monkeypatch, largest):
    monkeypatch.setattr(mongo_insert, "LARGEST_TRANSACTION", largest)
    (last,) = await store.insert(ONE, ANY)
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


# Lost connections


@pytest.fixture
async def wire(url: str) -> AsyncIterator[Proxy]:
    async with Proxy(urlsplit(url).port or 27017) as wire:
        yield wire


def through(wire: Proxy, url: str, driver: str) -> str:
    return f"{proxy.through(wire, url)}&driver={driver}"


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_connection_lost_between_works_is_replaced_unnoticed(wire, make, store, url, driver):
    other = await make(url=through(wire, url, driver))
    held = await claimed(other, 6)
    wire.cut()
    assert (await other.look()).queues != []
    await other.insert(ONE, ANY)
    wire.cut()
    assert [job.id for job in await other.held_by("e1", 9)] == [job.id for job in held]
    assert await other.apply(ends(other, held)) == frozenset()


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("command", [b"insert\x00", b"commitTransaction\x00"])
async def test_a_connection_lost_in_an_enqueue_costs_nothing_and_doubles_nothing(
    wire, make, store, url, driver, command, before
):
    other = await make(url=through(wire, url, driver))
    await other.insert(ONE, ANY)
    wire.cut_once(command, before=before)
    ids = await other.insert(ONE * 3, ANY)
    assert wire.cuts == 1
    assert [job.id for job in await store.list_after(1, None, 100)] == list(ids)


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize("before", [True, False])
async def test_a_connection_lost_in_an_enqueue_of_one_costs_nothing_and_doubles_nothing(wire, make, store, url, driver, before):
    other = await make(url=through(wire, url, driver))
    await other.insert(ONE, ANY)
    wire.cut_once(b"insert\x00", before=before)
    (id,) = await other.insert(ONE, ANY)
    assert wire.cuts == 1
    assert [job.id for job in await store.list_after(1, None, 100)] == [id]


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("command", [b"update\x00", b"commitTransaction\x00"])
async def test_a_connection_lost_in_the_midst_of_ends_is_made_up_for(wire, make, store, url, driver, command, before):
    other = await make(url=through(wire, url, driver))
    held = await claimed(other, 6)
    wire.cut_once(command, before=before)
    assert await other.apply(ends(other, held)) == frozenset()
    assert wire.cuts == 1
    assert (await store.count(JobFilter()))[State.COMPLETED] == 6


@ON_BOTH
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("room", [1, 5])
async def test_a_claim_whose_connection_is_lost_is_unavailable_and_can_be_found(wire, make, store, url, driver, before, room):
    other = await make(url=through(wire, url, driver))
    await other.insert(ONE * 5, ANY)
    wire.cut_once(b"findAndModify\x00" if room == 1 else b"update\x00", before=before)
    with pytest.raises(BackendUnavailable) as caught:
        await other.claim("e1", "l1", {"default": room})
    assert isinstance(caught.value.__cause__, AutoReconnect)
    assert len(await other.held_by("e1", 10)) == (0 if before else room)


@ON_A_STANDALONE
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize("before", [True, False])
async def test_ends_that_were_lost_on_a_standalone_server_can_be_sent_again(wire, make, store, url, driver, before):
    other = await make(url=through(wire, url, driver))
    held = await claimed(other, 6)
    wire.cut_once(b"update\x00", before=before)
    with pytest.raises(BackendUnavailable):
        await other.apply(ends(other, held))
    assert await other.apply(ends(other, held)) == (frozenset() if before else {job.id for job in held})
    assert (await store.count(JobFilter()))[State.COMPLETED] == 6


@ON_A_STANDALONE
async def test_jobs_lost_on_the_way_to_a_standalone_server_are_removed_again(wire, make, store, url):
    other = await make(url=through(wire, url, "motor"))
    await other.insert(ONE, ANY)
    wire.cut_once(b"insert\x00", before=False)
    with pytest.raises(BackendUnavailable) as caught:
        await other.insert(ONE * 3, ANY)
    assert not hasattr(caught.value, "__notes__")
    assert [job.id for job in await store.list_after(0, None, 100)] == [1]


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
async def test_a_listener_whose_connection_is_lost_hears_on_or_says_so(wire, make, store, url, driver):
    other = await make(url=through(wire, url, driver))
    heard = asyncio.Event()
    task = asyncio.ensure_future(other.listen(heard.set))
    await asyncio.wait_for(heard.wait(), 10)
    heard.clear()
    wire.cut()
    await store.announce()
    hearing = asyncio.ensure_future(heard.wait())
    await asyncio.wait([hearing, task], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert hearing.done() or isinstance(task.exception(), BackendUnavailable)
    hearing.cancel()
    task.cancel()
    await asyncio.wait([task])


# Servers in trouble


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_frozen_server_is_unavailable_in_time_and_forgiven(make, store, server: Server, driver):
    other = await make(f"driver={driver}&command_timeout=0.7&connect_timeout=0.7")
    held = await claimed(other, 6)
    began = time.monotonic()
    await asyncio.to_thread(server.freeze)
    try:
        with pytest.raises(BackendUnavailable):
            await _for_ever(other.look)  # it takes a moment until all of its threads stand still
        calls = [other.look(), other.apply(ends(other, held)), other.insert(ONE * 2, ANY), other.beat("e1"), other.promote(9)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await asyncio.to_thread(server.thaw)
    assert {type(answer) for answer in answers} == {BackendUnavailable}
    assert time.monotonic() - began < 15
    async with asyncio.timeout(20):
        while set(await _again(lambda: other.apply(ends(other, held)))) != {job.id for job in held}:
            pass  # what was sent may have been written once the server could
    assert (await store.count(JobFilter()))[State.COMPLETED] == 6


async def _for_ever(call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()


async def _again(call: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(0.05)


@ON_BOTH
async def test_closing_does_not_wait_for_a_frozen_server(make, store, server: Server):
    other = await make("command_timeout=0.5&connect_timeout=0.5")
    await other.look()
    await asyncio.to_thread(server.freeze)
    try:
        async with asyncio.timeout(15):
            await other.close()
    finally:
        await asyncio.to_thread(server.thaw)


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_server_that_was_restarted_finds_its_clients_again(make, store, server: Server, driver):
    other = await make(f"driver={driver}")
    held = await claimed(other, 6)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(30):
        assert await _again(lambda: other.apply(ends(other, held))) == frozenset()
    assert (await other.count(JobFilter()))[State.COMPLETED] == 6


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
async def test_a_change_of_the_primary_is_waited_for(make, store, foreign, server: Server, driver):
    if not server.private:
        pytest.skip("the server is somebody else's")
    other = await make(f"driver={driver}&connect_timeout=20")
    held = await claimed(other, 6)
    await foreign.client.admin.command("replSetStepDown", 1, force=True)
    async with asyncio.timeout(40):
        assert len(await other.insert(ONE, ANY)) == 1
        assert await other.apply(ends(other, held)) == frozenset()
        assert len(await other.insert(ONE * 2, ANY)) == 2
    assert await waiting(other) == 3


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_beat_waits_for_no_other_work(make, store, driver):
    """All turns that work may have are taken, and more work waits for them."""
    other = await make(f"driver={driver}")
    await other.register_engine("e1", "h", 1, "1", "*")
    async with AsyncExitStack() as stuck:
        for _ in range(ENGINE_POOL - 2):
            await stuck.enter_async_context(other._working())
        waiting = [asyncio.ensure_future(other.look()) for _ in range(6)]
        async with asyncio.timeout(5):
            for _ in range(3):
                assert await other.beat("e1", within=timedelta(seconds=2)) is True
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)


@ON_BOTH
async def test_work_that_gets_no_turn_in_its_time_is_told(make, store):
    other = await make("command_timeout=0.3")
    async with AsyncExitStack() as stuck:
        for _ in range(ENGINE_POOL - 2):
            await stuck.enter_async_context(other._working())
        with pytest.raises(BackendUnavailable, match=r"all connections were in use for 0\.3 s"):
            await other.look()


@ON_A_REPLICA_SET
async def test_changes_may_go_past_jobs_that_another_transaction_holds(store, foreign):
    held = await claimed(store, 3)
    async with foreign.client.start_session() as session:
        await session.start_transaction()
        await foreign["sidequest_jobs"].update_one({"_id": held[1].id}, {"$set": {"priority": 5}}, session=session)
        async with asyncio.timeout(4):
            assert await store.apply(ends(store, held), skip_locked=True) == {held[1].id}
        await session.abort_transaction()
    assert await store.apply(ends(store, held[1:2]), skip_locked=True) == frozenset()
    assert (await store.count(JobFilter()))[State.COMPLETED] == 3


@ON_BOTH
@pytest.mark.parametrize("code", [14031, 8000])
async def test_a_server_without_room_says_so(database, code):
    assert isinstance(mongo_session.translated(OperationFailure("no room", code), "here"), BackendFull)
