"""Who holds a job when processes die together, stand still, or are too slow; and that two never finish it both."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from sidequest import EngineUnreachable, JobHandle, Sidequest, State
from sidequest.engine.process_groups import born
from tests.integration.conftest import StartSidequest
from tests.integration.place import Place, ended
from tests.integration.waiting import eventually
from tests.servers.proxy import Proxy, through

QUICK = {
    "engine": "process", "heartbeat_interval": 0.5, "lease_life": 2.0, "rescue_interval": 0.3, "kill_grace": 0.5,
    "max_workers": 2,
}  # fmt: skip
"""An engine for each, and a lease life of two seconds instead of a minute."""


@pytest.fixture
async def client(url: str) -> AsyncIterator[Sidequest]:
    """Looks on, and runs nothing."""
    async with Sidequest(url, engine="off") as sq:
        yield sq


# Everything on the host dies


async def test_after_kill_9_of_app_and_engine_the_next_start_on_the_host_runs_their_jobs_at_once(
    url: str, place: Place, client: Sidequest
) -> None:
    await place.app(url)  # with a lease life of a minute
    handles = [await client.enqueue(place.job(name)) for name in "abc"]
    await place.started(*"abc")
    place.kill_all()
    began = time.monotonic()
    async with Sidequest(url):
        await place.started(*"abc", times=2)
        took = time.monotonic() - began
        place.open()
        await ended(client, [handle.id for handle in handles])
    records = [await handle.refresh() for handle in handles]
    assert [(record.attempt, record.interrupts) for record in records] == [(1, 1)] * 3
    assert [place.shape(name) for name in "abc"] == ["++-"] * 3
    assert took < 10


async def test_an_engine_that_lives_on_the_host_takes_over_from_one_that_died_at_its_next_look(
    url: str, place: Place, client: Sidequest, start: StartSidequest
) -> None:
    await place.app(url)
    handle = await client.enqueue(place.job("a"))
    await place.started("a")
    await start(rescue_interval=0.5)
    place.kill_all()
    await place.started("a", times=2, within=10)
    place.open()
    await ended(client, [handle.id])
    assert place.shape("a") == "++-"


# An engine stands still


async def taken_over(place: Place, client: Sidequest, start: StartSidequest, **settings: str) -> tuple[JobHandle[Any], int]:
    """A job that another engine runs since the one that ran it was frozen; and that engine's process."""
    await start(**QUICK, **settings)
    handle = await client.enqueue(place.job("a"))
    await place.started("a")
    [engine] = place.engines()
    os.kill(engine, signal.SIGSTOP)
    await start(**QUICK)
    await place.started("a", times=2)
    return handle, engine


async def test_an_engine_that_was_frozen_stops_what_others_have_taken_and_overwrites_nothing(
    place: Place, client: Sidequest, start: StartSidequest, capfd: pytest.CaptureFixture[str]
) -> None:
    handle, engine = await taken_over(place, client, start)
    first, second = place.marks("a")
    os.kill(engine, signal.SIGCONT)
    await eventually(lambda: "has lost 1 jobs to" in capfd.readouterr().err)
    await asyncio.sleep(1)  # the first run is told to stop at once
    place.open()
    await ended(client, [handle.id])
    record = await handle.refresh()
    assert (record.result, record.attempt, record.interrupts) == (int(second), 1, 1)
    await asyncio.sleep(1)  # time for another end, should there be one
    assert place.marks("a") == [first, second, f"-{int(second)}"]
    assert await handle.refresh() == record


async def test_an_end_that_comes_out_of_a_frozen_engine_is_dropped_when_the_job_is_anothers(
    place: Place, client: Sidequest, start: StartSidequest, capfd: pytest.CaptureFixture[str]
) -> None:
    handle, engine = await taken_over(place, client, start)
    place.open()  # both runs end: this is the overlap that `on_lease_lost="kill"` is for
    await ended(client, [handle.id])
    await eventually(lambda: place.shape("a").count("-") == 2)
    record = await handle.refresh()
    os.kill(engine, signal.SIGCONT)
    await eventually(lambda: _tells_of_a_loss(capfd))
    assert record.result == int(place.marks("a")[1])
    assert await handle.refresh() == record


def _tells_of_a_loss(capfd: pytest.CaptureFixture[str]) -> bool:
    """By the end that was refused, or before, when the beat came first."""
    said = capfd.readouterr().err
    return "was not written" in said or "has lost 1 jobs" in said


async def test_an_engine_that_was_frozen_goes_on_claiming_under_another_id(
    place: Place, client: Sidequest, start: StartSidequest
) -> None:
    sq = await start(**QUICK, queues=["mine"])
    assert sq._hosting is not None
    before, [engine] = sq._hosting.engine.engine_id, place.engines()
    os.kill(engine, signal.SIGSTOP)
    await start(**QUICK, queues=["other"])
    await eventually(lambda: _given_up(client, before))
    os.kill(engine, signal.SIGCONT)
    handle = await client.enqueue(place.job("a", queue="mine"))
    await place.started("a")
    await eventually(lambda: _can_be_asked(client, handle.id))
    place.open()
    await ended(client, [handle.id])
    record = await handle.refresh()
    assert record.engine != before
    await eventually(lambda: sq._hosting.engine is not None and sq._hosting.engine.engine_id == record.engine)


