"""PostgreSQL only: who may log in, its tables, plans and listeners, and the ways to have a connection."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sidequest.backends.base import JobFilter
from sidequest.backends.postgres import backend as postgres_backend
from sidequest.backends.postgres import pool as postgres_pool
from sidequest.backends.postgres.backend import PostgresBackend
from sidequest.backends.postgres.session import PostgresSession
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable, ConfigError, SchemaMismatch
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError, Released, Stopped
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from tests.servers.pooler import Pooler

pytestmark = pytest.mark.parametrize("database", ["postgres"], indirect=True)
ANY = QueueRecord("*")
ONE = [NewJob("shop:pay")]
Make = Callable[..., PostgresBackend]


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Makes one more store on the database, with these options; all are closed when the test is over."""
    made: list[PostgresBackend] = []

    def make(options: str = "", role: str = "app", *, url: str = url, pool: object = None) -> PostgresBackend:
        store = PostgresBackend(DatabaseURL.parse(url + options), role, pool=pool)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Make) -> PostgresBackend:
    store = make()
    await store.open()
    await store.migrate()
    return store


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[Any]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def role(foreign: Any) -> AsyncIterator[str]:
    """A user of the server's, without any rights."""
    name = f"sidequest_{uuid4().hex[:12]}"
    await foreign.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await foreign.execute(f"DROP OWNED BY {name}")
    await foreign.execute(f"DROP ROLE {name}")


