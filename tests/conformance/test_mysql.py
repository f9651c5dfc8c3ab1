"""MySQL and MariaDB only: logging in, connections that break, locks, plans, and the ways to have a connection."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiomysql
import pymysql
import pytest
from pymysql.constants import CLIENT
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sidequest.backends import migrations
from sidequest.backends import pool as pools
from sidequest.backends.base import JobFilter
from sidequest.backends.migrations import Step
from sidequest.backends.mysql import backend as mysql_backend
from sidequest.backends.mysql.backend import MysqlBackend
from sidequest.backends.mysql.session import MysqlSession
from sidequest.backends.sql.session import Session
from sidequest.config import DatabaseURL
from sidequest.errors import BackendFull, BackendUnavailable, ConfigError, SchemaMismatch
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Errored, Failed, JobError, Released, Snoozed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.servers.server import Server

ANY = QueueRecord("*")
ONE = [NewJob("shop:pay")]
MEBIBYTE = 1024 * 1024
LEAST = 8 * MEBIBYTE
Make = Callable[..., MysqlBackend]
Foreign = pymysql.Connection


@pytest.fixture(params=["mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Makes one more store on the database, with these options; all are closed when the test is over."""
    made: list[MysqlBackend] = []

    def make(options: str = "", role: str = "app", *, url: str = url, pool: object = None) -> MysqlBackend:
        store = MysqlBackend(DatabaseURL.parse(url + options), role, pool=pool)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(make: Make) -> MysqlBackend:
    store = make()
    await store.open()
    await store.migrate()
    return store


def login(url: str) -> dict[str, Any]:
    """The keyword arguments of a driver's own connection."""
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password or ""}


@pytest.fixture
def foreign(url: str) -> Iterator[Foreign]:
    """A connection of somebody else's."""
    with closing(pymysql.connect(**login(url), database=urlsplit(url).path[1:], autocommit=True)) as connection:
        yield connection


def ask(foreign: Foreign, statement: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
    with foreign.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


@contextmanager
def globally(foreign: Foreign, variable: str, value: object) -> Iterator[None]:
    """The server's own setting, while the block lasts."""
    ((before,),) = ask(foreign, f"SELECT @@GLOBAL.{variable}")
    ask(foreign, f"SET GLOBAL {variable} = %s", value)
    try:
        yield
    finally:
        ask(foreign, f"SET GLOBAL {variable} = %s", before)


HOSTILE = "it's \\ \"%s\" :name \\' 🦄\n\x01"


@pytest.fixture
def insert_hostile() -> Callable[..., Any]:
    """Stores texts that somebody's settings could break, and sees that they come back."""

    async def insert_hostile(store: MysqlBackend, connection: Any = None) -> None:
        ids = await store.insert([NewJob("shop:a", HOSTILE), NewJob("shop:b", HOSTILE)], ANY, connection)
        if connection is not None:
            await connection.commit()
        assert [job.args_json for job in await store.get_many(ids)] == [HOSTILE, HOSTILE]

    return insert_hostile


@pytest.fixture
def user(foreign: Foreign, url: str) -> Iterator[Callable[..., str]]:
    """Makes users of the server's who may do everything in this database; the URL for each."""
    made: list[str] = []
    name_of_database = urlsplit(url).path[1:]

    def user(password: str = "s3cret", *, having: str = "") -> str:
        name = f"u{uuid4().hex[:12]}"
        made.append(name)
        ask(foreign, f"CREATE USER {name} IDENTIFIED BY %s {having}", password)
        ask(foreign, f"GRANT ALL ON {name_of_database}.* TO {name}")
        parts = urlsplit(url)
        return parts._replace(netloc=f"{name}:{quote(password, safe='')}@{parts.hostname}:{parts.port}").geturl()

    yield user
    for name in made:
        ask(foreign, f"DROP USER {name}")


def connections(foreign: Foreign) -> list[int]:
    """Those of others to this database, by their ids."""
    return [
        id
        for (id,) in ask(
            foreign, "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() ORDER BY id"
        )
    ]


def kill(foreign: Foreign, *ids: int) -> None:
    for id in ids:
        ask(foreign, f"KILL {id}")
    gone(foreign, *ids)


def gone(foreign: Foreign, *ids: int) -> None:
    """Return when the server has let go of these connections, or of all."""
    while (left := set(connections(foreign))) & set(ids or left):
        time.sleep(0.01)


# Opening


async def test_a_password_may_hold_any_letter(make, user):
    store = make(url=user("pä:s/s@w%rd'\\🦄"))
    await store.open()
    await store.migrate()
    assert list(await store.insert(ONE, ANY)) == [1]


async def test_logging_in_again_needs_no_other_way_than_the_first_time(make, user):
    url = user()
    for _ in range(2):  # MySQL knows the password of the second one, and asks for less
        store = make(url=url)
        await store.open()
        await store.close()


@pytest.mark.parametrize("wrong", ["password", "user", "database"])
async def test_what_does_not_fit_the_server_is_refused_at_once(make, user, wrong):
    url = user()
    name, _, _ = urlsplit(url).netloc.partition(":")
    match wrong:
        case "password":
            url = url.replace("s3cret", "s3cret2")
        case "user":
            url = url.replace(name, "nobody_of_this_name")
        case "database":
            url = f"{url}_2"
    with pytest.raises(
        ConfigError, match=r"^url: mysql://\w+@[\w.:]+/\w+ cannot be used: .*(denied|Unknown database)"
    ) as caught:
        await make(url=url).open()
    assert "s3cret" not in str(caught.value)


async def test_a_server_that_is_not_there_is_unavailable(make):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BackendUnavailable, match=r"Can't connect .* \(2003\): .*Connect call failed"):
            await make(url=f"mysql://root@127.0.0.1:{taken.getsockname()[1]}/db").open()


async def test_a_server_that_says_nothing_is_given_up(make):
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with asyncio.timeout(5):
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await make(url=f"mysql://root@127.0.0.1:{port}/db?connect_timeout=0.1").open()


