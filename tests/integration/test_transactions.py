"""Enqueueing in the caller's own transaction, with a running engine: committed jobs run, others never."""

from __future__ import annotations

import pytest

from sidequest import Sidequest
from sidequest.errors import ConfigError, JobNotFound
from tests.conformance.callers import WAYS, Open
from tests.integration import sample_jobs as jobs

PAIRS = [(database, way) for database, ways in WAYS.items() for way in ways]


@pytest.fixture
def caller(database: str, way: str) -> Open:
    return WAYS[database][way]


@pytest.mark.parametrize(("database", "way"), PAIRS, indirect=["database"])
async def test_a_job_runs_when_its_transaction_is_committed_and_only_then(sq: Sidequest, url: str, caller: Open) -> None:
    async with caller(url) as user:
        kept = await jobs.add.options(connection=user.connection).enqueue(1, 2)
        [more] = await sq.enqueue_many([jobs.add.call(3, 4)], connection=user.connection)
        with pytest.raises(JobNotFound):
            await kept.result(timeout=5)
        await user.commit()
    assert await kept.result(timeout=5) == 3
    assert await more.result(timeout=5) == 7


@pytest.mark.parametrize(("database", "way"), PAIRS, indirect=["database"])
async def test_a_job_of_a_rolled_back_transaction_never_was(sq: Sidequest, url: str, caller: Open) -> None:
    async with caller(url) as user:
        await sq.enqueue(jobs.add.call(1, 2), connection=user.connection)
        await user.rollback()
    assert sum((await sq.jobs.count()).values()) == 0
    assert await (await jobs.add.enqueue(3, 4)).result(timeout=5) == 7


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_running_job_is_told_that_it_cannot_join_a_transaction(sq: Sidequest) -> None:
    handle = await jobs.enqueue_with_connection.options(max_attempts=1).enqueue()
    assert ConfigError.__name__ in await handle.result(timeout=5)
