"""SQLite only: the file, its locks, its plans, and the thread behind each connection."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import aiosqlite
import pytest

from sidequest.backends.base import JobFilter
from sidequest.backends.sql.session import Session
from sidequest.backends.sqlite.backend import SqliteBackend
from sidequest.config import DatabaseURL
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

pytestmark = pytest.mark.database("sqlite")
ANY = QueueRecord("*")


def make(path: Path | str, options: str = "", role: str = "engine") -> SqliteBackend:
    return SqliteBackend(DatabaseURL.parse(f"sqlite:///{path}{options}"), role)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteBackend]:
    store = make(path)
    await store.open()
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
def foreign(path: Path, store: SqliteBackend) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


# Opening


async def test_the_file_keeps_a_write_ahead_log(store, foreign):
    assert foreign.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("role", "options", "mode"),
    [("app", "", 2), ("engine", "", 1), ("app", "?synchronous=normal", 1), ("engine", "?synchronous=full", 2)],
)
async def test_an_enqueue_survives_a_power_cut_and_an_engine_need_not(path, role, options, mode):
    store = make(path, options, role)
    await store.open()
    for way in (store.writer(), store.beating(None)):
        async with way as session:
            assert await session.fetch("PRAGMA synchronous") == [(mode,)]
            assert await session.fetch("PRAGMA wal_autocheckpoint") == [(4_000,)]
            assert await session.fetch("PRAGMA busy_timeout") == [(5000,)]
    await store.close()


async def test_the_reader_cannot_write(store):
    with pytest.raises(BackendUnavailable, match="SQLITE_READONLY"):
        await store.fetch("DELETE FROM sidequest_jobs")


async def test_busy_timeout_is_an_option_in_seconds(path):
    store = make(path, "?busy_timeout=0.25")
    await store.open()
    async with store.writer() as session:
        assert await session.fetch("PRAGMA busy_timeout") == [(250,)]
    await store.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?busy_timout=3", "'busy_timout' is not an option of sqlite URLs; did you mean 'busy_timeout'"),
        ("?zzz=3", "'zzz' is not an option of sqlite URLs; there are busy_timeout, prefix, synchronous"),
        ("?busy_timeout=soon", "busy_timeout must be a number of seconds between 0 and 3600, not 'soon'"),
        ("?busy_timeout=nan", "busy_timeout must be a number"),
        ("?busy_timeout=-1", "busy_timeout must be a number"),
        ("?synchronous=off", "synchronous must be one of full, normal, not 'off'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_opened(path, options, words):
    with pytest.raises(ConfigError, match=words):
        make(path, options)
    assert not path.exists()


async def fails_to_open(path: Path, words: str) -> None:
    store = make(path)
    with pytest.raises(ConfigError, match=words) as caught:
        await store.open()
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    await store.close()


async def test_a_missing_directory_is_named(tmp_path):
    await fails_to_open(tmp_path / "no" / "jobs.db", "the directory .*/no does not exist")
    assert not (tmp_path / "no").exists()


async def test_a_directory_is_no_database(tmp_path):
    await fails_to_open(tmp_path, "it is a directory")


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_text("dear diary, " * 1000)
    await fails_to_open(path, "file is not a database")
    assert path.read_text() == "dear diary, " * 1000


OPEN = """
import asyncio, os, sys
from sidequest.backends import make_backend
from sidequest.errors import ConfigError
async def main():
    store = make_backend(sys.argv[1])
    os.setuid(65534)
    try:
        await store.open()
    except ConfigError as error:
        print(error)
    else:
        print("opened")
        await store.close()
asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become somebody who may not write")
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_that_may_not_be_written_is_refused(mode):
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o777)
        connection = sqlite3.connect(folder / "jobs.db")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE t (a)")
        connection.close()
        (folder / "jobs.db").chmod(0o444)
        answer = run_python(OPEN, f"sqlite:///{folder}/jobs.db")
    finally:
        shutil.rmtree(folder)
    assert answer.startswith(f"url: {folder}/jobs.db cannot be used: attempt to write a readonly database")


async def test_an_old_sqlite_is_refused(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigError, match=r"SQLite 3\.35 or newer is needed"):
        await make(path).open()