async def test_a_cancelled_open_leaves_nothing_behind(make, foreign):
    for steps in range(0, 60, 3):
        store = make()
        task = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await store.close()
    await asyncio.to_thread(gone, foreign)


async def test_closing_twice_and_without_opening_is_fine(make):
    store = make()
    await store.close()
    await store.open()
    await store.open()
    await store.close()
    await store.close()


async def test_a_closed_store_is_unavailable_and_can_be_opened_again(store):
    await store.close()
    for call in (store.look(), store.insert(ONE, ANY), store.beat("e1")):
        with pytest.raises(BackendUnavailable, match="is not open"):
            await call
    await store.open()
    assert (await store.look()).queues == []


async def test_an_old_server_is_refused(make, monkeypatch):
    monkeypatch.setattr(mysql_backend, "OLDEST", {"MySQL": (99, 0, 0), "MariaDB": (99, 1, 2)})
    with pytest.raises(ConfigError, match=r"(MySQL 99\.0\.0|MariaDB 99\.1\.2) or newer is needed; mysql://.* is \d+\.\d+\.\d+"):
        await make().open()


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("8.0.13", True), ("8.0.12", False), ("5.7.44-log", False), ("8.4.0-commercial", True), ("9.7", True),
        ("8.0.11-TiDB-v7.5.0", False), ("10.6.0-MariaDB", True), ("10.5.29-MariaDB-ubu2004-log", False),
        ("11.8.3-MariaDB-ubu2404", True), ("10.6.12-8-MariaDB-enterprise-log", True), ("what is this", False),
    ],
)  # fmt: skip
async def test_versions_are_read_as_the_servers_write_them(version, fits, database):
    if fits:
        mysql_backend._check_version(version, "here")
    else:
        with pytest.raises(ConfigError, match="or newer is needed"):
            mysql_backend._check_version(version, "here")


async def test_a_server_that_accepts_only_short_statements_is_refused(make, foreign):
    with (
        globally(foreign, "max_allowed_packet", 4 * MEBIBYTE),
        pytest.raises(ConfigError, match="accepts statements of 4194304 bytes only; set its max_allowed_packet to 8388608"),
    ):
        await make().open()


async def test_our_connections_are_as_we_need_them_whatever_the_server_says(make, foreign, insert_hostile):
    with (
        globally(foreign, "autocommit", 0),
        globally(foreign, "time_zone", "+05:00"),
        globally(foreign, "sql_mode", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"),
    ):
        store = make()
        await store.open()
        await store.migrate()
        await insert_hostile(store)
        async with store.writer() as session:
            assert await session.fetch("SELECT @@autocommit, @@time_zone, @@sql_mode") == (
                (1, "+00:00", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"),
            )
            with pytest.raises(ValueError, match="Data too long"):
                await session.execute(f"UPDATE {store.jobs} SET queue = :long", {"long": "q" * 101})


async def test_the_clock_is_the_servers(store, foreign):
    ((now,),) = ask(foreign, "SELECT UTC_TIMESTAMP(6)")
    assert abs(store.now().replace(tzinfo=None) - now) < timedelta(seconds=1)
    assert abs(store.ahead()) < timedelta(seconds=1)


# TLS, and sockets that are files


@pytest.fixture
def private(server: Server) -> Server:
    """The server, if it is ours: to look into its files, and to stop it."""
    if not server.private:
        pytest.skip(f"{server.name} is somebody else's")
    return server


async def cipher(store: MysqlBackend) -> str:
    await store.open()
    ((_, name),) = await store.fetch("SHOW STATUS LIKE 'Ssl_cipher'")
    return str(name)


only_mysql = pytest.mark.parametrize("database", ["mysql"], indirect=True)
only_mariadb = pytest.mark.parametrize("database", ["mariadb"], indirect=True)


@only_mysql
async def test_what_is_said_can_be_encrypted(make, user):
    assert await cipher(make()) == ""
    assert await cipher(make("?ssl_mode=required")) != ""
    assert await cipher(make("?ssl_mode=required", url=user(having="REQUIRE SSL"))) != ""


@only_mysql
async def test_who_must_use_tls_is_told_so(make, user):
    with pytest.raises(ConfigError, match=r"cannot be used: Access denied"):
        await make(url=user(having="REQUIRE SSL")).open()


@only_mysql
async def test_the_servers_certificate_is_checked(make, private):
    authority = private.folder / "data/ca.pem"
    assert await cipher(make(f"?ssl_ca={authority}")) != ""
    with pytest.raises(ConfigError, match="certificate verify failed: .*IP address mismatch"):
        await make(f"?ssl_ca={authority}&ssl_mode=verify_identity").open()
    with pytest.raises(ConfigError, match="certificate verify failed"):
        await make("?ssl_mode=verify_ca").open()  # the system's authorities do not know it


@only_mysql
async def test_who_logs_in_can_show_a_certificate(make, private, user):
    files = f"ssl_cert={private.folder}/data/client-cert.pem&ssl_key={private.folder}/data/client-key.pem"
    url = user(having="REQUIRE X509")
    assert await cipher(make(f"?{files}", url=url)) != ""
    with pytest.raises(ConfigError, match="Access denied"):
        await make("?ssl_mode=required", url=url).open()


@only_mariadb
async def test_a_server_without_tls_gets_no_password_of_who_asks_for_tls(make, private, foreign):
    assert ask(foreign, "SELECT @@have_ssl") == (("DISABLED",),)
    with pytest.raises(ConfigError, match="the server offers no TLS"):
        await make("?ssl_mode=required").open()


async def test_a_socket_may_be_a_file(make, private):
    store = make(f"?unix_socket={private.folder}/socket")
    assert await cipher(store) == ""
    assert await store.fetch("SELECT SUBSTRING_INDEX(USER(), '@', -1)") == (("localhost",),)


@only_mysql
async def test_tls_works_through_a_file_too(make, private):
    assert await cipher(make(f"?unix_socket={private.folder}/socket&ssl_mode=required")) != ""


# How many connections, and how long one waits for them


@pytest.mark.parametrize(("options", "role", "most"), [("", "engine", 3), ("?pool_size=2", "app", 2), ("", "app", 10)])
async def test_there_are_never_more_connections_than_agreed(make, foreign, options, role, most):
    store = make(options, role)
    await store.open()
    await store.migrate()
    for _ in range(3):
        await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(30)), *(store.look() for _ in range(30)))
    assert len(connections(foreign)) == most


