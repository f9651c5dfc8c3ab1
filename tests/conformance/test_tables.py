"""The tables as a whole: found by name, removed with all that is in them; and what the server says of itself."""

from __future__ import annotations

import pytest

from sidequest.backends import make_backend
from sidequest.backends.base import MigrationStatus
from sidequest.errors import SchemaMismatch
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob

FIRST = "0001_jobs_queues_engines"
ALWAYS = ["engines", "jobs", "migrations", "queues"]
DURABILITY = {
    "sqlite": {"journal_mode": "wal", "synchronous": "normal"},
    "postgres": {"fsync", "synchronous_commit", "full_page_writes"},
    "mariadb": {"innodb_flush_log_at_trx_commit", "sync_binlog"},
    "mysql": {"innodb_flush_log_at_trx_commit", "sync_binlog"},
    "mongodb": {"w": "majority", "journal": "true", "members": "1"},
    "mongodb-standalone": {"w": "majority", "journal": "true", "replica_set": "none"},
}
"""By database: the settings that must be told, with their values where we know them."""


def beside(url: str, prefix: str) -> str:
    """The URL of tables with another prefix in the same database."""
    return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"


async def test_an_empty_database_has_no_tables_of_ours(empty):
    assert list(await empty.table_names("sidequest_")) == []


async def test_tables_are_found_by_how_their_names_begin(backend):
    found = list(await backend.table_names("sidequest_"))
    assert found == sorted(found)
    assert {name.removeprefix("sidequest_") for name in found} >= {*ALWAYS}
    assert list(await backend.table_names("sidequest_jo")) == ["sidequest_jobs"]
    for nothing in ("sidequest_jobsx", "idequest_", "sidequest%", "sidequest.", "SELECT'", "x"):
        assert list(await backend.table_names(nothing)) == []


async def test_dropped_tables_are_gone_and_can_be_made_again(backend, insert):
    for _ in range(3):
        await insert()
    await backend.drop_tables()
    assert list(await backend.table_names("sidequest_")) == []
    assert await backend.migration_status() == MigrationStatus((), (FIRST,), (), ())
    with pytest.raises(SchemaMismatch, match="sidequest migrate up"):
        await backend.insert([NewJob("shop:pay", queue="new")], QueueRecord("*"))
    with pytest.raises(SchemaMismatch, match="sidequest migrate up"):
        await backend.create_queue(QueueRecord("mail"))
    assert list(await backend.table_names("sidequest_")) == []
    assert list(await backend.migrate()) == [FIRST]
    (id,) = await insert()
    assert id == 1
    assert [queue.name for queue in await backend.list_queues()] == ["default"]
    assert await backend.last_id() == id


async def test_dropping_takes_no_tables_of_another_prefix(backend, insert, url):
    (id,) = await insert()
    other = make_backend(beside(url, "sidequest_other_"), "engine")
    await other.open()
    try:
        await other.migrate()
        before = list(await backend.table_names("sidequest_"))
        assert {f"sidequest_other_{name}" for name in ALWAYS} < {*before}
        await other.drop_tables()
        left = list(await backend.table_names("sidequest_"))
        assert left == [name for name in before if not name.startswith("sidequest_other_")]
    finally:
        await other.close()
    assert (await backend.get(id)).id == id


async def test_dropping_what_is_not_there_is_no_error(empty):
    await empty.drop_tables()
    await empty.drop_tables()
    assert list(await empty.table_names("sidequest_")) == []


async def test_a_server_is_asked_for_nothing_with_and_without_tables(empty):
    await empty.ping()
    await empty.migrate()
    await empty.ping()


async def test_a_server_tells_its_version_and_how_safely_it_stores(empty, database):
    facts = await empty.facts()
    assert facts["version"][0].isdigit()
    assert all(isinstance(value, str) and value for value in facts.values())
    expected = DURABILITY[database]
    if isinstance(expected, dict):
        assert {name: facts[name] for name in expected} == expected
    else:
        assert expected < facts.keys()
    assert list(await empty.table_names("sidequest_")) == []