async def test_a_file_that_cannot_keep_a_log_is_refused(path, monkeypatch):
    store = make(path)
    real = aiosqlite.Connection.execute_fetchall

    async def no_wal(self, sql, parameters=None):
        return [("delete",)] if "journal_mode" in sql else await real(self, sql, parameters)

    monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", no_wal)
    with pytest.raises(ConfigError, match="journal mode is 'delete'"):
        await store.open()
    await store.close()


async def test_a_cancelled_open_leaves_nothing_running(path):
    for steps in range(40):
        store = make(path)
        task = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await store.close()


async def test_closing_twice_and_without_opening_is_fine(path):
    store = make(path)
    await store.close()
    await store.open()
    await store.open()
    await store.close()
    await store.close()


async def test_a_closed_store_is_unavailable_and_can_be_opened_again(store):
    await store.close()
    for call in (store.look(), store.insert([NewJob("shop:pay")], ANY), store.beat("e1")):
        with pytest.raises(BackendUnavailable, match="is not open"):
            await call
    await store.open()
    assert (await store.look()).queues == []


async def test_a_connection_closed_under_us_is_unavailable(store):
    for session in (store._writer, store._reader, store._beater):
        await session._connection.close()
    for call in (store.look(), store.beat("e1"), store.insert([NewJob("shop:pay")] * 2, ANY)):
        with pytest.raises(BackendUnavailable, match="the connection was closed"):
            await call


# Locks


async def test_somebody_elses_lock_is_waited_for(store, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    insert = asyncio.ensure_future(store.insert([NewJob("shop:pay")] * 3, ANY))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await store.look()).queues == []
    assert not insert.done()
    foreign.execute("COMMIT")
    assert len(await insert) == 3


