"""MongoDB only: who may log in, what its documents look like, plans and listeners, and the ways to have a client."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.monitoring import ConnectionPoolListener

from sidequest.backends import migrations
from sidequest.backends.base import JobFilter
from sidequest.backends.mongo import claim as mongo_claim
from sidequest.backends.mongo import schema as mongo_schema
from sidequest.backends.mongo import session as mongo_session
from sidequest.backends.mongo.backend import MongoBackend
from sidequest.config import DatabaseURL
from sidequest.errors import BackendUnavailable, ConfigError, SchemaMismatch
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Errored, JobError
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from tests.servers.mongodb import MongoDBStandalone
from tests.servers.process import Reaper
from tests.servers.server import Command

ON_BOTH = pytest.mark.parametrize("database", ["mongodb", "mongodb-standalone"], indirect=True)
ON_A_REPLICA_SET = pytest.mark.parametrize("database", ["mongodb"], indirect=True)
ON_A_STANDALONE = pytest.mark.parametrize("database", ["mongodb-standalone"], indirect=True)
WITH_BOTH_DRIVERS = pytest.mark.parametrize("driver", ["motor", "pymongo"])
ANY = QueueRecord("*")
ONE = [NewJob("shop:pay")]
ERROR = JobError("error", "ValueError", "no")
Make = Callable[..., MongoBackend]


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Makes one more store on the database, with these options; all are closed when the test is over."""
    made: list[MongoBackend] = []

    def make(options: str = "", role: str = "app", *, url: str = url, pool: object = None) -> MongoBackend:
        store = MongoBackend(DatabaseURL.parse(with_options(url, options)), role, pool=pool)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Make) -> MongoBackend:
    store = make()
    await store.open()
    await store.migrate()
    return store


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[Any]:
    """The database, by way of somebody else's client."""
    async with AsyncMongoClient[dict[str, Any]](url, tz_aware=True) as client:
        yield client.get_default_database()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads and servers tell of nothing by themselves
            await asyncio.sleep(0.01)


def with_options(url: str, options: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}" if options else url


def plain(database: Any) -> Any:
    """The jobs as anybody sees them."""
    return database["sidequest_jobs"]


# Opening


async def test_a_server_that_is_not_there_is_unavailable_in_time():
    store = MongoBackend(DatabaseURL.parse("mongodb://ann:s3cret@127.0.0.1:1/db?connect_timeout=0.3"))
    async with asyncio.timeout(5):
        with pytest.raises(BackendUnavailable, match=r"mongodb://ann@127\.0\.0\.1:1/db did not answer in time") as caught:
            await store.open()
    assert "s3cret" not in str(caught.value)
    await store.close()


async def test_a_missing_certificate_is_a_wrong_url(tmp_path):
    store = MongoBackend(DatabaseURL.parse(f"mongodb://h/db?tls=true&tlsCAFile={tmp_path}/ca.pem"))
    with pytest.raises(ConfigError, match=r"tlsCAFile: there is no file .*/ca\.pem"):
        await store.open()


async def test_options_that_do_not_go_together_are_a_wrong_url():
    store = MongoBackend(DatabaseURL.parse("mongodb://h/db?tlsInsecure=true&tlsAllowInvalidHostnames=true"))
    with pytest.raises(ConfigError, match="url: .*tlsInsecure"):
        await store.open()


@ON_BOTH
async def test_an_old_server_is_refused(make, monkeypatch):
    monkeypatch.setattr(mongo_session, "OLDEST", 1_000)
    with pytest.raises(ConfigError, match=r"MongoDB 4\.4 or newer is needed"):
        await make().open()