async def _can_be_asked(client: Sidequest, id: int) -> bool:
    try:
        return f"job {id} " in await client.jobs.stack(id)
    except EngineUnreachable:  # its socket gets the new name within seconds
        return False


async def _given_up(client: Sidequest, engine: str | None) -> bool:
    return any(row.id == engine and row.given_up_by for row in await client._opened().list_engines())


async def test_with_kill_the_jobs_of_a_frozen_engine_are_dead_before_others_run_them(
    place: Place, client: Sidequest, start: StartSidequest
) -> None:
    handle, engine = await taken_over(place, client, start, on_lease_lost="kill")
    first, second = place.marks("a")
    assert born(int(first)) == ""
    os.kill(engine, signal.SIGCONT)
    place.open()
    await ended(client, [handle.id])
    record = await handle.refresh()
    assert (record.result, record.attempt, record.crashes, place.shape("a")) == (int(second), 1, 0, "++-")


async def test_with_kill_an_engine_whose_beats_land_kills_nothing(
    client: Sidequest, place: Place, start: StartSidequest
) -> None:
    await start(**QUICK, on_lease_lost="kill")
    handle = await client.enqueue(place.job("a"))
    await place.started("a")
    await asyncio.sleep(2 * QUICK["lease_life"])
    place.open()
    await ended(client, [handle.id])
    assert (place.shape("a"), (await handle.refresh()).interrupts) == ("+-", 0)


# Rows that are changed by hand, and fixed ages


async def test_an_engine_whose_row_was_deleted_keeps_its_jobs(client: Sidequest, place: Place, start: StartSidequest) -> None:
    sq = await start(**QUICK)
    handle = await client.enqueue(place.job("a"))
    await place.started("a")
    assert sq._hosting is not None
    engine_id = sq._hosting.engine.engine_id
    assert engine_id is not None
    await client._opened().forget_engine(engine_id)
    await eventually(lambda: _registered(client, engine_id))
    place.open()
    await ended(client, [handle.id])
    assert place.shape("a") == "+-"


async def _registered(client: Sidequest, engine: str) -> bool:
    return [row.id for row in await client._opened().list_engines()] == [engine]


async def test_a_job_that_is_deleted_while_it_runs_harms_nobody(
    client: Sidequest, place: Place, start: StartSidequest, capfd: pytest.CaptureFixture[str]
) -> None:
    sq = await start(**QUICK)
    assert sq._hosting is not None
    pid = sq._hosting.engine.pid
    handle = await client.enqueue(place.job("a"))
    await place.started("a")
    await _delete_row(client, handle.id)
    place.open()
    await eventually(lambda: "is no longer there" in capfd.readouterr().err)
    other = await client.enqueue(place.job("b"))
    await ended(client, [other.id])
    assert sq._hosting.engine.pid == pid


async def _delete_row(client: Sidequest, id: int) -> None:
    """As somebody may do who knows nothing of engines."""
    store = client._opened()
    if store.dialect == "mongo":
        await store._database.jobs.delete_one({"_id": id})
    else:
        await store.execute(f"DELETE FROM {store.jobs} WHERE id = :id", {"id": id})


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_a_job_that_runs_longer_than_the_fixed_age_is_taken_back_and_stopped(
    client: Sidequest, place: Place, start: StartSidequest
) -> None:
    await start(**QUICK, stale_running=1.0)
    handle = await client.enqueue(place.job("a"))
    await place.started("a", times=2)
    place.open()
    await ended(client, [handle.id])
    assert (await handle.refresh()).interrupts >= 1
    assert place.shape("a").endswith("+-")
    assert place.shape("a").count("-") == 1


# Everything takes long


@pytest.mark.parametrize("database", ["postgres", "mariadb", "mysql", "mongodb"], indirect=True)
async def test_slow_statements_cost_no_lease(url: str, client: Sidequest, place: Place, start: StartSidequest) -> None:
    async with Proxy(urlsplit(url).port or 0) as proxy:
        settings = QUICK | {"lease_life": 9.0, "heartbeat_interval": 3.0, "shutdown_timeout": 1}
        async with Sidequest(through(proxy, url), **settings):
            handle = await client.enqueue(place.job("a"))
            await place.started("a")
            await start(**QUICK | {"lease_life": 9.0, "heartbeat_interval": 1.0})  # would take it if a lease was lost
            proxy.delay = 0.5  # each way
            await asyncio.sleep(12)
            assert (await handle.refresh()).state is State.RUNNING
            proxy.delay = 0.0
            place.open()
            await ended(client, [handle.id])
    assert (place.shape("a"), (await handle.refresh()).interrupts) == ("+-", 0)
