"""PostgreSQL only: lost connections, frozen servers, locks, and what each of the server's errors means to us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from sidequest.backends import pool as pools
from sidequest.backends.base import JobFilter
from sidequest.backends.postgres import pool as postgres_pool
from sidequest.backends.postgres import session as postgres_session
from sidequest.backends.postgres.backend import PostgresBackend
from sidequest.backends.postgres.url import ENGINE_POOL
from sidequest.backends.sql.session import Session
from sidequest.config import DatabaseURL
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

pytestmark = pytest.mark.parametrize("database", ["postgres"], indirect=True)
ANY = QueueRecord("*")
ONE = [NewJob("shop:pay")]
OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sidequest%'"
Make = Callable[..., Awaitable[PostgresBackend]]


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Opens one more store on the database, with these options; all are closed when the test is over."""
    made: list[PostgresBackend] = []

    async def make(options: str = "", role: str = "engine", url: str = url) -> PostgresBackend:
        store = PostgresBackend(DatabaseURL.parse(url + options), role)
        made.append(store)
        await store.open()
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Make) -> PostgresBackend:
    store = await make()
    await store.migrate()
    await store.create_queue(QueueRecord("default"))
    return store


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[Any]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def waits_for_a_lock(foreign: Any) -> None:
    """Return when one of our statements waits for a lock."""
    async with asyncio.timeout(10):
        while not await foreign.fetchval(f"SELECT count(*) {OURS} AND wait_event_type = 'Lock'"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def waiting(store: PostgresBackend) -> int:
    return (await store.count(JobFilter()))[State.WAITING]


# Lost connections


async def test_connections_that_broke_while_idle_are_replaced_without_a_word(store, foreign):
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    assert await foreign.fetchval(f"SELECT count(*) {OURS}") == ENGINE_POOL
    await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
    await asyncio.sleep(0.1)  # the news travels by the sockets
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    assert await waiting(store) == 20


@pytest.mark.parametrize("number", [1, 2, 1_500])
async def test_a_connection_lost_in_the_middle_of_a_write_is_unavailable_and_not_used_again(store, foreign, number):
    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_jobs")
        insert = asyncio.ensure_future(store.insert(ONE * number, ANY))
        await waits_for_a_lock(foreign)
        await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
        with pytest.raises(BackendUnavailable, match="postgresql://.*terminating connection|closed in the middle"):
            await insert
    assert await waiting(store) == 0
    assert len(await store.insert(ONE * number, ANY)) == number


async def test_a_transaction_that_loses_its_connection_leaves_nothing(store):
    async def die(session: Session) -> None:
        await session.execute("INSERT INTO sidequest_queues VALUES ('half', 0, 1, false, now())")
        await session.fetch("SELECT pg_terminate_backend(pg_backend_pid())")

    for _ in range(5):  # more often than there are connections
        with pytest.raises(BackendUnavailable):
            await store.transact(die)
    assert await store.get_queue("half") is None


async def test_work_goes_on_while_connections_are_killed_and_no_end_is_lost(store, foreign, chance):
    await store.insert([NewJob("shop:pay")] * 600, ANY)
    done: set[int] = set()

    async def again(call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except BackendUnavailable:
                await asyncio.sleep(0.01)

    async def work(name: str) -> None:
        while len(done) < 600:
            await again(lambda: store.claim(name, uuid4().hex, {"default": 20}))
            for job in await again(lambda: store.held_by(name, 100)):  # also those of a claim whose answer was lost
                end = transitions.finish(job, Completed("1"), None, store.now(), chance)
                await again(lambda end=end: store.apply([end]))
                done.add(job.id)

    async def kill() -> None:
        while True:
            await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
            await asyncio.sleep(0.15)

    killing = asyncio.ensure_future(kill())
    async with asyncio.timeout(50):
        await asyncio.gather(work("e1"), work("e2"))
    killing.cancel()
    await asyncio.wait([killing])
    await asyncio.sleep(0.1)
    assert await again(lambda: store.count(JobFilter())) == dict.fromkeys(State, 0) | {State.COMPLETED: 600}


async def test_a_server_that_restarts_is_found_again(store, server):
    await store.insert(ONE, ANY)
    await asyncio.to_thread(server.kill)
    with pytest.raises(BackendUnavailable):
        await store.insert(ONE, ANY)
    await asyncio.to_thread(server.start)
    assert len(await store.insert(ONE, ANY)) == 1
    assert await waiting(store) == 2


# Servers that do not answer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections in trouble are given up soon."""
    for module in (pools, postgres_pool, postgres_session):
        monkeypatch.setattr(module, "GRACE", 0.2)


@pytest.mark.parametrize("number", [1, 2, 1_500])
async def test_a_frozen_server_is_unavailable_after_the_command_timeout(make, store, server, hasty, number):
    quick = await make("?command_timeout=0.3")
    await quick.insert(ONE, ANY)
    server.freeze()
    try:
        async with asyncio.timeout(5):
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await quick.insert(ONE * number, ANY)
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await quick.look()
    finally:
        server.thaw()
    assert len(await quick.insert(ONE, ANY)) == 1


async def test_a_store_on_a_frozen_server_can_be_closed(make, store, server, hasty):
    quick = await make("?command_timeout=60")
    server.freeze()
    try:
        insert = asyncio.ensure_future(quick.insert(ONE, ANY))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await quick.close()
            with pytest.raises(BackendUnavailable):
                await insert
    finally:
        server.thaw()


async def test_a_listener_notices_a_frozen_server(make, store, server, hasty, monkeypatch):
    monkeypatch.setattr(postgres_pool, "PING", 0.1)
    heard = asyncio.Event()
    listening = asyncio.ensure_future(store.listen(heard.set))
    await heard.wait()
    server.freeze()
    try:
        async with asyncio.timeout(5):
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await listening
    finally:
        server.thaw()


async def test_a_statement_that_takes_too_long_is_stopped_at_the_server_as_well(make, store, foreign):
    quick = await make("?command_timeout=0.3&application_name=sidequest quick")
    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_jobs")
        for _ in range(5):  # more often than there are connections
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await quick.insert(ONE, ANY)
        assert await foreign.fetchval(f"SELECT count(*) {OURS} AND state = 'active'") == 0
    assert len(await quick.insert(ONE, ANY)) == 1
    assert await waiting(store) == 1


async def test_who_waits_too_long_for_a_connection_is_told(make, store, foreign):
    one = await make("?pool_size=1&command_timeout=0.4", "app")
    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_jobs")
        calls = [asyncio.ensure_future(one.insert(ONE, ANY)) for _ in range(3)]
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BackendUnavailable] * 3
    assert len(await one.insert(ONE, ANY)) == 1


# Callers that are cancelled


@pytest.mark.parametrize("number", [1, 3, 1_500])
async def test_a_cancelled_write_that_was_sent_is_finished_first(store, foreign, number):
    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_jobs")
        insert = asyncio.ensure_future(store.insert(ONE * number, ANY))
        await waits_for_a_lock(foreign)
        insert.cancel()
        await asyncio.sleep(0.05)
        assert not insert.done()
    await asyncio.wait([insert])
    assert insert.cancelled()
    assert await waiting(store) == number


async def test_a_cancelled_read_gives_its_connection_back_in_order(make, store, foreign):
    one = await make("?pool_size=1", "app")
    await one.insert(ONE, ANY)
    for _ in range(3):
        async with foreign.transaction():
            await foreign.execute("LOCK TABLE sidequest_jobs")
            read = asyncio.ensure_future(one.count(JobFilter()))
            await waits_for_a_lock(foreign)
            read.cancel()
            await asyncio.wait([read])
            assert read.cancelled()
    assert await waiting(one) == 1
    assert await one.last_id() == 1


# Conflicts


async def test_a_deadlock_is_tried_again_until_both_have_done_their_work(store, foreign):
    await foreign.execute(f'ALTER DATABASE "{urlsplit(store.url.target).path[1:]}" SET deadlock_timeout = 50')
    await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
    await asyncio.sleep(0.1)
    for name in ("a", "b"):
        await store.create_queue(QueueRecord(name))
    both = asyncio.Barrier(2)
    tries: list[str] = []

    async def change(session: Session, *names: str) -> None:
        tries.append(names[0])
        for name in names:
            await session.execute(
                "UPDATE sidequest_queues SET concurrency = concurrency + 1 WHERE name = :name", {"name": name}
            )
            if len(tries) <= 2 and name == names[0]:
                await both.wait()  # now each has what the other one wants

    await asyncio.gather(
        store.transact(lambda session: change(session, "a", "b")), store.transact(lambda session: change(session, "b", "a"))
    )
    assert {(await store.get_queue(name)).concurrency for name in ("a", "b")} == {12}
    assert len(tries) > 2


async def test_a_deadlock_in_the_users_own_transactions_ends_one_of_them_with_an_error_of_ours(store, url, foreign):
    async def enqueue(connection: Any, *queues: str) -> None:
        async with connection.transaction():
            await connection.execute("SET LOCAL deadlock_timeout = 50")
            for queue in queues:
                await store.insert([NewJob("shop:pay", queue=queue)], ANY, connection)
                if queue == queues[0]:
                    await both.wait()

    both = asyncio.Barrier(2)
    other = await asyncpg.connect(url)
    answers = await asyncio.gather(enqueue(foreign, "a", "b"), enqueue(other, "b", "a"), return_exceptions=True)
    await other.close()
    (error,) = [answer for answer in answers if answer is not None]
    assert isinstance(error, BackendUnavailable)
    assert "the transaction met another one, and has to begin anew" in str(error)
    assert await waiting(store) == 2


async def test_a_serialization_failure_is_tried_again(store, foreign):
    tries = []

    async def change(session: Session) -> None:
        tries.append(1)
        await session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await session.fetch("SELECT 1 FROM sidequest_queues")
        if len(tries) == 1:
            await foreign.execute("UPDATE sidequest_queues SET concurrency = 2")
        await session.execute("UPDATE sidequest_queues SET concurrency = concurrency + 1")

    await store.transact(change)
    assert len(tries) == 2
    assert await store.get_queue("default") == QueueRecord("default", 3)


async def test_a_lock_that_is_held_for_too_long_makes_the_store_unavailable(store, foreign, monkeypatch):
    tries = []

    async def change(session: Session) -> None:
        tries.append(1)
        await session.execute("SET LOCAL lock_timeout = '20ms'")
        await session.execute("UPDATE sidequest_queues SET concurrency = 5")

    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_queues")
        with pytest.raises(BackendUnavailable, match=r"other writers held the database for too long: .*\(55P03\)"):
            await store.transact(change)
    assert len(tries) == 20
    await store.transact(change)


async def test_tables_that_change_under_a_prepared_statement_are_no_trouble(store, foreign):
    await store.insert(ONE, ANY)
    await store.get(1)
    await store.list_queues()
    await foreign.execute("ALTER TABLE sidequest_queues ALTER concurrency TYPE bigint")
    await foreign.execute("ALTER TABLE sidequest_jobs ALTER priority TYPE bigint")
    assert (await store.get(1)).priority == 0
    assert await store.list_queues() == [QueueRecord("default")]
    assert await store.update_queue("default", concurrency=3) == QueueRecord("default", 3)


async def test_a_claim_waits_for_nobody_who_holds_a_job(store, foreign):
    ids = await store.insert([NewJob("shop:pay")] * 4, ANY)
    async with foreign.transaction():
        await foreign.execute("SELECT 1 FROM sidequest_jobs WHERE id = $1 FOR UPDATE", ids[0])
        await foreign.execute("SELECT 1 FROM sidequest_jobs WHERE id = $1 FOR KEY SHARE", ids[1])  # as a foreign key does
        async with asyncio.timeout(5):
            held = await store.claim("e1", "l1", {"default": 2})
    assert [job.id for job in held] == list(ids[1:3])


async def test_a_promotion_waits_for_nobody_who_holds_a_job(store, foreign):
    now = store.now()
    ids = await store.insert([NewJob("shop:pay")] * 3, ANY)
    await foreign.execute("UPDATE sidequest_jobs SET ready = false, available_at = $1", now)
    async with foreign.transaction():
        await foreign.execute("SELECT 1 FROM sidequest_jobs WHERE id = $1 FOR UPDATE", ids[0])
        async with asyncio.timeout(5):
            assert await store.promote(10) == 2
    assert await store.promote(10) == 1


# What the server's errors mean


async def test_a_server_that_takes_no_writes_any_more_loses_all_connections(store, foreign):
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    pids = {pid for (pid,) in await foreign.fetch(f"SELECT pid {OURS}")}
    database = urlsplit(store.url.target).path[1:]
    await foreign.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
    await asyncio.sleep(0.1)
    with pytest.raises(BackendUnavailable, match=r"\(25006\)"):
        await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    await foreign.execute("SET default_transaction_read_only = off")
    await foreign.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    assert len(await store.insert(ONE, ANY)) == 1  # on a new connection: the old ones would refuse
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    assert pids.isdisjoint({pid for (pid,) in await foreign.fetch(f"SELECT pid {OURS}")})


@pytest.fixture
async def role(foreign: Any, url: str) -> AsyncIterator[str]:
    """The URL for a user who may do nothing, and has one connection."""
    name = f"sidequest_{uuid4().hex[:12]}"
    await foreign.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    parts = urlsplit(url)
    yield parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}").geturl()
    await foreign.execute(f"DROP OWNED BY {name}")
    await foreign.execute(f"DROP ROLE {name}")