@ON_BOTH
async def test_opening_writes_nothing(make, foreign):
    await make().open()
    assert await foreign.list_collection_names() == []


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_closing_twice_and_without_opening_is_fine(make, driver):
    store = make(f"driver={driver}")
    await store.close()
    await store.open()
    await store.open()
    await store.close()
    await store.close()


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_closed_store_is_unavailable_and_can_be_opened_again(make, store, driver):
    other = make(f"driver={driver}")
    await other.open()
    await other.close()
    for call in (other.look(), other.insert(ONE, ANY), other.beat("e1"), other.announce(), other.listen(lambda: None)):
        with pytest.raises(BackendUnavailable, match="is not open"):
            await call
    await other.open()
    assert (await other.look()).queues == []


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_a_client_closed_under_us_is_unavailable(make, store, driver):
    other = make(f"driver={driver}")
    await other.open()
    await mongo_session.close_client(other._database.client)
    for call in (other.look(), other.insert(ONE * 2, ANY), other.beat("e1")):
        with pytest.raises(BackendUnavailable):
            await call


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
async def test_a_cancelled_open_leaves_nothing_open(make, driver):
    for steps in range(0, 60, 3):
        store = make(f"driver={driver}")
        task = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (store._database is None)


class Connections(ConnectionPoolListener):
    """Counts the connections of a client that are not there for watching the servers."""

    def __init__(self) -> None:
        self.open = self.most = 0

    def connection_created(self, event: Any) -> None:
        self.open += 1
        self.most = max(self.most, self.open)

    def connection_closed(self, event: Any) -> None:
        self.open -= 1

    def pool_created(self, event: Any) -> None: ...
    def pool_ready(self, event: Any) -> None: ...
    def pool_cleared(self, event: Any) -> None: ...
    def pool_closed(self, event: Any) -> None: ...
    def connection_ready(self, event: Any) -> None: ...
    def connection_check_out_started(self, event: Any) -> None: ...
    def connection_check_out_failed(self, event: Any) -> None: ...
    def connection_checked_out(self, event: Any) -> None: ...
    def connection_checked_in(self, event: Any) -> None: ...


@ON_A_REPLICA_SET
@WITH_BOTH_DRIVERS
@pytest.mark.parametrize(
    ("role", "options", "most"), [("engine", "pool_size=50", 4), ("app", "", 10), ("app", "pool_size=3", 3)]
)
async def test_connections_stay_within_their_budget(make, store, driver, role, options, most):
    busy = make(f"driver={driver}&{options}", role)
    connections = Connections()
    busy._access.client["event_listeners"] = [connections]
    await busy.open()
    listener = asyncio.ensure_future(busy.listen(lambda: None))
    await asyncio.gather(*(busy.insert([NewJob("shop:pay", queue=f"q{n % 3}")] * 2, ANY) for n in range(60)))
    await asyncio.gather(*(busy.claim("e", f"l{n}", {"q0": 5, "q1": 5, "q2": 5}) for n in range(9)), busy.count(JobFilter()))
    assert 1 < connections.most <= most  # Motor's threads may be fewer
    listener.cancel()
    await asyncio.wait([listener])
    await busy.close()
    await eventually(lambda: connections.open == 0)  # with Motor a thread waits for the listener's last answer


@ON_BOTH
@pytest.mark.parametrize("timeout", [None, 2.5])
async def test_every_unit_of_work_is_bounded(make, store, foreign, monkeypatch, timeout):
    bounds: list[float | None] = []
    other = make("" if timeout is None else f"command_timeout={timeout}")
    await other.open()

    async def look(database: Any, now: datetime) -> Any:
        bounds.append(pymongo._csot.get_timeout())
        return await real(database, now)

    real = mongo_claim.look
    monkeypatch.setattr(mongo_claim, "look", look)
    await other.look()
    assert bounds == [timeout or 30.0]


# A server that asks who one is


