"""Jobs that are part of the caller's own transaction: there if and only if it commits."""

from __future__ import annotations

import asyncio

import pytest

from sidequest.backends.base import Backend, JobFilter
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from tests.conformance.callers import WAYS, Open

PAIRS = [(database, way) for database, ways in WAYS.items() for way in ways]
pytestmark = pytest.mark.parametrize(("database", "way"), PAIRS, indirect=["database"])
ANY = QueueRecord("*", 3)


@pytest.fixture
def caller(database: str, way: str) -> Open:
    return WAYS[database][way]


async def waiting(backend: Backend) -> int:
    return (await backend.count(JobFilter()))[State.WAITING]


async def test_committed_jobs_are_there_with_all_that_they_carry(backend, caller, url, claim):
    jobs = [NewJob("shop:pay", f'{{"args":[{n}]}}', priority=-n, tags=("a", "é")) for n in range(3)]
    async with caller(url) as user:
        ids = await backend.insert(jobs, ANY, user.connection)
        await user.commit()
    records = await backend.get_many(ids)
    assert [(record.id, record.args_json, record.tags) for record in records] == [
        (id, job.args, job.tags) for id, job in zip(ids, jobs, strict=True)
    ]
    assert [job.id for job in await claim(10)] == list(ids)
    assert await backend.get_queue("default") == QueueRecord("default", 3)


async def test_before_the_commit_nobody_else_sees_them(backend, caller, url, claim):
    async with caller(url) as user:
        await backend.insert([NewJob("shop:pay")], ANY, user.connection)
        assert await waiting(backend) == 0
        await user.commit()
    assert len(await claim(10)) == 1


async def test_rolled_back_jobs_were_never_there(backend, caller, url, insert):
    async with caller(url) as user:
        ids = await backend.insert([NewJob("shop:pay", queue="new")] * 3, ANY, user.connection)
        await user.rollback()
    assert await waiting(backend) == 0
    assert list(await backend.get_many(ids)) == []
    await insert(queue="new")  # its queue is still created when it is needed
    assert await backend.get_queue("new") is not None


async def test_a_transaction_that_is_left_without_a_commit_stores_nothing(backend, caller, url):
    async with caller(url) as user:
        await backend.insert([NewJob("shop:pay")], ANY, user.connection)
    assert await waiting(backend) == 0


async def test_several_enqueues_are_one_with_the_transaction(backend, caller, url):
    async with caller(url) as user:
        ids = [(await backend.insert([NewJob("shop:pay", queue=queue)], ANY, user.connection))[0] for queue in "aabc"]
        assert await waiting(backend) == 0
        await user.commit()
    assert ids == sorted(set(ids))
    assert await waiting(backend) == 4


async def test_no_jobs_are_no_trouble(backend, caller, url):
    async with caller(url) as user:
        assert list(await backend.insert([], ANY, user.connection)) == []
        await user.commit()


async def test_many_jobs_in_order(backend, caller, url):
    jobs = [NewJob("shop:pay", f'{{"args":[{n}]}}') for n in range(2_500)]
    async with caller(url) as user:
        ids = await backend.insert(jobs, ANY, user.connection)
        await user.commit()
    assert [record.args_json for record in await backend.get_many(ids)] == [job.args for job in jobs]


async def test_an_open_transaction_holds_up_nobody_but_writers_of_the_same_file(backend, caller, url, database, insert, claim):
    await insert()
    async with caller(url) as user:
        await backend.insert([NewJob("shop:pay")], ANY, user.connection)
        others = asyncio.gather(insert(), claim(1))
        done, _ = await asyncio.wait([others], timeout=0.2 if database == "sqlite" else 5)
        assert bool(done) == (database != "sqlite")
        await user.commit()
    await others
    assert len(await claim(10, lease="l2")) == 2


async def test_something_else_is_refused_before_anything_is_written(backend, way):
    with pytest.raises(TypeError, match="connection must be "):
        await backend.insert([NewJob("shop:pay")], ANY, object())
    assert await waiting(backend) == 0
    assert list(await backend.list_queues()) == []