def as_user(url: str, name: str, path: str | None = None) -> str:
    """The URL for another user of the server's, or to another database."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:s3cret@{host}", path=path or parts.path).geturl()


async def connections(foreign: Any, name: str = "sidequest%") -> int:
    """How many of ours the server has, on this database."""
    count: int = await foreign.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE $1", name
    )
    return count


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the server tells of nothing by itself
            await asyncio.sleep(0.01)


# Opening


async def test_nothing_is_connected_before_it_is_opened_and_nothing_is_left_when_it_is_closed(make, foreign):
    store = make()
    assert await connections(foreign) == 0
    await store.open()
    assert await connections(foreign) == 1
    await store.close()
    await eventually(lambda: is_zero(connections(foreign)))


async def is_zero(number: Awaitable[int]) -> bool:
    return await number == 0


async def test_closing_twice_and_without_opening_is_fine(make):
    store = make()
    await store.close()
    await store.open()
    await store.open()
    await store.close()
    await store.close()


async def test_a_closed_store_is_unavailable_and_can_be_opened_again(store):
    await store.close()
    for call in (store.look(), store.insert(ONE, ANY), store.beat("e1"), store.announce()):
        with pytest.raises(BackendUnavailable, match="is not open"):
            await call
    await store.open()
    assert (await store.look()).queues == []


async def test_a_cancelled_open_leaves_nothing_behind(make, foreign):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # of asyncpg's own futures some are never awaited
    for steps in range(40):
        store = make()
        task = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await store.close()
    await eventually(lambda: is_zero(connections(foreign)))


async def test_an_unknown_user_is_a_wrong_url(make, url):
    store = make(url=as_user(url, "nobody_of_that_name"))
    with pytest.raises(ConfigError, match=r'^url: postgresql://nobody_of_that_name@.* cannot be used: .*"nobody_of') as caught:
        await store.open()
    assert "s3cret" not in str(caught.value)


async def test_an_unknown_database_is_a_wrong_url(make, url):
    parts = urlsplit(url)
    store = make(url=parts._replace(path="/there_is_no_such").geturl())
    with pytest.raises(ConfigError, match=r"^url: .*/there_is_no_such cannot be used: .*"):
        await store.open()


async def test_a_user_who_may_not_connect_is_a_wrong_url(make, url, role, foreign):
    await foreign.execute(f'REVOKE CONNECT ON DATABASE "{urlsplit(url).path[1:]}" FROM PUBLIC')
    with pytest.raises(ConfigError, match=r"cannot be used: .*permission"):
        await make(url=as_user(url, role)).open()


async def test_a_server_that_is_not_there_is_unavailable(make):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = make(url=f"postgresql://ann:s3cret@127.0.0.1:{taken.getsockname()[1]}/db")
        with pytest.raises(BackendUnavailable, match="^postgresql://ann@127.0.0.1") as caught:
            await store.open()
    assert "s3cret" not in str(caught.value)


async def test_a_server_that_does_not_answer_is_unavailable_after_the_connect_timeout(make):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = make(url=f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=0.2")
        async with asyncio.timeout(5):
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await store.open()


async def test_an_old_server_is_refused(make, monkeypatch):
    monkeypatch.setattr(postgres_backend, "OLDEST", 999)
    with pytest.raises(ConfigError, match=r"PostgreSQL 999 or newer is needed; postgresql://.* is \d+$"):
        await make().open()


async def test_of_several_servers_the_one_that_answers_is_used(make, url):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        several = parts._replace(netloc=f"{login}@127.0.0.1:{taken.getsockname()[1]},{host}").geturl()
        store = make(url=several)
        await store.open()
        assert not (await store.migration_status()).applied


async def test_the_servers_clock_is_carried_on(store, foreign):
    said = await foreign.fetchval("SELECT clock_timestamp()")
    assert abs(store.now() - said) < timedelta(seconds=1)
    assert store.ahead() == pytest.approx(timedelta(0), abs=timedelta(seconds=1))


async def test_a_stale_clock_is_read_again_before_a_write(store, monkeypatch):
    asked = []
    monkeypatch.setattr(type(store._time), "stale", property(lambda time: not asked))
    monkeypatch.setattr(type(store._time), "measured", lambda time, said, asked_at: asked.append(said))
    await store.look()
    assert asked == []
    await store.insert(ONE, ANY)
    await store.insert(ONE, ANY)
    assert len(asked) == 1


# Sessions


async def test_a_session_is_set_up_for_short_statements_of_many(make):
    store = make(role="engine")
    await store.open()
    async with store.reader() as session:
        statement = (
            "SELECT current_setting('jit'), current_setting('transaction_isolation'), current_setting('application_name')"
        )
        assert [tuple(row) for row in await session.fetch(statement)] == [("off", "read committed", "sidequest engine")]


async def test_transactions_are_read_committed_whatever_the_database_prefers(make, store):
    eager = make("?options=-c default_transaction_isolation=serializable&prepared_statements=off")
    await eager.open()

    async def level(session) -> str:
        return (await session.fetch("SELECT current_setting('transaction_isolation')"))[0][0]

    assert await eager.transact(level) == "read committed"
    assert await eager.read(level) == "serializable"


@pytest.mark.parametrize(("role", "options", "most"), [("engine", "", 3), ("app", "?pool_size=2", 2), ("app", "", 10)])
async def test_however_many_work_at_once_no_more_connections_are_used(make, store, foreign, role, options, most):
    other = make(options, role)
    await other.open()
    await asyncio.gather(*(other.insert(ONE, ANY) for _ in range(60)), *(other.look() for _ in range(60)))
    assert await connections(foreign, f"sidequest {role}") <= most + (role == "app")  # `store` is an app's as well


async def test_an_engine_with_its_listener_has_at_most_four_connections(make, store, foreign):
    engine = make(role="engine")
    await engine.open()
    heard = asyncio.Event()
    listening = asyncio.ensure_future(engine.listen(heard.set))
    await heard.wait()
    await asyncio.gather(*(engine.insert(ONE, ANY) for _ in range(60)), *(engine.look() for _ in range(60)))
    assert await connections(foreign, "sidequest engine") <= 4
    listening.cancel()
    await asyncio.wait([listening])


async def test_giving_a_connection_back_costs_no_round_trip(store, monkeypatch):
    sent: list[str] = []
    real = asyncpg.Connection.execute

    async def seen(self, query, *arguments, **named):
        sent.append(query)
        return await real(self, query, *arguments, **named)

    monkeypatch.setattr(asyncpg.Connection, "execute", seen)
    await store.look()
    await store.insert(ONE, ANY)
    sent.clear()
    await store.look()
    await store.insert(ONE, ANY)
    assert sent == []


async def test_one_statement_is_no_transaction(store, foreign, monkeypatch):
    await store.insert([NewJob("shop:pay")] * 40, ANY)
    held = await store.claim("e1", "l1", {"default": 40})
    sent: list[str] = []
    real = PostgresSession.execute

    async def seen(self, statement, *values):
        sent.append(statement)
        return await real(self, statement, *values)

    monkeypatch.setattr(PostgresSession, "execute", seen)
    await store.insert([NewJob("shop:pay")] * 200, ANY)
    await store.apply([transitions.start(job, store.now()) for job in held])
    assert sent == []


# Without prepared statements


async def test_nothing_is_prepared_when_it_is_switched_off(make, store):
    plain = make("?prepared_statements=off")
    await plain.open()
    await plain.insert([NewJob("shop:pay")] * 3, ANY)
    assert len(await plain.claim("e1", "l1", {"default": 9})) == 3
    assert await plain.fetch("SELECT name FROM pg_prepared_statements WHERE name <> ''") == []
    assert await store.fetch("SELECT name FROM pg_prepared_statements WHERE name <> ''") != []


async def test_without_a_connection_of_its_own_nobody_listens(make):
    plain = make("?prepared_statements=off")
    await plain.open()
    async with asyncio.timeout(5):
        await plain.listen(lambda: pytest.fail("heard something"))
    await plain.announce()


async def test_all_works_where_each_transaction_runs_on_another_connection(make, url, foreign, chance):
    async with Pooler(url).running() as pooled:
        stores = [make("?prepared_statements=off&schema=jobs", url=pooled) for _ in range(3)]
        for store in stores:
            await store.open()
        applied = await asyncio.gather(*(store.migrate() for store in stores))
        assert sorted(len(names) for names in applied) == [0, 0, 1]

        async def work(number: int) -> int:
            await stores[number].insert([NewJob("shop:pay")] * 1_000, ANY)
            ended = 0
            for turn in range(10):
                await stores[number].insert([NewJob("shop:pay")] * 10, ANY)
                held = await stores[number].claim(f"e{number}", f"l{number}-{turn}", {"default": 50})
                await stores[number].save_progress([(job.id, job.lease, "{}") for job in held[:5]])
                ends = [transitions.finish(job, Completed("1"), store.now(), store.now(), chance) for job in held]
                assert await stores[number].apply(ends) == frozenset()
                await stores[number].announce()
                ended += len(held)
            return ended

        ended = sum(await asyncio.gather(*(work(number) for number in range(3))))
        assert (await stores[0].count(JobFilter()))[State.COMPLETED] == ended == 1_500
        left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE "
        assert await foreign.fetchval(f"{left} datname = current_database())") == 0
        for store in stores:
            await store.close()


async def test_a_pooler_that_refuses_our_settings_is_told_how_to_be_used(make, url):
    async with Pooler(url).running() as pooled:
        with pytest.raises(
            BackendUnavailable, match=r"\(08P01\); a PgBouncer that pools transactions needs \?prepared_statements=off"
        ):
            await make(url=pooled).open()


# What stands in the tables


async def test_rows_are_readable_with_postgresqls_own_tools(store, foreign):
    at = datetime.fromisoformat("2030-05-06T07:08:09.000010+02:00")
    (id,) = await store.insert([NewJob("shop:pay", '{"args":[7]}', tags=("a",), at=at)], ANY)
    assert tuple(
        await foreign.fetchrow(
            "SELECT state, ready, available_at, args::jsonb -> 'args' ->> 0, tags::jsonb ->> 0 "
            "FROM sidequest_jobs WHERE id = $1", id,
        )
    ) == ("waiting", False, at, "7", "a")  # fmt: skip


async def test_ready_says_whether_a_job_can_be_claimed(store, foreign):
    await store.insert([NewJob("shop:a"), NewJob("shop:b", delay=timedelta(days=1)), NewJob("shop:c", priority=1)], ANY)
    await store.claim("e1", "l1", {"default": 1})
    found = await foreign.fetch("SELECT name, state, ready FROM sidequest_jobs ORDER BY id")
    assert [tuple(row) for row in found] == [
        ("shop:a", "waiting", True), ("shop:b", "waiting", False), ("shop:c", "claimed", None),
    ]  # fmt: skip


async def test_an_ended_job_frees_its_unique_key(store, foreign, chance):
    await store.insert([NewJob("shop:pay"), NewJob("shop:pay")], ANY)
    await foreign.execute("UPDATE sidequest_jobs SET unique_lock = 'key' || id")
    done, back = await store.claim("e1", "l1", {"default": 2})
    await store.apply(
        [
            transitions.finish(done, Completed(), None, store.now(), chance),
            transitions.finish(back, Released(), None, store.now(), chance),
        ]
    )
    found = await foreign.fetch("SELECT unique_lock FROM sidequest_jobs ORDER BY id")
    assert [lock for (lock,) in found] == [None, f"key{back.id}"]


async def test_starts_and_ends_touch_no_index(store, foreign, chance):
    # one job in twenty, so that each finds room on its page
    await store.insert([NewJob("shop:pay", priority=int(n % 20 == 0)) for n in range(1_000)], ANY)
    held = await store.claim("e1", "l1", {"default": 50})
    before = await updates(store, foreign)
    await store.apply([transitions.start(job, store.now()) for job in held])
    await store.save_progress([(job.id, job.lease, '{"done":1,"total":null,"note":""}') for job in held])
    await store.apply([transitions.finish(job, Completed('"ok"'), store.now(), store.now(), chance) for job in held])
    after = await updates(store, foreign)
    assert [now - then for now, then in zip(after, before, strict=True)] == [150, 150]


async def test_a_big_batch_of_ends_is_found_by_id_in_a_table_without_statistics(store, foreign, chance):
    await store.insert([NewJob("shop:pay")] * 20_000, ANY)
    held = await store.claim("e1", "l1", {"default": 500})
    before = await counted(store, foreign, "seq_tup_read")
    ended = [transitions.finish(job, Completed(), store.now(), store.now(), chance) for job in held]
    assert await store.apply(ended) == frozenset()
    assert await counted(store, foreign, "seq_tup_read") == before


async def updates(store: PostgresBackend, foreign: Any) -> tuple[int, int]:
    """Of jobs: all, and those that changed no index."""
    found: tuple[int, int] = await counted(store, foreign, "n_tup_upd, n_tup_hot_upd")
    return found


async def counted(store: PostgresBackend, foreign: Any, what: str) -> tuple[Any, ...]:
    """What the server has counted of the jobs' table so far."""
    if await foreign.fetchval("SELECT to_regproc('pg_stat_force_next_flush') IS NOT NULL"):
        await store.fetch("SELECT pg_stat_force_next_flush()")
    else:
        await asyncio.sleep(1.5)  # a server process tells at most once a second what it did
    await foreign.execute("SELECT pg_stat_clear_snapshot()")
    return tuple(await foreign.fetchrow(f"SELECT {what} FROM pg_stat_user_tables WHERE relname = 'sidequest_jobs'"))


