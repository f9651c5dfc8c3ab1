"""The schema: applied once by however many ask, whole or not at all, never over a newer one."""

from __future__ import annotations

import asyncio

import pytest

from sidequest.backends import migrations
from sidequest.backends.base import MigrationStatus
from sidequest.backends.migrations import Step
from sidequest.errors import BackendUnavailable, SchemaMismatch
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

FIRST = "0001_jobs_queues_engines"


@pytest.fixture
def add_step(monkeypatch, dialect):
    """Adds a further step to those that the code knows."""
    known = list(migrations.steps(dialect))

    def add_step(name: str, *statements: str) -> None:
        known.append(Step(name, "".join(statements)))

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


async def test_many_migrating_at_once_apply_each_step_once(connect, add_step, schema_words):
    add_step("0002_two", schema_words.create, schema_words.extend)
    rivals = [await connect() for _ in range(6)]
    applied = await asyncio.gather(*(rival.migrate() for rival in rivals))
    assert sorted(name for names in applied for name in names) == [FIRST, "0002_two"]


async def test_later_steps_are_applied_in_order_to_what_is_there(backend, add_step, schema_words):
    add_step("0002_two", schema_words.create)
    add_step("0003_more", schema_words.extend)
    assert await backend.migration_status() == MigrationStatus((FIRST,), ("0002_two", "0003_more"), (), ())
    assert list(await backend.migrate()) == ["0002_two", "0003_more"]


async def test_a_step_that_fails_leaves_nothing_of_itself(empty, add_step, schema_words):
    add_step("0002_bad", schema_words.create, schema_words.fail)
    with pytest.raises((BackendUnavailable, SchemaMismatch)) as caught:
        await empty.migrate()
    assert "0002_bad" in caught.value.__notes__[0]
    assert await empty.migration_status() == MigrationStatus((FIRST,), ("0002_bad",), (), ())
    migrations.steps("any")[-1] = Step("0002_good", schema_words.create)
    assert list(await empty.migrate()) == ["0002_good"]


async def test_tables_made_by_a_newer_sidequest_are_refused(backend, add_step, schema_words, monkeypatch, dialect):
    known = list(migrations.steps(dialect))
    add_step("0002_newer", schema_words.create)
    await backend.migrate()
    monkeypatch.setattr(migrations, "steps", lambda dialect: known)
    for refused in (backend.migrate, backend.check_schema):
        with pytest.raises(SchemaMismatch, match=r"newer Sidequest \(step 0002_newer\); upgrade the sidequest package"):
            await refused()
    assert await backend.migration_status() == MigrationStatus((FIRST,), (), (), ("0002_newer",))


async def test_tables_of_a_newer_sidequest_that_this_one_knows_enough_of_are_accepted(
    backend, add_step, schema_words, monkeypatch, dialect
):
    known = list(migrations.steps(dialect))
    add_step("0002_newer", "-- needs: 0001\n", schema_words.create)
    await backend.migrate()
    monkeypatch.setattr(migrations, "steps", lambda dialect: known)
    assert await backend.migration_status() == MigrationStatus((FIRST,), (), ("0002_newer",), ())
    await backend.check_schema()
    assert list(await backend.migrate()) == []


async def test_older_code_goes_on_working_while_the_tables_become_newer(
    backend, connect, insert, claim, clock, chance, add_step, schema_words, monkeypatch, dialect
):
    def ends(*jobs):
        return [transitions.finish(job, Completed("1"), clock.time, clock.time, chance) for job in jobs]

    known = list(migrations.steps(dialect))
    before, waiting = await insert(NewJob("shop:pay"), NewJob("shop:pay"))
    (held,) = await claim(1)  # on connections that know the tables as they were
    add_step("0002_newer", "-- needs: 0001\n", schema_words.widen)
    assert list(await (await connect()).migrate()) == ["0002_newer"]
    monkeypatch.setattr(migrations, "steps", lambda dialect: known)

    started = await connect()  # as an engine that is started in the midst of a deployment
    await started.check_schema()
    (new,) = await insert()
    assert await backend.apply(ends(held)) == frozenset()
    jobs = [*await claim(1, lease="l3"), *await started.claim("e2", "l2", {"default": 5})]
    assert [job.id for job in jobs] == [waiting, new]
    assert await started.apply(ends(*jobs)) == frozenset()
    assert {job.state for job in await started.get_many([before, waiting, new])} == {State.COMPLETED}


async def test_missing_tables_are_named_with_the_command_to_run(empty):
    with pytest.raises(SchemaMismatch, match="do not exist yet; run: sidequest migrate up --url "):
        await empty.check_schema()


async def test_older_tables_are_named_with_the_command_to_run(backend, add_step, schema_words):
    add_step("0002_two", schema_words.create)
    with pytest.raises(SchemaMismatch, match="are older than this Sidequest; run: sidequest migrate up --url "):
        await backend.check_schema()


async def test_working_without_tables_says_so(empty):
    with pytest.raises(SchemaMismatch, match="sidequest migrate up"):
        await empty.look()
