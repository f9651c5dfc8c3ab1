"""Enqueues that share a statement, on each database: each caller has its own job or its own error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sidequest.backends.base import Backend, JobFilter
from sidequest.backends.joined import JoinedInserts
from sidequest.errors import BackendUnavailable
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

ANY = QueueRecord("*", 3)
MANY = 100


@pytest.fixture
def statements(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs there were in each insert that the store was asked for."""
    asked: list[int] = []
    insert = backend.insert

    async def counted(jobs: Sequence[NewJob], *arguments: Any) -> Sequence[int]:
        asked.append(len(jobs))
        return await insert(jobs, *arguments)

    monkeypatch.setattr(backend, "insert", counted)
    return asked


@pytest.fixture
def joined(backend: Backend, statements: list[int]) -> JoinedInserts:
    return JoinedInserts(backend, ANY, lambda: None)


async def at_once(joined: JoinedInserts, jobs: Sequence[NewJob]) -> list[Any]:
    return await asyncio.gather(*map(joined.insert, jobs), return_exceptions=True)


async def test_what_is_enqueued_at_once_is_stored_by_one_statement_in_its_order(backend, joined, statements):
    jobs = [NewJob(f"shop:n{n}", f'{{"args":[{n}]}}', priority=n % 3, queue=f"q{n % 4}") for n in range(MANY)]
    ids = await at_once(joined, jobs)
    assert statements == [MANY]
    assert ids == sorted(set(ids))
    records = await backend.get_many(ids)
    assert [(record.name, record.args_json, record.priority, record.queue) for record in records] == [
        (job.name, job.args, job.priority, job.queue) for job in jobs
    ]
    assert await backend.list_queues() == [QueueRecord(f"q{n}", 3) for n in range(4)]


async def test_clients_that_enqueue_again_and_again_share_statements(backend, joined, statements):
    async def client(number: int) -> list[int]:
        return [await joined.insert(NewJob(f"shop:c{number}", f"{n}")) for n in range(10)]

    found = await asyncio.gather(*map(client, range(10)))
    assert sum(statements) == 100
    assert len(statements) <= 30
    assert all(ids == sorted(ids) for ids in found)
    for number, ids in enumerate(found):
        records = await backend.get_many(ids)
        assert [(record.name, record.args_json) for record in records] == [(f"shop:c{number}", f"{n}") for n in range(10)]


@pytest.mark.parametrize("place", [0, 3, 7])
async def test_a_job_that_the_database_refuses_fails_alone(backend, joined, place):
    await joined.insert(NewJob("shop:pay"))
    jobs = [NewJob(f"shop:n{n}") for n in range(7)]
    jobs.insert(place, NewJob(None))  # type: ignore[arg-type]
    found = await at_once(joined, jobs)
    assert isinstance(found.pop(place), TypeError | ValueError)
    assert [record.name for record in await backend.get_many(found)] == [f"shop:n{n}" for n in range(7)]
    assert (await backend.count(JobFilter()))[State.WAITING] == 8


async def test_a_store_that_is_closed_is_unavailable_to_each_of_them(backend, joined):
    await backend.close()
    found = await at_once(joined, [NewJob("shop:pay")] * 3)
    assert [type(error) for error in found] == [BackendUnavailable] * 3
    assert len({id(error) for error in found}) == 3


async def test_a_store_that_closes_under_them_leaves_nobody_waiting(backend, joined, connect):
    running = [asyncio.ensure_future(joined.insert(NewJob(f"shop:n{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    await backend.close()
    running += [asyncio.ensure_future(joined.insert(NewJob("shop:late"))) for _ in range(3)]
    async with asyncio.timeout(20):
        found = await asyncio.gather(*running, return_exceptions=True)
    stored = [id for id in found if isinstance(id, int)]
    assert [type(error) for error in found if not isinstance(error, int)] == [BackendUnavailable] * (6 - len(stored))
    other = await connect()
    assert len(await other.get_many(stored)) == len(stored)