async def test_a_schema_applied_by_hand_is_accepted(make, foreign):
    store = make("?schema=jobs&prefix=by_hand_")
    await foreign.execute(store.migration_sql())
    await store.open()
    await store.check_schema()
    assert list(await store.migrate()) == []
    assert len(await store.insert(ONE, ANY)) == 1


async def test_two_schemas_live_in_one_database(make, store, foreign):
    other = make("?schema=user")  # a reserved word
    await other.open()
    assert not (await other.migration_status()).applied
    with pytest.raises(SchemaMismatch, match=r"do not exist yet; run: sidequest migrate up --url .*\?schema=user$"):
        await other.check_schema()
    await other.migrate()
    await other.insert([NewJob("shop:pay")] * 1_500, ANY)
    assert await store.last_id() == 0
    assert len(await other.claim("e1", "l1", {"default": 2_000})) == 1_500
    assert await foreign.fetchval('SELECT count(*) FROM "user".sidequest_jobs') == 1_500


async def test_a_schema_that_is_there_may_be_used_by_who_may_not_create_one(make, url, role, foreign):
    await foreign.execute(f"CREATE SCHEMA jobs AUTHORIZATION {role}")
    store = make("?schema=jobs", url=as_user(url, role))
    await store.open()
    await store.migrate()
    assert len(await store.insert(ONE, ANY)) == 1