async def test_who_waits_too_long_for_a_connection_is_told(make):
    store = make("?pool_size=1&command_timeout=0.2")
    await store.open()
    async with store.writer():
        with pytest.raises(BackendUnavailable, match=r"all 1 connections were in use for 0\.2 s"):
            await store.look()
    await store.migrate()


async def test_a_cancelled_wait_for_a_connection_costs_none(make):
    store = make("?pool_size=1")
    await store.open()
    async with store.writer():
        waiting = asyncio.ensure_future(store.migration_status())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await store.migrate()


# Connections that break


async def test_connections_that_broke_while_nobody_used_them_are_replaced(store, foreign):
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    await asyncio.to_thread(kill, foreign, *connections(foreign))
    for _ in range(3):
        assert len(await store.insert(ONE, ANY)) == 1
    assert (await store.look()).queues


async def test_a_connection_that_breaks_at_work_is_unavailable_and_leaves_nothing(store, foreign):
    async def broken(session: Session) -> None:
        await store.insert_queue(
            session, {"name": "half", "concurrency": 1, "priority": 0, "paused": 0, "updated_at": "2026-01-01"}
        )
        ((id,),) = await session.fetch("SELECT CONNECTION_ID()")
        kill(foreign, id)
        await session.fetch("SELECT 1")

    with pytest.raises(BackendUnavailable, match=r"\((2013|4031|1927)\)"):
        await store.transact(broken)
    assert await store.list_queues() == []


async def test_a_statement_that_takes_too_long_is_given_up_with_its_connection(make, foreign):
    store = make("?command_timeout=0.3")
    await store.open()
    (before,) = connections(foreign)
    async with asyncio.timeout(5):
        with pytest.raises(BackendUnavailable):
            await store.fetch("SELECT SLEEP(10) + 1 FROM DUAL WHERE SLEEP(10) = 0")
        assert await store.fetch("SELECT 1") == ((1,),)
    assert before not in connections(foreign)


async def test_a_frozen_server_makes_the_store_unavailable_until_it_goes_on(make, private):
    store = make("?command_timeout=0.3&connect_timeout=0.3")
    await store.open()
    await store.migrate()
    private.freeze()
    try:
        async with asyncio.timeout(10):
            for _ in range(2):
                with pytest.raises(BackendUnavailable, match="did not answer in time"):
                    await store.insert(ONE, ANY)
    finally:
        private.thaw()
    assert len(await store.insert(ONE, ANY)) == 1


async def test_a_frozen_server_does_not_hold_up_the_close(make, private, monkeypatch):
    monkeypatch.setattr(pools, "GRACE", 0.2)
    store = make()
    await store.open()
    private.freeze()
    try:
        asked = asyncio.ensure_future(store.fetch("SELECT 1"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await store.close()
        with pytest.raises(BackendUnavailable):
            await asked
    finally:
        private.thaw()


async def test_a_server_that_was_killed_is_used_again_as_soon_as_it_is_back(store, private):
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(5)))
    private.kill()
    for call in (store.look(), store.insert(ONE, ANY)):
        with pytest.raises(BackendUnavailable):
            await call
    private.start()
    assert len(await store.insert(ONE, ANY)) == 1


async def test_a_cancelled_read_spoils_no_later_answer(store):
    for steps in range(20):
        reading = asyncio.ensure_future(store.fetch("SELECT 'cancelled', SLEEP(0.01)"))
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert await store.fetch("SELECT 'asked for'") == (("asked for",),)


async def test_old_connections_are_replaced(store, foreign, monkeypatch):
    before = connections(foreign)
    monkeypatch.setattr(pools, "LIFE", 0.0)
    await store.look()
    await store.look()
    assert not set(before) & set(connections(foreign))


# Errors, as the servers make them


async def test_after_a_deadlock_the_whole_unit_is_tried_again(store, foreign):
    ids = await store.insert([NewJob("shop:pay") for _ in range(30)], ANY)
    tries = 0
    ask(foreign, "BEGIN")
    ask(foreign, "UPDATE sidequest_jobs SET snoozes = 7 WHERE id >= %s", ids[1])

    async def unit(session: Session) -> None:
        nonlocal tries
        tries += 1
        await session.execute(f"UPDATE {store.jobs} SET crashes = crashes + 1 WHERE id = :id", {"id": ids[0]})
        if tries == 1:
            meeting = asyncio.to_thread(ask, foreign, "UPDATE sidequest_jobs SET snoozes = 7 WHERE id = %s", ids[0])
            mine = session.execute(f"UPDATE {store.jobs} SET crashes = crashes + 1 WHERE id = :id", {"id": ids[1]})
            met, ours = await asyncio.gather(meeting, mine, return_exceptions=True)
            ask(foreign, "COMMIT")
            assert not isinstance(met, Exception)  # who has done less is rolled back
            assert isinstance(ours, Exception)
            raise ours
        await session.execute(f"UPDATE {store.jobs} SET crashes = crashes + 1 WHERE id = :id", {"id": ids[1]})

    await store.transact(unit)
    assert tries == 2
    assert ask(foreign, "SELECT crashes, snoozes FROM sidequest_jobs ORDER BY id LIMIT 2") == ((1, 7), (1, 7))