async def test_a_cancelled_write_that_was_sent_is_finished_first(store, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    insert = asyncio.ensure_future(store.insert([NewJob("shop:pay")] * 3, ANY))
    for _ in range(20):
        await asyncio.sleep(0)
    insert.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not insert.done()
    foreign.execute("COMMIT")
    await asyncio.wait([insert])
    assert insert.cancelled()
    assert (await store.count(JobFilter()))[State.WAITING] == 3


async def test_a_caller_cancelled_before_its_turn_writes_nothing(store, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    first = asyncio.ensure_future(store.insert([NewJob("shop:pay")] * 2, ANY))
    second = asyncio.ensure_future(store.insert([NewJob("shop:pay")] * 2, ANY))
    for _ in range(20):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    foreign.execute("COMMIT")
    await first
    assert (await store.count(JobFilter()))[State.WAITING] == 2


async def test_a_lock_held_for_too_long_makes_the_store_unavailable(path, store, foreign):
    hasty = make(path, "?busy_timeout=0.05")
    await hasty.open()
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable, match="other writers held the database for too long") as caught:
        await hasty.insert([NewJob("shop:pay")], ANY)
    assert "locked" in str(caught.value)
    foreign.execute("COMMIT")
    assert len(await hasty.insert([NewJob("shop:pay")], ANY)) == 1
    await hasty.close()


async def test_readers_are_never_held_up_by_a_writer(store, foreign):
    foreign.execute("BEGIN EXCLUSIVE")
    assert await store.migration_status() == await store.migration_status()
    assert (await store.look()).queues == []
    foreign.execute("ROLLBACK")


async def test_a_transaction_has_the_write_lock_from_its_beginning(store, foreign):
    foreign.execute("PRAGMA busy_timeout = 0")

    async def try_to_lock(session: Session) -> str:
        try:
            foreign.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorname
        foreign.execute("ROLLBACK")
        return "free"

    assert await store.transact(try_to_lock) == "SQLITE_BUSY"
    foreign.execute("BEGIN IMMEDIATE")
    foreign.execute("ROLLBACK")


# What stands in the file


async def test_rows_are_readable_with_sqlites_own_tools(store, foreign):
    at = datetime.fromisoformat("2030-05-06T07:08:09.000010+02:00")
    (id,) = await store.insert([NewJob("shop:pay", tags=("a",), at=at)], ANY)
    assert foreign.execute(
        "SELECT state, ready, datetime(available_at / 1000000, 'unixepoch'), available_at % 1000000, "
        "json_extract(tags, '$[0]') FROM sidequest_jobs WHERE id = ?",
        (id,),
    ).fetchone() == ("waiting", 0, "2030-05-06 05:08:09", 10, "a")


async def test_ready_says_whether_a_job_can_be_claimed(store, foreign):
    await store.insert([NewJob("shop:a"), NewJob("shop:b", delay=timedelta(days=1)), NewJob("shop:c", priority=1)], ANY)
    await store.claim("e1", "l1", {"default": 1})
    assert foreign.execute("SELECT name, state, ready FROM sidequest_jobs ORDER BY id").fetchall() == [
        ("shop:a", "waiting", 1), ("shop:b", "waiting", 0), ("shop:c", "claimed", None),
    ]  # fmt: skip


async def test_an_ended_job_frees_its_unique_key(store, foreign, chance):
    await store.insert([NewJob("shop:pay"), NewJob("shop:pay")], ANY)
    foreign.execute("UPDATE sidequest_jobs SET unique_lock = 'key' || id")
    done, back = await store.claim("e1", "l1", {"default": 2})
    await store.apply(
        [
            transitions.finish(done, Completed(), None, store.now(), chance),
            transitions.Change(back.id, "l1", (State.CLAIMED,), State.WAITING, {"available_at": store.now()}),
        ]
    )
    assert foreign.execute("SELECT unique_lock FROM sidequest_jobs ORDER BY id").fetchall() == [(None,), (f"key{back.id}",)]


async def test_two_prefixes_live_in_one_file(path, store):
    other = make(path, "?prefix=other_")
    await other.open()
    await other.migrate()
    await other.insert([NewJob("shop:pay")], ANY)
    assert await store.last_id() == 0
    assert await other.last_id() == 1
    await other.close()


async def test_a_schema_applied_by_hand_is_accepted(path):
    connection = sqlite3.connect(path)
    connection.executescript(make(path).migration_sql())
    connection.close()
    store = make(path)
    await store.open()
    await store.check_schema()
    assert list(await store.migrate()) == []
    await store.close()


# Plans: the cost of each call depends on what it is about, not on how much history there is


def plans(store: SqliteBackend, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Filled with (statement, its plan) by all that the store does from now on."""
    seen: list[tuple[str, str]] = []

    def explained(method):
        async def run(self, statement, values=None):
            if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
                rows = foreign.execute(f"EXPLAIN QUERY PLAN {statement}", values or {}).fetchall()
                seen.append((statement, "\n".join(row[3] for row in rows)))
            return await method(self, statement, values or {})

        return run

    for name in ("fetch", "execute"):
        monkeypatch.setattr(type(store._writer), name, explained(getattr(type(store._writer), name)))
    return seen


async def test_a_claim_walks_its_index_without_sorting(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.claim("e1", "l1", {"default": 5})
    ((_, plan),) = seen
    assert "INDEX sidequest_jobs_claim (queue=?)" in plan
    assert "SEARCH sidequest_jobs USING INTEGER PRIMARY KEY (rowid=?)" in plan
    assert "TEMP B-TREE" not in plan
    assert "SCAN" not in plan


async def test_a_promotion_walks_its_index_without_sorting(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.promote(5)
    ((_, plan),) = seen
    assert "INDEX sidequest_jobs_due (available_at<?)" in plan
    assert "TEMP B-TREE" not in plan


async def test_a_look_touches_jobs_by_their_indexes_only(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.look()
    ((_, plan),) = seen
    assert "INDEX sidequest_jobs_claim (queue=?)" in plan
    assert "INDEX sidequest_jobs_due" in plan
    assert "SCAN sidequest_jobs\n" not in f"{plan}\n"


async def test_cancel_requests_are_found_by_their_index(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.cancel_requests("e1")
    ((_, plan),) = seen
    assert "USING INDEX sidequest_jobs_cancel (engine=?)" in plan


@pytest.mark.parametrize("state", ["failed", "canceled"])
async def test_listing_failed_or_canceled_jobs_walks_their_index(store, foreign, monkeypatch, state):
    seen = plans(store, foreign, monkeypatch)
    await store.list_jobs(JobFilter(states=(State(state),)), 10)
    ((_, plan),) = seen
    assert plan == "SEARCH sidequest_jobs USING INDEX sidequest_jobs_missed (state=?)"


@pytest.mark.parametrize("states", [("claimed",), ("running",), ("claimed", "running")])
async def test_listing_held_jobs_walks_their_index(store, foreign, monkeypatch, states):
    seen = plans(store, foreign, monkeypatch)
    await store.list_jobs(JobFilter(states=tuple(map(State, states))), 10)
    ((_, plan),) = seen
    assert plan == "SCAN sidequest_jobs USING INDEX sidequest_jobs_held"


async def test_what_an_engine_holds_is_found_by_its_index(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.held_by("e1", 10)
    ((_, plan),) = seen
    assert plan == "SCAN sidequest_jobs USING INDEX sidequest_jobs_held"


async def test_counting_reads_indexes_only(store, foreign, monkeypatch):
    seen = plans(store, foreign, monkeypatch)
    await store.count(JobFilter())
    await store.count_over_time(store.now(), timedelta(minutes=1), 5, None)
    assert len(seen) == 2
    for statement, plan in seen:
        touching = [line for line in plan.splitlines() if "sidequest_jobs" in line]
        assert touching, statement
        assert all("INDEX sidequest_jobs_" in line for line in touching), plan


async def test_what_goes_by_id_uses_the_primary_key(store, foreign, monkeypatch):
    await store.insert([NewJob("shop:pay")], ANY)
    seen = plans(store, foreign, monkeypatch)
    change = transitions.Change(1, None, (State.WAITING,), State.FAILED, {"finished_at": store.now()})
    await store.get(1)
    await store.get_many([1])
    await store.ends([1])
    await store.list_after(0, None, 10)
    await store.list_jobs(JobFilter(), 10, before=9)
    await store.apply([change, change._replace(id=2)])
    await store.delete_finished(store.now(), store.now(), 0, 10)
    await store.delete([1])
    assert len(seen) >= 8
    for statement, plan in seen:
        assert "SCAN sidequest_jobs" not in plan, statement
        assert "USING INTEGER PRIMARY KEY" in plan, statement


# Other processes


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stdout.strip() + done.stderr.strip()


MIGRATE = """
import asyncio, sys
from sidequest.backends import make_backend
async def main():
    store = make_backend(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    print(len(await store.migrate()))
    await store.close()
asyncio.run(main())
"""


def test_processes_that_migrate_at_once_apply_it_once(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MIGRATE, f"sqlite:///{path}"]
    pipe = subprocess.PIPE
    rivals = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
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
    assert sorted(answers) == [("0\n", "", 0)] * 3 + [("1\n", "", 0)]


DIE = """
import asyncio, os, sys
from sidequest.backends import make_backend
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
async def main():
    store = make_backend(sys.argv[1])
    await store.open()
    async def die(session):
        await store.insert_queue(session, {"name": "half", "concurrency": 1, "priority": 0, "paused": 0, "updated_at": ""})
        print("dying", flush=True)
        os._exit(9)
    await store.transact(die)
asyncio.run(main())
"""


async def test_a_process_that_dies_in_a_transaction_leaves_nothing_and_no_lock(path, store):
    assert await asyncio.to_thread(run_python, DIE, f"sqlite:///{path}") == "dying"
    assert await store.list_queues() == []
    assert await store.create_queue(QueueRecord("whole"))


async def test_a_file_that_cannot_grow_is_full_and_takes_more_when_it_can(store):
    await store._writer.fetch("PRAGMA max_page_count = 30")
    with pytest.raises(BackendFull, match="SQLITE_FULL"):
        await store.insert([NewJob("shop:pay", '"' + "x" * 4_000 + '"')] * 100, ANY)
    assert await store.last_id() == 0
    await store._writer.fetch("PRAGMA max_page_count = 100000")
    assert len(await store.insert([NewJob("shop:pay")], ANY)) == 1


async def test_a_beat_waits_for_no_other_work_of_its_process(store):
    """Whatever waits for the writer's turn. Only another process's write lock is in a beat's way, as in everybody's."""
    await store.register_engine("e1", "h", 1, "1", "*")
    async with store._turn:
        waiting = [asyncio.ensure_future(store.look() if n else store.beat("e1")) for n in range(2)]
        waiting += [asyncio.ensure_future(store.insert([NewJob("shop:pay")], ANY)) for _ in range(3)]
        async with asyncio.timeout(3):
            assert await store.beat("e1", within=timedelta(seconds=1)) is True
        assert not any(task.done() for task in waiting[2:])
    await asyncio.gather(*waiting)


async def test_a_beat_that_meets_a_write_lock_is_given_up_in_its_time(store, foreign):
    await store.register_engine("e1", "h", 1, "1", "*")
    foreign.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(BackendUnavailable):
        await store.beat("e1", within=timedelta(seconds=0.2))
    assert time.monotonic() - began < 2
    foreign.rollback()
    assert await store.beat("e1", within=timedelta(seconds=0.2)) is True