class Guarded(MongoDBStandalone):
    name: ClassVar[str] = "mongodb-guarded"
    variable: ClassVar[str] = "SIDEQUEST_TEST_MONGODB_GUARDED_URL"

    def command(self) -> Command:
        return [*super().command(), "--auth"]


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The host and port of a server with some users."""
    reaper = Reaper()
    server = Guarded(reaper)
    server.open()
    with MongoClient[dict[str, Any]](server.url) as client:
        client.admin.command("createUser", "root", pwd="s3cret", roles=["root"])
    with MongoClient[dict[str, Any]](server.url, username="root", password="s3cret") as client:
        client.admin.command("createUser", "writer", pwd="s3cret", roles=[{"role": "readWrite", "db": "app"}])
        client.app.command("createUser", "reader", pwd="s3cret", roles=["read"])
    yield urlsplit(server.url).netloc
    reaper.close()


LOGINS = pytest.mark.parametrize(
    ("login", "options", "words"),
    [
        ("root:wr0ng@", "?authSource=admin", r"Authentication failed.*\(AuthenticationFailed\)"),
        ("writer:s3cret@", "", r"\(AuthenticationFailed\).*needs \?authSource="),
        ("", "", r"requires authentication \(Unauthorized\)"),
        ("reader:s3cret@", "", r"not authorized on app .*\(Unauthorized\)"),
    ],
)


@pytest.mark.database("mongodb-standalone")
@WITH_BOTH_DRIVERS
@LOGINS
async def test_who_may_not_read_and_write_there_is_told_at_once(guarded, driver, login, options, words):
    store = MongoBackend(DatabaseURL.parse(with_options(f"mongodb://{login}{guarded}/app{options}", f"driver={driver}")))
    with pytest.raises(ConfigError, match=f"cannot be used: .*{words}") as caught:
        await store.open()
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert "s3cret" not in str(caught.value)
    await store.close()


@pytest.mark.database("mongodb-standalone")
async def test_the_role_of_an_ordinary_application_is_enough(guarded):
    store = MongoBackend(DatabaseURL.parse(f"mongodb://writer:s3cret@{guarded}/app?authSource=admin"))
    await store.open()
    await store.migrate()
    assert len(await store.insert(ONE * 2, ANY)) == 2
    assert len(await store.claim("e1", "l1", {"default": 2})) == 2
    await store.close()


# What stands in the database


@ON_BOTH
async def test_documents_are_readable_with_mongodbs_own_tools(store, foreign):
    at = datetime.fromisoformat("2030-05-06T07:08:09.010+02:00")
    await store.insert([NewJob("shop:pay", tags=("a", "b"), at=at, timeout=timedelta(seconds=1))], ANY)
    document = await plain(foreign).find_one({"tags": "b"})
    assert document == {
        "_id": 1, "name": "shop:pay", "queue": "default", "args": "{}", "state": "waiting", "ready": False, "priority": 0,
        "available_at": at.astimezone(UTC), "attempt": 0, "max_attempts": 5, "timeout_ms": 1000, "backoff": "exponential",
        "retry_delay_ms": 1000, "isolated": False, "tags": ["a", "b"], "interrupts": 0, "crashes": 0, "snoozes": 0,
        "inserted_at": document["inserted_at"],
    }  # fmt: skip
    assert abs(document["inserted_at"] - store.now()) < timedelta(seconds=5)


@ON_BOTH
async def test_what_has_no_value_is_absent(store, foreign, chance):
    await store.insert(ONE, ANY)
    (held,) = await store.claim("e1", "l1", {"default": 1})
    await store.save_progress([(held.id, "l1", "{}")])
    await store.apply([transitions.finish(held, Errored(ERROR, timedelta(0)), None, store.now(), chance)])
    (held,) = await store.claim("e1", "l2", {"default": 1})
    document = await plain(foreign).find_one()
    assert None not in document.values()
    assert {"ready", "started_at", "progress", "result", "meta", "finished_at"}.isdisjoint(document)


@ON_BOTH
async def test_ready_says_whether_a_job_can_be_claimed(store, foreign):
    await store.insert([NewJob("shop:a"), NewJob("shop:b", delay=timedelta(days=1)), NewJob("shop:c", priority=1)], ANY)
    await store.claim("e1", "l1", {"default": 1})
    found = [(job["name"], job["state"], job.get("ready")) async for job in plain(foreign).find().sort("_id")]
    assert found == [("shop:a", "waiting", True), ("shop:b", "waiting", False), ("shop:c", "claimed", None)]


@ON_BOTH
async def test_no_job_starts_a_part_of_a_millisecond_early(url, foreign, store):
    now = datetime(2030, 1, 1, 12, 0, 0, 123_400, UTC)
    sharp = MongoBackend(DatabaseURL.parse(url), clock=lambda: now)
    await sharp.open()
    await sharp.insert([NewJob("shop:a", delay=timedelta(microseconds=100)), NewJob("shop:b")], ANY)
    later, at_once = [job["available_at"].microsecond async for job in plain(foreign).find().sort("_id")]
    assert (later, at_once) == (124_000, 123_000)
    assert await sharp.promote(10) == 0
    now += timedelta(microseconds=600)
    assert await sharp.promote(10) == 1
    await sharp.close()


@ON_BOTH
async def test_an_ended_job_frees_its_unique_key(store, foreign, chance):
    await store.insert(ONE * 2, ANY)
    await plain(foreign).update_many({}, [{"$set": {"unique_lock": {"$concat": ["key", {"$toString": "$_id"}]}}}])
    done, back = await store.claim("e1", "l1", {"default": 2})
    await store.apply(
        [
            transitions.finish(done, Completed(), None, store.now(), chance),
            transitions.Change(back.id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": store.now()}),
        ]
    )
    assert [job.get("unique_lock") async for job in plain(foreign).find().sort("_id")] == [None, f"key{back.id}"]
    with pytest.raises(OperationFailure):
        await plain(foreign).update_one({"_id": done.id}, {"$set": {"unique_lock": f"key{back.id}"}})


@ON_BOTH
@pytest.mark.parametrize(
    "fault", [{"state": "finished"}, {"name": None}, {"ready": None}, {"state": "failed"}, {"attempt": -1}, {"args": {}}]
)
async def test_a_document_that_is_no_job_is_refused_by_the_server(store, foreign, fault):
    await store.insert(ONE, ANY)
    with pytest.raises(OperationFailure) as caught:
        await plain(foreign).update_one({}, {"$set": fault})
    assert caught.value.code == 121


@ON_BOTH
async def test_two_prefixes_live_in_one_database(make, store):
    other = make("prefix=other_")
    await other.open()
    await other.migrate()
    await other.insert(ONE, ANY)
    assert await store.last_id() == 0
    assert await other.last_id() == 1


@ON_BOTH
async def test_a_dropped_database_is_told_of_and_not_made_anew(store, foreign):
    await store.insert(ONE, ANY)
    await foreign.client.drop_database(foreign.name)
    for call in (store.look(), store.insert(ONE * 2, ANY)):
        with pytest.raises(SchemaMismatch, match="sidequest migrate up"):
            await call
    assert "sidequest_jobs" not in await foreign.list_collection_names()


@ON_BOTH
async def test_a_store_without_its_collections_writes_nothing(make, foreign):
    store = make()
    await store.open()
    for call in (store.insert(ONE, ANY), store.beat("e1"), store.save_queues([ANY]), store.claim("e", "l", {"a": 1})):
        with pytest.raises(SchemaMismatch, match="do not exist yet; run: sidequest migrate up"):
            await call
    assert await foreign.list_collection_names() == []


# The schema


@ON_BOTH
async def test_a_schema_applied_by_hand_is_accepted(make, foreign):
    store = make()
    for command in re.findall(r"^db\.runCommand\((.*?)\);$", store.migration_sql(), re.MULTILINE | re.DOTALL):
        await foreign.command(json.loads(command))
    await store.open()
    await store.check_schema()
    assert list(await store.migrate()) == []
    assert len(await store.insert(ONE, ANY)) == 1
    applied = await foreign["sidequest_migrations"].find_one()
    assert (applied["needs"], type(applied["applied_at"])) == ("0001", datetime)


@ON_BOTH
async def test_a_step_that_was_broken_off_is_applied_again(make, foreign):
    store = make()
    await store.open()
    statements = migrations.steps("mongo")[0].statements("sidequest_")
    for statement in statements[:2]:
        await foreign.command(json.loads(statement))
    assert len(await store.migrate()) == 1
    assert len(await store.insert(ONE, ANY)) == 1


@ON_BOTH
async def test_who_dies_with_the_schema_lock_is_not_waited_for_longer_than_it_lives(url, foreign, monkeypatch):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    await foreign["sidequest_locks"].insert_one({"_id": "schema", "owner": "dead", "until": now + timedelta(seconds=30)})
    store = MongoBackend(DatabaseURL.parse(url), clock=lambda: now)
    await store.open()
    migrating = asyncio.ensure_future(store.migrate())
    done, _ = await asyncio.wait([migrating], timeout=0.3)
    assert not done
    now += timedelta(seconds=31)
    assert len(await migrating) == 1
    assert await foreign["sidequest_locks"].find_one() is None
    await store.close()


@ON_BOTH
async def test_a_live_schema_lock_is_not_waited_for_without_end(url, foreign, monkeypatch):
    monkeypatch.setattr(mongo_schema, "PATIENCE", 0.1)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    await foreign["sidequest_locks"].insert_one({"_id": "schema", "owner": "busy", "until": now + timedelta(seconds=30)})
    store = MongoBackend(DatabaseURL.parse(url), clock=lambda: now)
    await store.open()
    with pytest.raises(BackendUnavailable, match="another process has not come to an end with its schema steps"):
        await store.migrate()
    assert (await foreign["sidequest_locks"].find_one())["owner"] == "busy"
    await store.close()


MIGRATE = """
import asyncio, sys
from sidequest.backends import make_backend
async def main():
    store = make_backend(sys.argv[1])
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(await store.migrate()))
    await store.close()