async def test_after_a_lock_timeout_nothing_is_left_of_the_first_try(store, foreign):
    first, second = await store.insert([NewJob("shop:pay"), NewJob("shop:pay")], ANY)
    tries = 0
    ask(foreign, "BEGIN")
    ask(foreign, "SELECT id FROM sidequest_jobs WHERE id = %s FOR UPDATE", second)

    async def unit(session: Session) -> None:
        nonlocal tries
        tries += 1
        await session.execute("SET innodb_lock_wait_timeout = 1")
        await session.execute(f"UPDATE {store.jobs} SET crashes = crashes + 1 WHERE id = :id", {"id": first})
        if tries == 2:
            ask(foreign, "COMMIT")
        await session.execute(f"UPDATE {store.jobs} SET crashes = crashes + 1 WHERE id = :id", {"id": second})

    await store.transact(unit)
    assert tries == 2
    assert ask(foreign, "SELECT crashes FROM sidequest_jobs ORDER BY id") == ((1,), (1,))


async def test_a_lock_that_is_held_for_too_long_makes_the_store_unavailable(store, foreign):
    (id,) = await store.insert(ONE, ANY)
    ask(foreign, "BEGIN")
    ask(foreign, "SELECT id FROM sidequest_jobs WHERE id = %s FOR UPDATE", id)
    with pytest.raises(BackendUnavailable, match="other writers held the database for too long: .*Lock wait timeout.*1205"):
        await store.apply([Change(id, None, (State.WAITING,), State.CANCELED, {"finished_at": store.now()})])
    ask(foreign, "COMMIT")
    assert (await store.get(id)).state is State.WAITING


async def test_a_server_that_becomes_read_only_loses_all_our_connections(make, foreign, user):
    store = make(url=user())
    await store.open()
    await store.migrate()
    await asyncio.gather(*(store.insert(ONE, ANY) for _ in range(10)))
    before = connections(foreign)
    with globally(foreign, "read_only", 1), pytest.raises(BackendUnavailable, match=r"read.only.*\((1290|1836)\)"):
        await store.insert(ONE, ANY)
    assert len(await store.insert(ONE, ANY)) == 1
    assert len(before) > 1
    assert not set(before) & set(connections(foreign))


async def test_too_many_connections_are_no_wrong_url(make, user):
    url = user(having="WITH MAX_USER_CONNECTIONS 1")
    store, other = make(url=url), make(url=url)
    await store.open()
    with pytest.raises(BackendUnavailable, match=r"\((1226|1203|1040)\)"):
        await other.open()


@pytest.mark.parametrize(
    "sets",
    [
        "attempt = -1", "isolated = 7", "ready = 2", "state = 'asleep'", "state = 'failed'", "args = NULL", "priority = 1e11",
        "available_at = 'soon'", "queue = REPEAT('q', 101)", "id = id - 1 ORDER BY id DESC",
    ],
)  # fmt: skip
async def test_a_value_that_does_not_fit_is_refused(store, sets):
    await store.insert([NewJob("shop:pay"), NewJob("shop:pay")], ANY)
    with pytest.raises(ValueError, match="refuses the value: "):
        await store.execute(f"UPDATE {store.jobs} SET {sets}", {})


async def test_a_missing_column_is_a_schema_that_does_not_fit(store, foreign):
    ask(foreign, "ALTER TABLE sidequest_jobs DROP COLUMN snoozes")
    with pytest.raises(SchemaMismatch, match="do not fit this Sidequest: .*snoozes.*; run: sidequest migrate up"):
        await store.insert(ONE, ANY)


# Long statements