async def test_many_stores_that_create_a_schema_at_once_create_it_once(make):
    rivals = [make("?schema=jobs") for _ in range(4)]
    for rival in rivals:
        await rival.open()
    applied = await asyncio.gather(*(rival.migrate() for rival in rivals))
    assert sorted(len(names) for names in applied) == [0, 0, 0, 1]


@pytest.mark.parametrize("number", [2, 250, 251, 999, 1_000, 2_600])
async def test_however_many_jobs_there_are_their_ids_are_in_order(store, number):
    jobs = [NewJob(f"shop:n{n}", priority=n % 3, tags=("a",) if n % 2 else ()) for n in range(number)]
    ids = await store.insert(jobs, ANY)
    assert list(ids) == list(range(ids[0], ids[0] + number))
    assert [(job.name, job.tags) for job in await store.get_many(ids)] == [(job.name, job.tags) for job in jobs]


@pytest.mark.parametrize("number", [2, 300, 1_500])
async def test_of_many_jobs_with_a_bad_one_none_is_stored(store, number):
    for bad in (NewJob(None), NewJob("shop:pay", '{"args":["\x00"]}'), NewJob("shop:pay", priority=2**40)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="value"):
            await store.insert([*[NewJob("shop:pay")] * (number - 1), bad], ANY)
    assert await store.last_id() == 0