asyncio.run(main())
"""


@ON_BOTH
def test_processes_that_migrate_at_once_apply_it_once(url):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", MIGRATE, url]
    rivals = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    answers = []
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    for rival in rivals:
        out, err = rival.communicate(timeout=60)
        answers.append((out, err, rival.returncode))
    assert sorted(answers) == [("0\n", "", 0)] * 2 + [("1\n", "", 0)]


# Plans: the cost of each call depends on what it is about, not on how much history there is


@asynccontextmanager
async def profiled(database: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Filled, at the end, with what the server noted of each operation on jobs."""
    found: list[dict[str, Any]] = []
    await database.command({"profile": 2})
    yield found
    await database.command({"profile": 0})
    found += [entry async for entry in database["system.profile"].find({"ns": plain(database).full_name})]
    await database["system.profile"].drop()


@pytest.fixture
async def history(store: MongoBackend, foreign: Any) -> None:
    """2 000 waiting jobs, 1 000 for later, 2 000 completed ones and a few of every other kind."""
    for kind, number in (("done", 2_000), ("due", 2_000), ("later", 1_000)):
        delay = timedelta(days=1) if kind == "later" else None
        jobs = [NewJob("shop:pay", queue=f"q{n % 2}", priority=n % 7, delay=delay) for n in range(number)]
        await store.insert(jobs, ANY)
        if kind == "done":
            ended = {"$set": {"state": "completed", "finished_at": store.now(), "engine": "e1"}, "$unset": {"ready": True}}
            await plain(foreign).update_many({}, ended)
    await plain(foreign).update_many({"_id": {"$lte": 5}}, {"$set": {"state": "failed"}})
    held = {"$set": {"state": "running", "engine": "e2", "lease": "l"}, "$unset": {"ready": True, "finished_at": True}}
    await plain(foreign).update_many({"_id": {"$in": [3_000, 3_001, 3_002]}}, held)