async def test_many_long_texts_go_into_as_many_statements_as_they_need(make, foreign, chance):
    long = '"' + "\\\\" * (MEBIBYTE // 4) + "x" * (MEBIBYTE // 4) + '"'
    with globally(foreign, "max_allowed_packet", LEAST):
        store = make()
        await store.open()
        await store.migrate()
        ids = await store.insert([NewJob("shop:pay", long, queue=f"q{n % 2}") for n in range(14)], ANY)
        held = await store.claim("e1", "l1", {"q0": 10, "q1": 10})
        assert [job.id for job in held] == [*ids[::2], *ids[1::2]]
        assert {job.args for job in held} == {long}
        ends = [transitions.finish(job, Completed(f"{long} {job.id}"), None, store.now(), chance) for job in held]
        assert await store.apply([*ends, ends[0]._replace(id=ids[-1] + 1)]) == {ids[-1] + 1}
        assert [end.result for end in (await store.ends(ids))[0]] == [f"{long} {id}" for id in ids]


async def test_a_text_that_fits_no_statement_is_refused_before_it_is_sent(make, foreign):
    with globally(foreign, "max_allowed_packet", LEAST):
        store = make("?pool_size=1")
        await store.open()
        await store.migrate()
        before = connections(foreign)
        with pytest.raises(ValueError, match=r"accepts 8388608 bytes in one statement, and this one needs 838\d\d\d\d: raise"):
            await store.insert([NewJob("shop:a"), NewJob("shop:b", "x" * LEAST)], ANY)
        assert await store.last_id() == 0
        assert connections(foreign) == before


# Ids


async def test_ids_are_right_where_several_servers_take_turns_in_giving_them(make, foreign):
    with globally(foreign, "auto_increment_increment", 7), globally(foreign, "auto_increment_offset", 3):
        store = make()
        await store.open()
        await store.migrate()
        ids = [*await store.insert([NewJob(f"shop:n{n}") for n in range(2_500)], ANY), *await store.insert(ONE, ANY)]
    assert ask(foreign, "SELECT id FROM sidequest_jobs ORDER BY id") == tuple((id,) for id in ids)
    assert (ids[0] % 7, ids[1] - ids[0]) == (3, 7)
    assert [job.name for job in await store.get_many(ids[:3])] == ["shop:n0", "shop:n1", "shop:n2"]


async def test_inserts_at_the_same_time_know_which_ids_are_theirs(store):
    async def insert(number: int) -> None:
        ids = await store.insert([NewJob(f"shop:i{number}") for _ in range(1 + number * 37 % 400)], ANY)
        assert {job.name for job in await store.get_many(ids)} == {f"shop:i{number}"}

    await asyncio.gather(*(insert(number) for number in range(40)))


# Changes of many at once


async def test_a_batch_of_all_kinds_of_values_is_written_row_by_row_as_told(store, foreign, chance):
    texts = [
        None,
        "null",
        '"null"',
        "",
        "0",
        "1e3",
        "true",
        HOSTILE,
        "🦄",
        "漢" * 1000,
        "x " * 500,
        "'",
        "\\",
        "%s",
        "trailing  ",
    ]
    await store.insert([NewJob("shop:pay")] * len(texts), ANY)
    held = await store.claim("e1", "l1", {"default": 100})
    now = store.now()
    times = [None if n % 4 == 0 else now + timedelta(microseconds=n) for n in range(len(texts))]
    changes = [
        Change(
            job.id,
            "l1",
            (State.CLAIMED,),
            State.COMPLETED,
            {"started_at": time, "finished_at": now, "result": text, "crashes": n},
        )
        for n, (job, text, time) in enumerate(zip(held, texts, times, strict=True))
    ]
    assert await store.apply(changes) == frozenset()
    found = await store.get_many(job.id for job in held)
    assert [(job.result_json, job.started_at, job.crashes) for job in found] == [
        (text, time, n) for n, (text, time) in enumerate(zip(texts, times, strict=True))
    ]
    assert {job.finished_at for job in found} == {now}


async def test_leases_of_a_batch_are_compared_each_with_its_own(store):
    ids = await store.insert([NewJob("shop:pay") for _ in range(600)], ANY)
    for number in range(3):
        await store.claim("e1", f"l{number}", {"default": 150})
    wrong = {ids[0]: "L0", ids[1]: None, ids[200]: "l0", ids[599]: "l1", ids[400]: "l2 "}
    changes = [
        Change(
            id,
            wrong.get(id, f"l{n // 150}" if n < 450 else None),
            (State.CLAIMED, State.WAITING),
            State.CANCELED,
            {"crashes": n},
        )
        for n, id in enumerate(ids)
    ]
    assert await store.apply(changes[::-1]) == set(wrong)
    assert [(job.state, job.crashes) for job in await store.get_many(ids)] == [
        (State.CANCELED, n) if id not in wrong else (State.CLAIMED if n < 450 else State.WAITING, 0) for n, id in enumerate(ids)
    ]


async def test_a_change_that_changes_nothing_is_written_all_the_same(store):
    (id,) = await store.insert(ONE, ANY)
    due = (await store.get(id)).available_at
    change = Change(id, None, (State.WAITING,), State.WAITING, {"available_at": due})
    assert await store.apply([change]) == frozenset()
    assert await store.apply([change, change._replace(id=id + 1)]) == {id + 1}


# The schema


@pytest.fixture
def add_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    known = list(migrations.steps("mysql"))
    monkeypatch.setattr(migrations, "steps", lambda dialect: known)
    return lambda name, text: known.append(Step(name, text))


async def test_a_step_that_was_interrupted_can_be_run_again(store, foreign, add_step):
    ask(foreign, "CREATE TABLE sidequest_gone (id INT, old INT, KEY sidequest_old (old))")
    add_step(
        "0002_more",
        "CREATE TABLE {prefix}more (id INT);\nALTER TABLE {prefix}more ADD COLUMN a INT;\n"
        "CREATE INDEX {prefix}more_a ON {prefix}more (a);\nDROP INDEX {prefix}old ON {prefix}gone;\n"
        "ALTER TABLE {prefix}gone DROP COLUMN old;\nINSERT INTO {prefix}later VALUES (1);\n",
    )
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="sidequest_later") as caught:
            await store.migrate()
        assert caught.value.__notes__ == [f"in schema step 0002_more of {store.url.shown}"]
        assert (await store.migration_status()).pending == ("0002_more",)
    ask(foreign, "CREATE TABLE sidequest_later (id INT)")
    assert list(await store.migrate()) == ["0002_more"]
    assert [column[0] for column in ask(foreign, "SHOW COLUMNS FROM sidequest_gone")] == ["id"]


async def test_a_schema_step_may_take_longer_than_another_statement(make, foreign, add_step):
    store = make("?command_timeout=0.5")
    await store.open()
    add_step("0002_slow", "CREATE TABLE {prefix}slow AS SELECT SLEEP(1) AS a;\n")
    assert list(await store.migrate()) == ["0001_jobs_queues_engines", "0002_slow"]
    with pytest.raises(BackendUnavailable):
        await store.fetch("SELECT id FROM sidequest_slow JOIN (SELECT SLEEP(2) AS id) s")


async def test_the_turn_to_change_the_schema_is_not_waited_for_for_ever(make, foreign, monkeypatch):
    monkeypatch.setattr(mysql_backend, "MIGRATION_TIMEOUT", 1.5)
    store = make()
    await store.open()
    async with store.writer() as session, store._named_lock(session):
        with pytest.raises(BackendUnavailable, match="another process has been changing the tables"):
            await store.migrate()
    other = make("?prefix=other_")
    await other.open()
    async with store.writer() as session, store._named_lock(session):
        assert list(await other.migrate()) == ["0001_jobs_queues_engines"]  # those are other tables
    assert list(await store.migrate()) == ["0001_jobs_queues_engines"]


async def test_two_prefixes_live_in_one_database(store, make):
    other = make("?prefix=other_")
    await other.open()
    await other.migrate()
    await other.insert(ONE, ANY)
    assert await store.last_id() == 0
    assert await other.last_id() == 1