# Plans: the cost of a claim depends on what is claimable, not on history, nor on what the planner believes


@asynccontextmanager
async def explained(store: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Filled with the plans of all that the store does in the block, as they are for any parameters."""
    plans: list[str] = []
    real = PostgresSession.fetch

    async def seen(self, statement, values=None):
        values = values or {}
        if "sidequest_" in statement:
            await self.begin()
            await self.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            rows = await real(self, f"EXPLAIN (ANALYZE, TIMING OFF) {statement}", values)
            plans.append("\n".join(row[0] for row in rows))
            await self.rollback()
        return await real(self, statement, values)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresSession, "fetch", seen)
        yield plans


FILL = """
INSERT INTO sidequest_jobs (name, queue, args, state, ready, priority, available_at, attempt, max_attempts, backoff,
    retry_delay_ms, isolated, interrupts, crashes, snoozes, inserted_at, engine, lease)
SELECT 'shop:pay', 'q' || n % 3, '{}', CASE WHEN waiting THEN 'waiting' ELSE 'completed' END,
    CASE WHEN waiting THEN true END, n % 7, now(), 0, 5, 'fixed', 0, false, 0, 0, 0, now(),
    CASE WHEN NOT waiting THEN 'e1' END, CASE WHEN NOT waiting THEN 'l1' END
FROM (SELECT n, $1::boolean AS waiting FROM generate_series(1, $2::integer) n) s
"""


async def test_claims_looks_and_ends_go_by_their_indexes_also_when_statistics_are_wrong(store, foreign, monkeypatch, chance):
    await foreign.execute("ALTER TABLE sidequest_jobs SET (autovacuum_enabled = off)")
    for queue in ("q0", "q1", "q2"):
        await store.create_queue(QueueRecord(queue))
    await foreign.execute(FILL, False, 5_000)
    await foreign.execute("ANALYZE sidequest_jobs")  # as if nothing ever waited
    await foreign.execute(FILL, True, 20_000)
    for analyzed in (False, True):
        if analyzed:
            await foreign.execute("ANALYZE sidequest_jobs")
        async with explained(store, monkeypatch) as plans:
            held = await store.claim("e2", "l2", {"q0": 5, "q1": 5})
            await store.look()
            ends = [transitions.finish(job, Completed(), None, store.now(), chance) for job in held]
            assert await store.apply(ends) == frozenset()
        claim, look, end = plans
        assert "Index Scan using sidequest_jobs_claim" in claim
        assert re.search("Index (Only )?Scan using sidequest_jobs_claim", look)
        assert "Index Scan using sidequest_jobs_pkey" in end
        for plan in plans:
            assert "Seq Scan on sidequest_jobs" not in plan, plan
            assert not re.search(r"rows=\d{4,} loops", plan), plan  # nothing read a thousand rows
        assert "Sort" not in claim


async def test_the_planner_takes_no_claim_for_a_big_query(store, foreign, monkeypatch):
    await foreign.execute(FILL, True, 100_000)
    await foreign.execute("ANALYZE sidequest_jobs")
    async with explained(store, monkeypatch) as plans:
        await store.claim("e2", "l2", {f"q{number}": 5 for number in range(3)})
    (claim,) = plans
    (cost,) = re.findall(r"cost=[\d.]+\.\.([\d.]+) ", claim.splitlines()[0])
    assert float(cost) < 2_000, claim  # one of 100 000 would be compiled each time, where the app's own pool has jit


async def test_lists_of_what_waits_failed_or_was_canceled_go_by_their_indexes(store, foreign, monkeypatch, chance):
    await foreign.execute(FILL, False, 5_000)
    await store.insert([NewJob("shop:pay", queue="few")] * 9, ANY)
    first, second, *_ = await store.claim("e2", "l2", {"few": 4})
    error = JobError("error", "E", "no")
    now = store.now()
    await store.apply([transitions.finish(first, Failed(error), now, now, chance)])
    await store.apply([transitions.finish(second, Stopped(), now, now, chance)])
    await foreign.execute(FILL, False, 5_000)
    await foreign.execute("ANALYZE sidequest_jobs")
    async with explained(store, monkeypatch) as plans:
        assert len(await store.list_jobs(JobFilter(states=(State.WAITING,)), 50)) == 5
        assert [job.id for job in await store.list_jobs(JobFilter(states=(State.FAILED,)), 50)] == [first.id]
        assert [job.id for job in await store.list_jobs(JobFilter(states=(State.CANCELED,)), 50)] == [second.id]
    waiting, failed, canceled = plans
    assert "using sidequest_jobs_waiting" in waiting
    assert "using sidequest_jobs_trouble" in failed
    assert "using sidequest_jobs_trouble" in canceled


# Announcements


@pytest.fixture
async def listening(make: Make) -> AsyncIterator[Callable[..., Any]]:
    """Begins to listen on a store with these options: what is called at each news, and the task."""
    tasks: list[asyncio.Task[None]] = []

    async def listening(options: str = "", url: str | None = None) -> tuple[asyncio.Queue[int], asyncio.Task[None]]:
        store = make(options, "engine") if url is None else make(options, "engine", url=url)
        await store.open()
        heard: asyncio.Queue[int] = asyncio.Queue()
        task = asyncio.ensure_future(store.listen(lambda: heard.put_nowait(1)))
        tasks.append(task)
        await heard.get()  # it has begun
        return heard, task

    yield listening
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_an_announcement_is_heard_by_all_who_listen(store, listening):
    listeners = [await listening() for _ in range(3)]
    for _ in range(2):
        await store.announce()
        async with asyncio.timeout(5):
            for heard, _ in listeners:
                await heard.get()


async def test_nobody_hears_of_other_tables(store, make, listening, foreign):
    ours, _ = await listening()
    theirs, _ = await listening("?schema=elsewhere")
    longest = "x" * 41
    far, _ = await listening(f"?schema={longest}&prefix={longest}")
    listened_to = "SELECT DISTINCT query FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    assert len(await foreign.fetch(listened_to)) == 3
    other = make(f"?schema={longest}&prefix={longest}")
    await other.open()
    await other.announce()
    async with asyncio.timeout(5):
        await far.get()
    await store.announce()
    async with asyncio.timeout(5):
        await ours.get()
    assert theirs.empty()
    assert far.empty()


async def test_a_listener_whose_connection_is_lost_says_so(listening, foreign):
    _, task = await listening()
    ours = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    await foreign.execute(f"SELECT pg_terminate_backend(pid) {ours}")
    async with asyncio.timeout(5):
        with pytest.raises(BackendUnavailable):
            await task


async def test_a_listener_asks_now_and_then_whether_its_server_lives(listening, foreign, monkeypatch):
    monkeypatch.setattr(postgres_pool, "PING", 0.05)
    await listening()
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sidequest engine' "
        "AND query = 'SELECT 1'"
    )

    async def asked() -> bool:
        return await foreign.fetchval(statement) == 1

    await eventually(asked)


async def test_who_stops_listening_leaves_no_connection(listening, foreign):
    _, task = await listening()
    listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    assert await foreign.fetchval(listeners) == 1
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: is_zero(foreign.fetchval(listeners)))


# The app's own connections


def for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://")


@asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(url, min_size=1, max_size=3) as pool:
        yield pool
        assert await pool.fetchval("SELECT 1") == 1  # left open


@asynccontextmanager
async def sqlalchemy_engine(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(for_sqlalchemy(url), pool_size=3)
    yield engine
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await engine.dispose()


POOLS = {"asyncpg": asyncpg_pool, "sqlalchemy": sqlalchemy_engine}


@pytest.mark.parametrize("kind", POOLS)
async def test_the_apps_own_pool_is_used_and_left_open(make, url, foreign, kind, chance):
    async with POOLS[kind](url) as pool:
        store = make(pool=pool)
        await store.open()
        await store.migrate()
        await store.insert([NewJob("shop:pay")] * 1_500, ANY)
        held = await store.claim("e1", "l1", {"default": 3})
        await store.apply([transitions.finish(job, Completed("1"), store.now(), store.now(), chance) for job in held])
        await asyncio.gather(*(store.look() for _ in range(20)))
        assert (await store.count(JobFilter()))[State.COMPLETED] == 3
        async with asyncio.timeout(5):
            await store.listen(lambda: pytest.fail("heard something"))
        await store.announce()
        assert await connections(foreign) == 0
        await store.close()


@pytest.mark.parametrize("kind", POOLS)
async def test_a_connection_of_the_apps_pool_that_breaks_is_replaced(make, url, foreign, kind):
    async with POOLS[kind](url) as pool:
        store = make(pool=pool)
        await store.open()
        await store.migrate()
        for _ in range(2):
            with pytest.raises(BackendUnavailable):
                await store.transact(lambda session: session.fetch("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert len(await store.insert(ONE, ANY)) == 1


async def test_a_pool_of_another_kind_is_refused(make, url):
    for pool in (object(), "postgresql://host/db", create_async_engine("sqlite+aiosqlite://")):
        with pytest.raises(TypeError, match="pool (must be|speaks to its database through aiosqlite)"):
            make(pool=pool)


async def test_a_connection_without_a_transaction_is_refused(store, foreign):
    with pytest.raises(ValueError, match="connection has no open transaction: enqueue inside `async with"):
        await store.insert(ONE, ANY, foreign)
    assert await store.last_id() == 0


async def test_a_closed_connection_is_refused(store, url):
    closed = await asyncpg.connect(url)
    await closed.close()
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as released:
            pass
        engine = create_async_engine(for_sqlalchemy(url))
        async with engine.connect() as ended:
            pass
        for connection in (closed, released, ended):
            with pytest.raises(ValueError, match="connection is closed"):
                await store.insert(ONE, ANY, connection)
        await engine.dispose()


async def test_a_connection_to_another_database_is_refused_and_its_transaction_lives_on(store, server, foreign):
    elsewhere = server.create_database()
    try:
        other = await asyncpg.connect(elsewhere)
        async with other.transaction():
            await other.execute("CREATE TABLE mine (id integer)")
            with pytest.raises(ValueError, match=f"is to the database '{urlsplit(elsewhere).path[1:]}'; the jobs are in"):
                await store.insert(ONE, ANY, other)
        assert await other.fetchval("SELECT count(*) FROM mine") == 0
        await other.close()
    finally:
        server.drop_database(elsewhere)


async def test_a_savepoint_that_is_undone_takes_its_jobs_with_it(store, foreign, url):
    engine = create_async_engine(for_sqlalchemy(url))
    async with AsyncSession(engine) as session, session.begin():
        (kept,) = await store.insert(ONE, ANY, session)
        nested = await session.begin_nested()
        await store.insert(ONE, ANY, session)
        await nested.rollback()
    await engine.dispose()
    assert [job.id for job in await store.list_after(0, None, 9)] == [kept]


async def test_an_error_of_the_database_in_the_users_transaction_is_told_by_its_meaning(store, foreign, url):
    engine = create_async_engine(for_sqlalchemy(url))
    async with engine.connect() as connection:
        with pytest.raises(ValueError, match="refuses the value"):
            await store.insert([NewJob("shop:pay", '{"args":["\x00"]}')], ANY, connection)
    await engine.dispose()
    transaction = foreign.transaction()
    await transaction.start()
    with pytest.raises(ValueError, match="refuses the value"):
        await store.insert([NewJob("shop:pay", '{"args":["\x00"]}')], ANY, foreign)
    await transaction.rollback()