async def test_too_many_connections_are_unavailable(make, role):
    await make(url=role)
    with pytest.raises(BackendUnavailable, match=r"\(53300\)"):
        await make(url=role)


async def test_what_a_user_may_not_do_is_unavailable(make, role, foreign):
    await foreign.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    store = await make(url=role)
    with pytest.raises(BackendUnavailable, match=r"\(42501\)"):
        await store.migrate()
    assert not (await store.migration_status()).applied


async def test_a_wrong_password_later_on_is_unavailable(store, foreign, make, role):
    other = await make(url=role)
    name = urlsplit(role).username
    await foreign.execute(f"ALTER ROLE {name} NOLOGIN")
    await foreign.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
    await asyncio.sleep(0.1)
    with pytest.raises(BackendUnavailable, match=r"\(28000\)"):
        await other.look()
    with pytest.raises(ConfigError):
        await make(url=role)


@pytest.mark.parametrize(
    "job", [NewJob("shop:pay", priority=2**31), NewJob("shop:pay", '"\x00"'), NewJob("shop:pay", "\ud800")]
)
async def test_a_value_that_has_no_place_is_refused(store, job):
    for number in (1, 2, 1_500):
        with pytest.raises(ValueError, match=r"^postgresql://.* (refuses|cannot take) the value: ") as caught:
            await store.insert([job] * number, ANY)
        assert not isinstance(caught.value, ConfigError)
    assert len(await store.insert(ONE, ANY)) == 1