async def test_a_schema_applied_by_hand_is_accepted(make, foreign, url):
    script = make().migration_sql()
    with closing(
        pymysql.connect(**login(url), database=urlsplit(url).path[1:], client_flag=CLIENT.MULTI_STATEMENTS)
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        cursor.execute(script)
        while cursor.nextset():
            pass
        connection.commit()
    store = make()
    await store.open()
    await store.check_schema()
    assert list(await store.migrate()) == []


async def test_rows_are_readable_with_the_servers_own_tools(store, foreign):
    at = store.now().replace(year=2030, month=5, day=6, hour=7, minute=8, second=9, microsecond=10)
    (id,) = await store.insert([NewJob("shop:pay", tags=("a",), at=at)], ANY)
    assert ask(
        foreign,
        "SELECT state, ready, CAST(available_at AS CHAR), JSON_VALUE(tags, '$[0]'), urgency, later FROM sidequest_jobs "
        "WHERE id = %s",
        id,
    ) == (("waiting", 0, "2030-05-06 07:08:09.000010", "a", 0, 1),)


async def test_an_ended_job_frees_its_unique_key(store, foreign, chance):
    await store.insert([NewJob("shop:pay"), NewJob("shop:pay")], ANY)
    ask(foreign, "UPDATE sidequest_jobs SET unique_lock = CONCAT('key', id)")
    done, back = await store.claim("e1", "l1", {"default": 2})
    await store.apply(
        [
            transitions.finish(done, Completed(), None, store.now(), chance),
            transitions.finish(back, Released(), None, store.now(), chance),
        ]
    )
    assert ask(foreign, "SELECT unique_lock FROM sidequest_jobs ORDER BY id") == ((None,), (f"key{back.id}",))


# Plans: the cost of each call depends on what it is about, not on how much history there is


@pytest.fixture
async def stocked(store: MysqlBackend, foreign: Foreign) -> MysqlBackend:
    """With jobs of every kind, most of them waiting or completed, and statistics that say so."""
    await store.insert([NewJob("shop:pay", queue=f"q{n % 4}", priority=n % 5) for n in range(3_000)], ANY)
    await store.insert([NewJob("shop:pay", delay=timedelta(days=1)) for _ in range(200)], ANY)
    ask(foreign, "UPDATE sidequest_jobs SET state = 'completed', ready = NULL, finished_at = inserted_at WHERE id <= 1500")
    ask(
        foreign,
        "UPDATE sidequest_jobs SET state = 'failed', ready = NULL, finished_at = inserted_at WHERE id BETWEEN 700 AND 710",
    )
    await store.claim("e1", "l1", {"q0": 5, "q1": 5})
    await store.claim("e2", "l2", {"q2": 20})
    ask(foreign, "ANALYZE TABLE sidequest_jobs, sidequest_queues")
    return store


Plan = dict[str, Any]
TOO_LONG_FOR_A_PLAN = 3170
"""MySQL says: the statement names so many values that it reads the whole table instead of looking them up."""


@pytest.fixture
def plans(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> list[list[Plan]]:
    """Filled, from now on, with the plans of all statements that stores send: a row for each table, as the server says it."""
    seen: list[list[Plan]] = []
    real = MysqlSession._ask

    async def explained(self: MysqlSession, statement: str, parameters: Sequence[Any] = (), answers: int = 1) -> Any:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "(SELECT")):
            with foreign.cursor(pymysql.cursors.DictCursor) as cursor:
                cursor.execute(f"{explain(foreign)} {statement}", parameters)
                seen.append([row for row in cursor.fetchall() if row["table"] == "sidequest_jobs" or row["table"] is None])
                cursor.execute("SHOW WARNINGS")
                assert TOO_LONG_FOR_A_PLAN not in [row["Code"] for row in cursor.fetchall()]
        return await real(self, statement, parameters, answers)

    monkeypatch.setattr(MysqlSession, "_ask", explained)
    return seen


def explain(foreign: Foreign) -> str:
    ((version,),) = ask(foreign, "SELECT VERSION()")
    return "EXPLAIN" if "MariaDB" in version else "EXPLAIN FORMAT=TRADITIONAL"


def used(plan: Sequence[Plan]) -> list[str]:
    """The indexes that the plan goes by; nothing may be sorted, or put aside."""
    for row in plan:
        assert "filesort" not in (row["Extra"] or ""), row
        assert "temporary" not in (row["Extra"] or ""), row
    return [row["key"].removeprefix("sidequest_jobs_") for row in plan if row["table"] == "sidequest_jobs"]


async def test_a_claim_walks_its_index_without_sorting(stocked, plans):
    assert len(await stocked.claim("e1", "l3", {"q3": 5, "q0": 5})) == 10
    select, update = plans
    assert used(select) == ["claim", "claim"]
    assert used(update) == ["PRIMARY"]


async def test_a_promotion_walks_its_index_without_sorting(stocked, plans, foreign):
    ask(foreign, "UPDATE sidequest_jobs SET available_at = inserted_at WHERE ready = 0 LIMIT 3")
    assert await stocked.promote(5) == 3
    select, update = plans
    assert used(select) == ["due"]
    assert used(update) == ["PRIMARY"]


async def test_a_look_touches_jobs_by_their_indexes_only(stocked, plans):
    await stocked.look()
    [plan] = plans
    assert sorted(row["key"] for row in plan if row["key"]) == ["sidequest_jobs_claim", "sidequest_jobs_due"]
    assert all("filesort" not in (row["Extra"] or "") for row in plan)


async def test_what_an_engine_holds_is_found_among_the_held_ones_only(stocked, plans):
    assert len(await stocked.held_by("e1", 100)) == 10
    assert await stocked.cancel_requests("e1") == []
    for (row,) in plans:
        assert row["key"] == "sidequest_jobs_state"
        assert int(row["rows"]) < 40


async def test_jobs_are_counted_and_listed_by_their_state_from_its_index(stocked, plans):
    await stocked.count(JobFilter())
    await stocked.list_jobs(JobFilter(states=(State.FAILED,)), 50)
    await stocked.list_jobs(JobFilter(states=(State.COMPLETED,)), 50)
    await stocked.list_jobs(JobFilter(), 50)
    assert [used(plan) for plan in plans] == [["state"], ["state"], ["state"], ["PRIMARY"]]
    assert "Using index" in plans[0][0]["Extra"]