async def answers_from(foreign: Any, index: str, most: int, call: Any) -> Any:
    """The call goes by this index alone, looks at so many entries and documents at most, and sorts nothing."""
    async with profiled(foreign) as operations:
        answer = await call
    assert operations
    for operation in operations:
        text = json.dumps({key: value for key, value in operation.items() if key != "ts"}, default=str)
        assert index in operation["planSummary"], text
        assert "COLLSCAN" not in operation["planSummary"], text
        assert not operation.get("hasSortStage"), text
        assert operation["keysExamined"] + operation["docsExamined"] <= most, text
    return answer


CLAIM, DUE, STATE, BY_ID = "{ ready: 1, queue: 1", "{ ready: 1, available_at: 1", "{ state: 1, _id: 1 }", "_id"


@ON_BOTH
async def test_calls_cost_what_they_are_about(store, foreign, history, chance):
    now = store.now()

    async def check(index: str, most: int, call: Any) -> Any:
        return await answers_from(foreign, index, most, call)

    assert len(await check("", 60, store.claim("e1", "l1", {"q0": 10}))) == 10
    assert len(await check(CLAIM, 3, store.claim("e1", "l2", {"q1": 1}))) == 1
    assert (await check("", 10, store.look())).next_due_in is not None
    assert await check(DUE, 0, store.promote(10)) == 0
    assert [job.id for job in await check(STATE, 60, store.held_by("e2", 100))] == [3_000, 3_001, 3_002]
    assert await check(STATE, 60, store.cancel_requests("e2")) == []
    assert len(await check(STATE, 12, store.list_jobs(JobFilter(states=(State.FAILED,)), 10))) == 5
    assert len(await check(STATE, 40, store.list_jobs(JobFilter(states=(State.FAILED, State.COMPLETED)), 10))) == 10
    assert len(await check(BY_ID, 20, store.list_jobs(JobFilter(), 10, before=1_000))) == 10
    assert len(await check(BY_ID, 20, store.list_after(1_000, None, 10))) == 10
    assert await check(BY_ID, 2, store.last_id()) == 5_000
    assert (await check("IDHACK", 2, store.get(7))).id == 7
    assert len((await check(BY_ID, 9, store.ends([7, 8, 9])))[0]) == 3
    assert await check(BY_ID, 900, store.delete_finished(now, now, 0, 200)) == (195 + 5, 200)
    assert await check(BY_ID, 20, store.delete([300, 301, 3_000])) == {300, 301}
    (job,) = await store.claim("e3", "l3", {"q1": 1})
    assert not await check(BY_ID, 2, store.apply([transitions.finish(job, Completed(), None, now, chance)]))
    held = await store.claim("e3", "l4", {"q1": 20})
    ends = [transitions.finish(job, Completed(str(job.id % 3)), None, now, chance) for job in held]
    assert not await check(BY_ID, 60, store.apply(ends))


