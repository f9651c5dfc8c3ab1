"""Enqueues of one process that are under way at the same time, through a real Sidequest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sidequest import Sidequest
from sidequest.backends.base import Backend
from sidequest.jobs.record import NewJob
from tests.integration import sample_jobs
from tests.integration.conftest import StartSidequest


class Watched:
    """What a Sidequest asked its store to insert; `gate` holds an insert up before it is made."""

    def __init__(self, sq: Sidequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[tuple[int, object | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        assert sq._store is not None
        self.store: Backend = sq._store
        insert = self.store.insert

        async def watched(jobs: Sequence[NewJob], defaults: Any, connection: object | None = None) -> Sequence[int]:
            self.statements.append((len(jobs), connection))
            await self.gate.wait()
            return await insert(jobs, defaults, connection)

        monkeypatch.setattr(self.store, "insert", watched)


async def test_requests_of_one_app_share_statements_and_each_gets_its_own_job(
    start: StartSidequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sq = await start(max_workers=2)
    watched = Watched(sq, monkeypatch)
    handles = await asyncio.gather(*(sq.enqueue(sample_jobs.add.call(n, 1000)) for n in range(50)))
    assert watched.statements == [(50, None)]
    assert [await handle.result(timeout=30) for handle in handles] == [n + 1000 for n in range(50)]


async def test_a_bulk_shares_its_statement_with_nobody(start: StartSidequest, monkeypatch: pytest.MonkeyPatch) -> None:
    sq = await start(engine="off")
    watched = Watched(sq, monkeypatch)
    call = sample_jobs.add.call(1, 2)
    await asyncio.gather(sq.enqueue(call), sq.enqueue_many([call]), sq.enqueue(call), sq.enqueue_many([call, call]))
    assert sorted(jobs for jobs, _ in watched.statements) == [1, 2, 2]


async def test_a_stop_lets_enqueues_that_have_begun_end(start: StartSidequest, monkeypatch: pytest.MonkeyPatch) -> None:
    sq = await start(engine="off")
    watched = Watched(sq, monkeypatch)
    watched.gate.clear()
    under_way = asyncio.create_task(sq.enqueue(sample_jobs.add.call(1, 2)))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(sq.enqueue(sample_jobs.add.call(n, 2))) for n in range(3)]
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(sq.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    watched.gate.set()
    handles = await asyncio.gather(under_way, *waiting)
    await stopping
    assert watched.statements == [(1, None), (3, None)]
    other = await start(engine="off")
    assert [record.id for record in await other.jobs.list()] == [handle.id for handle in reversed(handles)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_jobs_of_a_transaction_go_by_its_connection_one_by_one(
    start: StartSidequest, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiosqlite

    sq = await start(engine="off")
    watched = Watched(sq, monkeypatch)
    async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:
        await connection.execute("BEGIN")
        calls = [sample_jobs.add.options(connection=connection).call(n, 2) for n in range(2)]
        await asyncio.gather(sq.enqueue(calls[0]), sq.enqueue(calls[1]))
        await connection.commit()
    assert watched.statements == [(1, connection), (1, connection)]