async def test_ends_go_by_id_whatever_the_statistics_say(stocked, plans, foreign, chance):
    held = await stocked.held_by("e2", 100)
    plans.clear()
    ends = [transitions.finish(job, Completed(str(job.id)), None, stocked.now(), chance) for job in held]
    assert await stocked.apply(ends[:1]) == frozenset()
    assert await stocked.apply([*ends[1:], ends[1]._replace(id=999_999)]) == {999_999}
    assert [used(plan) for plan in plans] == [["PRIMARY"]] * 4


async def test_what_goes_by_id_uses_the_primary_key(stocked, plans):
    await stocked.get(1)
    await stocked.get_many([1, 2])
    await stocked.ends([1, 2])
    await stocked.list_after(0, None, 10)
    await stocked.delete_finished(stocked.now(), stocked.now(), 0, 10)
    assert len(plans) == 6
    for plan in plans:
        assert used(plan) == ["PRIMARY"], plan


async def test_no_number_of_ids_is_too_long_for_a_plan(stocked, plans):
    assert len(await stocked.get_many(range(1, 30_000, 2))) == 1_600
    assert await stocked.delete(range(10_000, 30_000)) == frozenset()
    assert len(plans) == 3 + 2 * 4


async def test_a_queue_is_emptied_piece_by_piece_because_a_statement_may_not_take_for_ever(store, monkeypatch):
    pieces: list[int] = []
    real = MysqlSession.execute

    async def counted(self: MysqlSession, statement: str, values: Any = None) -> int:
        pieces.append(await real(self, statement, values))
        return pieces[-1]

    jobs = [NewJob("shop:pay", delay=timedelta(days=n % 2)) for n in range(50_000)]
    await store.insert(jobs, ANY)
    monkeypatch.setattr(MysqlSession, "execute", counted)
    assert await store.purge_queue("default") == 50_000
    assert pieces == [20_000, 5_000, 0, 20_000, 5_000, 0]
    assert await store.last_id() == 0


# Users' own connections


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Any]:
    """A user's own connection."""
    connection = await aiomysql.connect(**login(url), **{"db": urlsplit(url).path[1:], **options})
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "options",
    [
        {"cursorclass": aiomysql.DictCursor},
        {"init_command": "SET sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'"},
        {"init_command": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"},
        {"init_command": "SET auto_increment_increment = 10, auto_increment_offset = 4"},
        {"charset": "utf8mb4", "autocommit": False},
    ],
    ids=["dictionaries", "no backslashes", "serializable", "steps", "implicit"],
)
async def test_a_users_connection_may_be_set_up_as_they_like(store, url, insert_hostile, options):
    async with connected(url, **options) as connection:
        if not options.get("charset"):
            await connection.begin()
        await insert_hostile(store, connection)


async def test_a_begun_transaction_of_a_connection_that_commits_itself_is_one(store, url):
    async with connected(url, autocommit=True) as connection:
        await connection.begin()
        await store.insert(ONE, ANY, connection)
        await connection.rollback()
        assert await store.last_id() == 0


@pytest.mark.parametrize("why", ["commits itself", "closed", "elsewhere"])
async def test_a_connection_that_can_keep_no_promise_is_refused(store, url, why):
    async with connected(
        url, autocommit=why == "commits itself", db="mysql" if why == "elsewhere" else urlsplit(url).path[1:]
    ) as c:
        if why == "closed":
            c.close()
        words = {"commits itself": "has no open transaction", "closed": "is closed", "elsewhere": "is to the database 'mysql'"}
        with pytest.raises(ValueError, match=f"^connection {words[why]}"):
            await store.insert(ONE, ANY, c)
    assert await store.last_id() == 0