async def test_an_error_does_not_quote_what_is_in_a_row(store, foreign):
    await foreign.execute("ALTER TABLE sidequest_jobs ADD CHECK (meta IS NULL)")
    with pytest.raises(ValueError, match="refuses the value") as caught:
        await store.insert([NewJob("shop:pay", '{"args":["s3cret"]}', meta="{}")], ANY)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE sidequest_jobs",
        "ALTER TABLE sidequest_jobs DROP COLUMN snoozes",
        "ALTER TABLE sidequest_jobs SET SCHEMA old",
    ],
)
async def test_tables_that_do_not_fit_are_told_with_the_command_to_run(store, foreign, change):
    await foreign.execute("CREATE SCHEMA old")
    await foreign.execute(change)
    with pytest.raises(SchemaMismatch, match=r"the tables do not fit this Sidequest: .*; run: sidequest migrate up"):
        await store.insert(ONE, ANY)


async def test_a_lost_prepared_statement_points_to_the_pooler(store):
    async def lose(session: Session) -> None:
        await session.fetch("SELECT 7")
        await session.execute("DEALLOCATE ALL")
        await session.fetch("SELECT 7")

    with pytest.raises(
        BackendUnavailable, match=r"\(26000\); a PgBouncer that pools transactions needs \?prepared_statements=off"
    ):
        await store.read(lose)


async def test_nothing_is_logged_by_the_driver_about_all_this(store, foreign, caplog):
    caplog.set_level(logging.DEBUG, "asyncpg")
    async with foreign.transaction():
        await foreign.execute("LOCK TABLE sidequest_jobs")
        insert = asyncio.ensure_future(store.insert(ONE * 2, ANY))
        await waits_for_a_lock(foreign)
        await foreign.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
        with pytest.raises(BackendUnavailable):
            await insert
    assert [record for record in caplog.records if record.name == "asyncpg"] == []


@pytest.mark.parametrize(("code", "meaning"), [("53100", BackendFull), ("53400", BackendFull), ("53300", BackendUnavailable)])
async def test_a_server_without_room_is_told_apart_from_one_without_connections(store, code, meaning):
    with pytest.raises(BackendUnavailable, match=code) as caught:
        await store.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$", {})
    assert type(caught.value) is meaning