@ON_BOTH
async def test_counts_by_state_read_no_documents(store, foreign, history):
    async with profiled(foreign) as operations:
        found = await store.count(JobFilter())
    assert found == {
        State.WAITING: 2_997, State.CLAIMED: 0, State.RUNNING: 3, State.COMPLETED: 1_995, State.FAILED: 5, State.CANCELED: 0,
    }  # fmt: skip
    assert {operation["docsExamined"] for operation in operations} == {0}


# The user's own transaction


@asynccontextmanager
async def motor_session(url: str) -> AsyncIterator[Any]:
    client: Any = AsyncIOMotorClient(url)
    async with await client.start_session() as session:
        yield session
    client.close()


@asynccontextmanager
async def pymongo_session(url: str) -> AsyncIterator[Any]:
    async with AsyncMongoClient[Any](url) as client, client.start_session() as session:
        yield session


SESSIONS = pytest.mark.parametrize("open_session", [motor_session, pymongo_session])


@ON_A_REPLICA_SET
@SESSIONS
@WITH_BOTH_DRIVERS
async def test_a_session_of_either_driver_joins_a_store_of_either(make, store, url, open_session, driver):
    other = make(f"driver={driver}")
    await other.open()
    async with open_session(url) as session:
        await mongo_session.settle(session.start_transaction())
        await other.insert(ONE * 2, ANY, session)
        await session.commit_transaction()
    assert (await other.count(JobFilter()))[State.WAITING] == 2


