"""The database goes away and comes back while an engine works: loops live on, no end is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from sidequest import BackendFull, Sidequest, State
from sidequest.errors import BackendUnavailable
from tests.integration import sample_jobs as jobs
from tests.integration.place import Place, ended
from tests.integration.waiting import eventually
from tests.servers.server import Server

SERVERS = ["postgres", "mariadb", "mysql", "mongodb"]
ON_SERVERS = pytest.mark.parametrize("database", SERVERS, indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database", ["postgres"], indirect=True)
QUICK = {"engine": "process", "heartbeat_interval": 0.5, "lease_life": 30, "kill_grace": 0.5, "max_workers": 2}
SHORT = QUICK | {"lease_life": 2.0, "rescue_interval": 0.3}
"""A lease life of two seconds instead of a minute."""


@ON_SERVERS
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


@ON_SERVERS
async def test_a_restart_between_jobs_is_not_noticed(start, server: Server) -> None:
    sq: Sidequest = await start(**QUICK)
    assert await (await jobs.add.enqueue(1, 2)).result(timeout=10) == 3
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    assert await (await _enqueued(sq, 3, 4)).result(timeout=15) == 7


@ON_SERVERS
async def test_a_server_that_stands_still_for_a_while_costs_nothing_but_time(start, server: Server) -> None:
    await start(**QUICK)
    handle = await jobs.nap.enqueue(0.3)
    server.freeze()
    await asyncio.sleep(1)
    server.thaw()
    await handle.result(timeout=15)
    assert (await handle.refresh()).attempt == 1


# Longer than leases live


@ON_SERVERS
async def test_after_three_lease_lives_without_a_database_every_job_ends_exactly_once(
    start, server: Server, place: Place
) -> None:
    sq: Sidequest = await start(**SHORT)
    await start(**SHORT)  # another engine, which would take what it believes to be lost
    running = [await sq.enqueue(place.job(f"long {n}")) for n in range(5)]
    ending = [await sq.enqueue(jobs.overlap.call(str(place.folder / f"short {n}"), 2.0)) for n in range(10)]
    await place.started(*(f"long {n}" for n in range(5)), *(f"short {n}" for n in range(10)))
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(3 * SHORT["lease_life"])
    await asyncio.to_thread(server.start)
    await asyncio.sleep(2 * SHORT["lease_life"])  # time enough for a false rescue
    place.open()
    for handle in (*running, *ending):
        await handle.result(timeout=30)
    records = [await handle.refresh() for handle in (*running, *ending)]
    assert {(record.state, record.attempt, record.interrupts) for record in records} == {(State.COMPLETED, 1, 0)}
    assert {place.shape(f"long {n}") for n in range(5)} | {place.shape(f"short {n}") for n in range(10)} == {"+-"}


@ON_SERVERS
async def test_with_kill_jobs_are_stopped_before_the_lease_ends_and_run_again(start, server: Server, place: Place) -> None:
    sq: Sidequest = await start(**SHORT, on_lease_lost="kill")
    handle = await sq.enqueue(place.job("a"))
    await place.started("a")
    await eventually(lambda: _runs(handle))
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(1.2 * SHORT["lease_life"])
    await asyncio.to_thread(server.start)
    await place.started("a", times=2)
    place.open()
    await handle.result(timeout=15)
    record = await handle.refresh()
    assert (place.shape("a"), record.attempt, record.interrupts, record.errors[0].type) == ("++-", 1, 1, "LeaseLost")


async def _runs(handle) -> bool:
    return (await handle.refresh()).state is State.RUNNING


# Ends on disk


@ON_SERVERS
async def test_what_ended_in_an_outage_is_not_run_again_when_the_engine_is_killed_in_it(
    url: str, server: Server, place: Place
) -> None:
    await place.app(url, spool=str(place.spool))
    async with Sidequest(url, engine="off") as client:
        ids = [(await client.enqueue(place.job(f"job {n}"))).id for n in range(5)]
        await place.started(*(f"job {n}" for n in range(5)))
    await asyncio.to_thread(server.stop)
    place.open()
    await eventually(lambda: _lines(place) == 5)
    place.kill_all()
    await asyncio.to_thread(server.start)
    async with Sidequest(url, spool=str(place.spool)) as sq:
        await ended(sq, ids)
        records = [await sq.handle(id).refresh() for id in ids]
    assert [(record.attempt, record.interrupts) for record in records] == [(1, 0)] * 5
    assert {place.shape(f"job {n}") for n in range(5)} == {"+-"}
    assert list(place.spool.iterdir()) == []


@ON_SERVERS
async def test_what_ended_in_an_outage_is_not_run_again_when_the_engine_is_stopped_in_it(
    url: str, server: Server, place: Place
) -> None:
    async with Sidequest(url, spool=str(place.spool), shutdown_timeout=1) as sq:
        ids = [(await sq.enqueue(place.job(f"job {n}"))).id for n in range(3)]
        await place.started(*(f"job {n}" for n in range(3)))
        await asyncio.to_thread(server.stop)
        place.open()
        await eventually(lambda: all(place.shape(f"job {n}") == "+-" for n in range(3)))
    await asyncio.to_thread(server.start)
    async with Sidequest(url, spool=str(place.spool)) as sq:
        await ended(sq, ids)
    assert {place.shape(f"job {n}") for n in range(3)} == {"+-"}


@ON_SERVERS
async def test_an_engine_that_lives_through_an_outage_leaves_no_spool(start, server: Server, place: Place) -> None:
    sq: Sidequest = await start(**QUICK, spool=str(place.spool))
    handle = await sq.enqueue(place.job("a"))
    await place.started("a")
    await asyncio.to_thread(server.stop)
    place.open()
    await eventually(lambda: _lines(place) == 1)
    await asyncio.to_thread(server.start)
    await handle.result(timeout=15)
    await eventually(lambda: list(place.spool.iterdir()) == [])


def _lines(place: Place) -> int:
    files = list(place.spool.glob("*.spool")) if place.spool.exists() else []
    return sum(len(file.read_bytes().splitlines()) for file in files)


# Databases that answer, and refuse


@ON_POSTGRES
async def test_a_server_that_becomes_read_only_for_a_while_costs_nothing_but_time(
    start, server: Server, url: str, place: Place
) -> None:
    sq: Sidequest = await start(**QUICK)
    handles = [await sq.enqueue(place.job(f"job {n}")) for n in range(3)]
    await place.started(*(f"job {n}" for n in range(3)))
    admin = await asyncpg.connect(server.url)
    try:
        await _read_only(admin, on=True)
        with pytest.raises(BackendUnavailable, match="25006"):
            await jobs.add.enqueue(1, 2)
        place.open()
        await eventually(lambda: all(place.shape(f"job {n}") == "+-" for n in range(3)))
        await asyncio.sleep(1)
    finally:
        await _read_only(admin, on=False)
        await admin.close()
    for handle in handles:
        await handle.result(timeout=20)
    assert {place.shape(f"job {n}") for n in range(3)} == {"+-"}
    assert await (await _enqueued(sq, 3, 4)).result(timeout=15) == 7


async def _read_only(admin, *, on: bool) -> None:
    await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
    await admin.execute("SELECT pg_reload_conf()")
    await asyncio.sleep(0.2)  # the servers' processes read it when they are told, and nobody tells when they have


@ON_POSTGRES
async def test_a_server_that_has_no_connection_left_is_waited_for(url: str, place: Place) -> None:
    role = f"jobs_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    await admin.execute(f"GRANT ALL ON SCHEMA public TO {role}")
    limited = url.replace("postgres@", f"{role}@")
    try:
        async with Sidequest(limited, **QUICK) as sq:
            handle = await sq.enqueue(place.job("a"))
            await place.started("a")
            await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
            with pytest.raises(BackendUnavailable, match="53300"):
                await _until_refused(sq)
            place.open()
            await eventually(lambda: place.shape("a") == "+-")
            await asyncio.sleep(1)
            await admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await handle.result(timeout=20)
            assert (place.shape("a"), (await handle.refresh()).attempt) == ("+-", 1)
    finally:
        await admin.execute(f"DROP OWNED BY {role} CASCADE")
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


async def _until_refused(sq: Sidequest) -> None:
    """A connection that broke just now may be told in other words."""
    while True:
        try:
            await sq.enqueue(jobs.add.call(1, 2))
        except BackendUnavailable as error:
            if "53300" in str(error):
                raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 16 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        missing = f"a small file system cannot be mounted here: {mounted.stderr.strip()}"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.database("sqlite")
async def test_ends_are_kept_while_the_disk_is_full_and_written_when_it_is_not(
    small_disk: Path, mark: str, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Sidequest(f"sqlite:///{small_disk}/jobs.db", **QUICK) as sq:
        handle = await sq.enqueue(place.job("a"))
        await place.started("a")
        ballast = small_disk / "ballast"
        with pytest.raises(BackendFull):
            await _fill(sq, ballast)
        place.open()
        await eventually(lambda: "ERROR" in capfd.readouterr().err and place.shape("a") == "+-")
        ballast.unlink()
        await handle.result(timeout=45)  # a full disk is left in peace for half a minute
        assert ((await handle.refresh()).attempt, place.shape("a")) == (1, "+-")


async def _fill(sq: Sidequest, ballast: Path) -> None:
    """Leave no room, then enqueue until that is noticed."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    for _ in range(2_000):
        await sq.enqueue(jobs.echo.options(delay=3600).call("x" * 4_000))


async def _enqueued(sq: Sidequest, *numbers: int):
    """A handle, as soon as the database takes the job."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await sq.enqueue(jobs.add.call(*numbers))
            except BackendUnavailable:
                await asyncio.sleep(0.1)
