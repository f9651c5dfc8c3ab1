"""The database goes away and comes back while an engine works: loops live on, no end is lost."""

from __future__ import annotations

import asyncio

import pytest

from sidequest import Sidequest
from sidequest.errors import BackendUnavailable
from tests.integration import sample_jobs as jobs
from tests.integration.waiting import eventually
from tests.servers.server import Server

pytestmark = pytest.mark.parametrize("database", ["postgres", "mariadb", "mysql", "mongodb"], indirect=True)
QUICK = {"heartbeat_interval": 0.5, "lease_life": 30, "kill_grace": 0.5, "max_workers": 2}


async def test_jobs_that_end_while_the_server_is_away_end_once_it_is_back(start, server: Server, tmp_path) -> None:
    sq: Sidequest = await start(**QUICK)
    pid = sq._hosting.engine.pid
    path = tmp_path / "ran"
    running = [await jobs.overlap.enqueue(str(path), 1.0) for _ in range(5)]
    await eventually(lambda: path.exists() and path.read_text().count("+") == 5)
    await asyncio.to_thread(server.kill)
    with pytest.raises(BackendUnavailable):
        await jobs.add.enqueue(1, 2)
    await asyncio.sleep(1.5)  # all five end meanwhile, and nobody can be told
    await asyncio.to_thread(server.start)
    for handle in running:
        await handle.result(timeout=30)
    assert path.read_text().count("+") == 5
    assert [record.attempt for record in await sq.jobs.list()] == [1] * 5
    assert await (await _enqueued(sq, 3, 4)).result(timeout=15) == 7
    assert sq._hosting.engine.pid == pid


async def test_a_restart_between_jobs_is_not_noticed(start, server: Server) -> None:
    sq: Sidequest = await start(**QUICK)
    assert await (await jobs.add.enqueue(1, 2)).result(timeout=10) == 3
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    assert await (await _enqueued(sq, 3, 4)).result(timeout=15) == 7


async def test_a_server_that_stands_still_for_a_while_costs_nothing_but_time(start, server: Server) -> None:
    await start(**QUICK)
    handle = await jobs.nap.enqueue(0.3)
    server.freeze()
    await asyncio.sleep(1)
    server.thaw()
    await handle.result(timeout=15)
    assert (await handle.refresh()).attempt == 1


async def _enqueued(sq: Sidequest, *numbers: int):
    """A handle, as soon as the database takes the job."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await sq.enqueue(jobs.add.call(*numbers))
            except BackendUnavailable:
                await asyncio.sleep(0.1)