async def test_an_sqlalchemy_connection_that_commits_itself_is_refused(store, url):
    engine = create_async_engine(for_sqlalchemy(url), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        with pytest.raises(ValueError, match="connection has no open transaction"):
            await store.insert(ONE, ANY, connection)
    await engine.dispose()
    assert await store.last_id() == 0


async def test_an_sqlalchemy_connection_that_is_closed_is_refused(store, url):
    engine = create_async_engine(for_sqlalchemy(url))
    async with engine.connect() as connection:
        pass
    with pytest.raises(ValueError, match="connection is closed"):
        await store.insert(ONE, ANY, connection)
    await engine.dispose()


async def test_an_error_in_a_users_transaction_leaves_the_connection_to_them(store, url, foreign):
    ask(foreign, "ALTER TABLE sidequest_jobs DROP COLUMN snoozes")
    async with connected(url) as connection:
        await connection.begin()
        with pytest.raises(SchemaMismatch):
            await store.insert(ONE, ANY, connection)
        assert not connection.closed
        await connection.rollback()


def for_sqlalchemy(url: str) -> str:
    return url.replace("mysql://", "mysql+aiomysql://")


# Users' own pools


@asynccontextmanager
async def aiopools(url: str, **options: Any) -> AsyncIterator[Any]:
    flags = {"client_flag": CLIENT.FOUND_ROWS, **options}
    async with aiomysql.create_pool(1, 4, **login(url), db=urlsplit(url).path[1:], **flags) as pool:
        yield pool


@asynccontextmanager
async def sqlalchemy_engine(url: str, **options: Any) -> AsyncIterator[Any]:
    engine = create_async_engine(for_sqlalchemy(url), pool_size=4, **options)
    yield engine
    await engine.dispose()


POOLS = [
    pytest.param(aiopools, {}, id="aiomysql"),
    pytest.param(aiopools, {"autocommit": True, "cursorclass": aiomysql.DictCursor}, id="aiomysql-autocommit"),
    pytest.param(sqlalchemy_engine, {}, id="sqlalchemy"),
    pytest.param(sqlalchemy_engine, {"isolation_level": "REPEATABLE READ", "pool_pre_ping": True}, id="sqlalchemy-repeatable"),
]


@pytest.mark.parametrize(("open_pool", "options"), POOLS)
async def test_all_work_can_be_done_on_the_apps_own_pool(make, url, foreign, chance, open_pool, options):
    error = JobError("error", "E", "no")
    async with open_pool(url, **options) as pool:
        store = make("?pool_size=1", pool=pool)
        await store.open()
        assert list(await store.migrate()) == ["0001_jobs_queues_engines"]
        ids = await store.insert([NewJob("shop:pay", HOSTILE, queue=queue) for queue in "abc" for _ in range(4)], ANY)
        held = await asyncio.gather(*(store.claim("e1", f"l{n}", {"a": 2, "b": 2}) for n in range(3)))
        jobs = [job for claimed in held for job in claimed]
        assert sorted(job.id for job in jobs) == list(ids[:8])
        outcomes = [Completed("1"), Failed(error), Snoozed(timedelta(hours=1)), Errored(error, timedelta(0))]
        changes = [transitions.finish(job, outcomes[n % 4], None, store.now(), chance) for n, job in enumerate(jobs)]
        assert await store.apply([*changes, changes[0]._replace(id=10**6)]) == {10**6}
        assert await store.count(JobFilter()) == dict.fromkeys(State, 0) | {
            State.WAITING: 8,
            State.COMPLETED: 2,
            State.FAILED: 2,
        }
        await store.register_engine("e1", "h", 1, "1", "*")
        assert await store.beat("e1")
        await store.save_progress([(ids[0], "l0", "{}"), (ids[1], "l0", "{}")])
        assert await store.delete(ids) == set(ids)
        before = await store.last_id()
        ask(foreign, "INSERT INTO sidequest_queues VALUES ('seen', 0, 1, 0, '2026-01-01')")
        assert (await store.get_queue("seen"), before) == (QueueRecord("seen", 1), 0)  # each look is a fresh one
        await store.close()
        await store.close()
        assert await usable(pool)


@pytest.mark.parametrize(("open_pool", "options"), POOLS)
async def test_the_apps_connections_are_given_back_as_they_were(make, url, open_pool, options):
    async with open_pool(url, **options) as pool:
        store = make(pool=pool)
        await store.open()
        await store.migrate()
        await store.insert([NewJob("shop:pay")] * 3, ANY)
        if open_pool is aiopools:
            assert pool.size == pool.freesize
            async with pool.acquire() as connection:
                assert connection.get_autocommit() == options.get("autocommit", False)
        else:
            assert pool.pool.checkedout() == 0
            async with AsyncSession(pool) as session:
                await session.execute(text("INSERT INTO sidequest_queues VALUES ('mine', 0, 1, 0, '2026-01-01')"))
                await session.rollback()
            assert await store.get_queue("mine") is None


@pytest.mark.parametrize(("open_pool", "options"), POOLS)
async def test_a_connection_of_the_apps_pool_that_breaks_is_not_used_again(make, url, foreign, open_pool, options):
    async with open_pool(url, **options) as pool:
        store = make(pool=pool)
        await store.open()
        await store.migrate()

        async def broken(session: Session) -> None:
            ((id,),) = await session.fetch("SELECT CONNECTION_ID()")
            kill(foreign, id)
            await session.fetch("SELECT 1")

        with pytest.raises(BackendUnavailable):
            await store.transact(broken)
        assert len(await store.insert(ONE, ANY)) == 1


async def usable(pool: Any) -> bool:
    if isinstance(pool, aiomysql.Pool):
        async with pool.acquire() as connection, connection.cursor() as cursor:
            return bool(await cursor.execute("SELECT 1"))
    async with pool.connect() as connection:
        return bool((await connection.execute(text("SELECT 1"))).scalar_one())


@pytest.mark.parametrize("options", [{"client_flag": 0}, {"charset": "latin1"}])
async def test_a_pool_that_cannot_tell_what_was_written_is_refused(make, url, options):
    async with aiopools(url, **options) as pool:
        with pytest.raises(ConfigError, match="pool must make its connections with charset='utf8mb4', and with client_flag="):
            await make(pool=pool).open()


async def test_another_kind_of_pool_is_refused(make):
    with pytest.raises(TypeError, match="pool must be an aiomysql Pool or an SQLAlchemy AsyncEngine of mysql"):
        make(pool=object())


async def test_an_engine_of_another_database_is_refused(make):
    engine = create_async_engine("sqlite+aiosqlite:///x.db")
    with pytest.raises(TypeError, match="aiosqlite; this Sidequest needs aiomysql"):
        make(pool=engine)


# Other processes

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


def test_processes_that_migrate_at_once_apply_it_once(url):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", MIGRATE, url]
    rivals = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    answers = [(*rival.communicate(timeout=60), rival.returncode) for rival in rivals]
    assert sorted(answers) == [("0\n", "", 0)] * 3 + [("1\n", "", 0)]


DIE = """
import asyncio, os, sys
from sidequest.backends import make_backend
async def main():
    store = make_backend(sys.argv[1])
    await store.open()
    async def die(session):
        row = {"name": "half", "concurrency": 1, "priority": 0, "paused": 0, "updated_at": "2026-01-01"}
        await store.insert_queue(session, row)
        print("dying", flush=True)
        os._exit(9)
    await store.transact(die)
asyncio.run(main())
"""


async def test_a_process_that_dies_in_a_transaction_leaves_nothing_and_no_lock(store, url):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DIE, url]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.stdout + done.stderr == "dying\n"
    assert await store.create_queue(QueueRecord("half", 2))
    assert await store.list_queues() == [QueueRecord("half", 2)]


@pytest.mark.parametrize(("number", "meaning"), [(1021, BackendFull), (1114, BackendFull), (1040, BackendUnavailable)])
async def test_a_server_without_room_is_told_apart_from_one_without_connections(store, number, meaning):
    with pytest.raises(BackendUnavailable, match=str(number)) as caught:
        await store.execute(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'no'", {})
    assert type(caught.value) is meaning
