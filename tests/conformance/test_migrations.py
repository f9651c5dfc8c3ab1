"""The schema: applied once by however many ask, whole or not at all, never over a newer one."""

from __future__ import annotations

import asyncio

import pytest

from sidequest.backends import migrations
from sidequest.backends.base import MigrationStatus
from sidequest.backends.migrations import Step
from sidequest.errors import BackendUnavailable, SchemaMismatch

FIRST = "0001_jobs_queues_engines"


@pytest.fixture
def add_step(monkeypatch, database):
    """Adds a further step to those that the code knows."""
    known = list(migrations.steps(database))

    def add_step(name: str, text: str) -> None:
        known.append(Step(name, text))

    monkeypatch.setattr(migrations, "steps", lambda dialect: known)
    return add_step


async def test_an_empty_database_has_all_steps_pending_and_stays_empty(empty):
    for _ in range(2):
        assert await empty.migration_status() == MigrationStatus((), (FIRST,), (), ())


async def test_migrating_applies_each_step_once(empty):
    assert list(await empty.migrate()) == [FIRST]
    assert list(await empty.migrate()) == []
    assert await empty.migration_status() == MigrationStatus((FIRST,), (), (), ())
    await empty.check_schema()


async def test_migrating_keeps_the_jobs(backend, insert):
    (id,) = await insert()
    before = await backend.get(id)
    await backend.migrate()
    assert await backend.get(id) == before


async def test_many_migrating_at_once_apply_each_step_once(connect, add_step):
    add_step("0002_more", "CREATE TABLE {prefix}more (id INTEGER);\nCREATE TABLE {prefix}yet_more (id INTEGER);\n")
    rivals = [await connect() for _ in range(6)]
    applied = await asyncio.gather(*(rival.migrate() for rival in rivals))
    assert sorted(name for names in applied for name in names) == [FIRST, "0002_more"]


async def test_later_steps_are_applied_in_order_to_what_is_there(backend, add_step):
    add_step("0002_two", "CREATE TABLE {prefix}two (id INTEGER);")
    add_step("0003_three", "ALTER TABLE {prefix}two ADD COLUMN more INTEGER;")
    assert await backend.migration_status() == MigrationStatus((FIRST,), ("0002_two", "0003_three"), (), ())
    assert list(await backend.migrate()) == ["0002_two", "0003_three"]


async def test_a_step_that_fails_leaves_nothing_of_itself(empty, add_step):
    add_step("0002_bad", "CREATE TABLE {prefix}two (id INTEGER);\nINSERT INTO {prefix}nowhere VALUES (1);\n")
    with pytest.raises((BackendUnavailable, SchemaMismatch)) as caught:
        await empty.migrate()
    assert "0002_bad" in caught.value.__notes__[0]
    assert await empty.migration_status() == MigrationStatus((FIRST,), ("0002_bad",), (), ())
    migrations.steps("any")[-1] = Step("0002_good", "CREATE TABLE {prefix}two (id INTEGER);")
    assert list(await empty.migrate()) == ["0002_good"]


async def test_tables_made_by_a_newer_sidequest_are_refused(backend, add_step, monkeypatch, database):
    known = list(migrations.steps(database))
    add_step("0002_newer", "CREATE TABLE {prefix}two (id INTEGER);")
    await backend.migrate()
    monkeypatch.setattr(migrations, "steps", lambda dialect: known)
    for refused in (backend.migrate, backend.check_schema):
        with pytest.raises(SchemaMismatch, match=r"newer Sidequest \(step 0002_newer\); upgrade the sidequest package"):
            await refused()
    assert await backend.migration_status() == MigrationStatus((FIRST,), (), (), ("0002_newer",))


async def test_missing_tables_are_named_with_the_command_to_run(empty):
    with pytest.raises(SchemaMismatch, match="do not exist yet; run: sidequest migrate up --url "):
        await empty.check_schema()


async def test_older_tables_are_named_with_the_command_to_run(backend, add_step):
    add_step("0002_two", "CREATE TABLE {prefix}two (id INTEGER);")
    with pytest.raises(SchemaMismatch, match="are older than this Sidequest; run: sidequest migrate up --url "):
        await backend.check_schema()


async def test_working_without_tables_says_so(empty):
    with pytest.raises(SchemaMismatch, match="sidequest migrate up"):
        await empty.look()