@ON_A_REPLICA_SET
@SESSIONS
async def test_a_session_without_an_open_transaction_is_refused(store, url, open_session):
    async with open_session(url) as session:
        with pytest.raises(ValueError, match="connection has no open transaction"):
            await store.insert(ONE, ANY, session)
        await mongo_session.settle(session.start_transaction())
        await store.insert(ONE, ANY, session)
        await session.commit_transaction()
        with pytest.raises(ValueError, match="connection has no open transaction"):
            await store.insert(ONE, ANY, session)
    with pytest.raises(ValueError, match="connection has no open transaction"):
        await store.insert(ONE, ANY, session)
    assert (await store.count(JobFilter()))[State.WAITING] == 1


@ON_A_REPLICA_SET
async def test_a_client_or_a_blocking_session_is_no_connection(store, url):
    with MongoClient[Any](url) as client, client.start_session() as session, session.start_transaction():
        for wrong in (client, session, client.admin):
            with pytest.raises(TypeError, match="connection must be an AsyncIOMotorClientSession or AsyncClientSession"):
                await store.insert(ONE, ANY, wrong)


@ON_A_REPLICA_SET
async def test_a_session_of_another_server_is_refused_before_anything_is_written(store, guarded):
    async with pymongo_session(f"mongodb://root:s3cret@{guarded}/admin") as session:
        await session.start_transaction()
        with pytest.raises(ValueError, match="connection belongs to another server than mongodb://"):
            await store.insert(ONE, ANY, session)
    assert await store.list_queues() == []


@ON_A_STANDALONE
@SESSIONS
async def test_a_standalone_server_has_no_transaction_to_join(store, url, open_session):
    async with open_session(url) as session:
        await mongo_session.settle(session.start_transaction())
        with pytest.raises(ValueError, match="is a standalone server: it has no transactions"):
            await store.insert(ONE, ANY, session)
    assert await store.list_queues() == []


@ON_A_REPLICA_SET
@SESSIONS
async def test_an_error_after_which_a_transaction_may_be_tried_again_is_the_drivers_own(store, url, foreign, open_session):
    async with open_session(url) as session:
        await mongo_session.settle(session.start_transaction())
        await session.client[foreign.name]["orders"].insert_one({}, session=session)
        await foreign.client.admin.command("killSessions", [{"id": session.session_id["id"]}])
        with pytest.raises(PyMongoError) as caught:
            await store.insert(ONE, ANY, session)
        assert caught.value.has_error_label("TransientTransactionError")
    assert (await store.count(JobFilter()))[State.WAITING] == 0


# The user's own client


@ON_BOTH
@WITH_BOTH_DRIVERS
async def test_the_users_own_client_is_used_and_left_open(make, store, url, driver):
    client: Any = (AsyncIOMotorClient if driver == "motor" else AsyncMongoClient)(url, tz_aware=False, w=1)
    pooled = make(pool=client)
    await pooled.open()
    assert pooled._database.client is client
    ids = await pooled.insert(ONE * 2, ANY)
    assert [job.id for job in await pooled.claim("e1", "l1", {"default": 2})] == list(ids)
    assert (await pooled.get(ids[0])).inserted_at.tzinfo is UTC
    await pooled.close()
    assert (await client.admin.command("ping"))["ok"] == 1
    await mongo_session.close_client(client)


@ON_BOTH
async def test_a_blocking_client_is_refused(make, url):
    with (
        MongoClient[Any](url) as client,
        pytest.raises(TypeError, match="pool must be an AsyncIOMotorClient or AsyncMongoClient"),
    ):
        make(pool=client)
