"""Writing changes: what is written, what stays, and batches of every mixture."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sidequest.backends.base import JobFilter
from sidequest.backends.shapes import CHANGEABLE
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Errored, Failed, Interrupted, JobError, Released, SharedCrash, Snoozed, Stopped
from sidequest.jobs.record import JobRecord, NewJob, Progress
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

ERROR = JobError("error", "ValueError", "näh", "trace")
NEVER_NULL = {
    "priority", "available_at", "attempt", "max_attempts", "isolated", "interrupts", "crashes", "snoozes",
}  # fmt: skip


def every_column(clock, tick) -> dict[str, object]:
    """A value for each column that a change may name, each another than a claimed job has."""
    return {
        "priority": 3, "available_at": clock.time - 4 * tick, "attempt": 5, "max_attempts": 6, "isolated": True,
        "engine": "e2", "lease": "l2", "claimed_at": clock.time + tick, "started_at": clock.time + 2 * tick,
        "finished_at": clock.time + 3 * tick, "result": "7", "errors": "[]", "progress": Progress(8, 9, "ten").to_json(),
        "cancel_requested_at": clock.time + 5 * tick, "interrupts": 11, "crashes": 12, "snoozes": 13,
    }  # fmt: skip


def as_read(record: JobRecord, columns: dict[str, object]) -> JobRecord:
    """The record with what a change wrote."""
    names = {"result": "result_json", "errors": "errors_json"}
    read = {names.get(name, name): value for name, value in columns.items()}
    if "progress" in read:
        read["progress"] = Progress.from_json(read["progress"])
    return replace(record, **read)


async def test_start_writes_state_and_true_start_only(backend, insert, claim, clock, tick):
    await insert()
    (held,) = await claim()
    before = await backend.get(held.id)
    started_at = clock.time + 7 * tick
    assert await backend.apply([transitions.start(held, started_at)]) == frozenset()
    assert await backend.get(held.id) == replace(before, state=State.RUNNING, started_at=started_at)


async def test_a_completed_job_holds_result_and_times(backend, insert, claim, clock, chance, tick):
    await insert()
    (held,) = await claim()
    before = await backend.get(held.id)
    started_at, finished_at = clock.advance(seconds=1), clock.advance(tick)
    assert not await backend.apply([transitions.finish(held, Completed('{"a":1}'), started_at, finished_at, chance)])
    assert await backend.get(held.id) == replace(
        before, state=State.COMPLETED, started_at=started_at, finished_at=finished_at, result_json='{"a":1}'
    )


@pytest.mark.parametrize("text", [None, '""', "0", "false", '"123"', "null", '"null"', "[]", "{}", '"' + "漢" * 349_000 + '"'])
async def test_a_result_that_looks_like_something_else_is_kept_as_it_is(backend, insert, claim, clock, chance, text):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Completed(text), clock.time, clock.time, chance)])
    (end,), _ = await backend.ends([held.id])
    assert ((await backend.get(held.id)).result_json, end.result) == (text, text)


async def test_a_failed_job_holds_its_errors(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Failed(ERROR), clock.time, clock.time, chance)])
    record = await backend.get(held.id)
    assert (record.state, record.errors) == (State.FAILED, (replace(ERROR, attempt=1, at=clock.time),))


async def test_a_failed_attempt_waits_again_and_keeps_its_attempt(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    wait = Errored(ERROR, timedelta(seconds=3))
    await backend.apply([transitions.finish(held, wait, clock.time, clock.time, chance)])
    record = await backend.get(held.id)
    assert (record.state, record.attempt, record.available_at) == (State.WAITING, 1, clock.time + timedelta(seconds=3))


async def test_a_snooze_gives_the_attempt_back(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Snoozed(timedelta(seconds=3)), None, clock.time, chance)])
    record = await backend.get(held.id)
    assert (record.state, record.attempt, record.snoozes) == (State.WAITING, 0, 1)


async def test_an_interrupted_job_belongs_to_nobody(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Interrupted(ERROR), None, clock.time, chance)])
    record = await backend.get(held.id)
    assert (record.state, record.attempt, record.interrupts, record.lease, record.engine) == (State.WAITING, 0, 1, None, None)


async def test_a_suspect_runs_alone_next_time(backend, insert, claim, clock, chance):
    await insert()
    (held,) = await claim()
    await backend.apply([transitions.finish(held, SharedCrash(ERROR), None, clock.time, chance)])
    (again,) = await claim(lease="l2")
    assert (again.isolated, again.attempt) == (True, 1)


async def test_a_retry_gives_an_ended_job_a_clean_new_life(backend, insert, claim, clock, chance):
    await insert(max_attempts=1)
    (held,) = await claim()
    await backend.apply([transitions.finish(held, Errored(ERROR), clock.time, clock.time, chance)])
    failed = await backend.get(held.id)
    now = clock.advance(seconds=9)
    assert not await backend.apply([transitions.retry(failed, now)])
    assert await backend.get(held.id) == replace(
        failed,
        state=State.WAITING,
        available_at=now,
        max_attempts=2,
        lease=None,
        engine=None,
        started_at=None,
        finished_at=None,
    )
    assert [(job.id, job.attempt) for job in await claim(lease="l2")] == [(held.id, 2)]


async def test_nothing_to_write_is_no_work(backend):
    assert await backend.apply([]) == frozenset()


async def test_a_mixed_batch_writes_every_change(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(40)))
    held = await claim(40)
    outcomes = [Completed("1"), Failed(ERROR), Stopped(), Snoozed(timedelta(seconds=1))]
    batch = [transitions.finish(job, outcomes[n % 4], clock.time, clock.time, chance) for n, job in enumerate(held)]
    assert await backend.apply(batch) == frozenset()
    assert await backend.count(JobFilter()) == {
        State.WAITING: 10, State.CLAIMED: 0, State.RUNNING: 0, State.COMPLETED: 10, State.FAILED: 10, State.CANCELED: 10,
    }  # fmt: skip
    assert [job.result_json for job in await backend.get_many([job.id for job in held[:5]])] == ["1", None, None, None, "1"]


async def test_two_changes_of_one_job_are_written_in_their_order(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    first, second, third = await claim(3)
    started_at, now = clock.time, clock.advance(seconds=1)
    done = Completed("1")
    batch = [
        transitions.finish(first, done, started_at, now, chance),
        transitions.start(second, started_at),
        transitions.finish(second, done, started_at, now, chance),
        transitions.finish(third, done, started_at, now, chance),
        transitions.start(third, started_at),
    ]
    assert await backend.apply(batch) == {third.id}
    assert [job.state for job in await backend.get_many([first.id, second.id, third.id])] == [State.COMPLETED] * 3


async def test_every_column_that_a_change_may_name_is_written(backend, insert, claim, clock, tick):
    await insert(tags=("a",), meta="{}")
    (held,) = await claim()
    before = await backend.get(held.id)
    full = every_column(clock, tick)
    assert full.keys() == CHANGEABLE
    assert not await backend.apply([Change(held.id, "l1", (State.CLAIMED,), None, full)])
    assert await backend.get(held.id) == as_read(before, full)
    none = dict.fromkeys(full.keys() - NEVER_NULL)
    assert not await backend.apply([Change(held.id, "l2", (State.CLAIMED,), None, none)])
    assert await backend.get(held.id) == as_read(before, full | none)


async def test_a_change_that_changes_nothing_is_written_all_the_same(backend, insert, claim):
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    same = [Change(job.id, "l1", (State.CLAIMED,), State.CLAIMED, {"crashes": 0}) for job in await claim(3)]
    assert await backend.apply(same[:1]) == frozenset()
    assert await backend.apply(same) == frozenset()


async def test_columns_not_named_stay(backend, insert, claim, clock, tick):
    await insert(tags=("a",), meta="{}")
    (held,) = await claim()
    await backend.apply([Change(held.id, "l1", (State.CLAIMED,), None, every_column(clock, tick))])
    record = await backend.get(held.id)
    moves = [
        (State.CLAIMED, None, {"crashes": 9}),
        (State.CLAIMED, State.RUNNING, {}),
        (State.RUNNING, None, {"cancel_requested_at": None}),
        (State.RUNNING, State.WAITING, {}),
        (State.WAITING, State.WAITING, {"available_at": clock.advance(days=1)}),
        (State.WAITING, None, {"priority": -1}),
        (State.WAITING, State.FAILED, {}),
        (State.FAILED, State.COMPLETED, {"result": "8"}),
        (State.COMPLETED, State.CANCELED, {}),
    ]
    for before, state, columns in moves:
        assert not await backend.apply([Change(held.id, "l2", (before,), state, columns)])
        record = as_read(record, columns) if state is None else replace(as_read(record, columns), state=state)
        assert await backend.get(held.id) == record


async def test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing(backend, insert, claim):
    await insert(*(NewJob("shop:pay") for _ in range(4)))
    held = await claim(4)
    batch = [
        Change(held[0].id, "l1", (State.CLAIMED,), None, {"crashes": 1}),
        Change(held[1].id, "l1", (State.CLAIMED,), State.WAITING, {}),
        Change(held[2].id, "l1", (State.CLAIMED,), None, {"crashes": 1}),
        Change(held[3].id, "l1", (State.CLAIMED,), State.FAILED, {"snoozes": 2**70}),
    ]
    with pytest.raises(Exception, match="."):
        await backend.apply(batch)
    assert list(await backend.held_by("e1", 9)) == list(held)
    assert await backend.apply(batch[:3]) == frozenset()
    assert [(job.id, job.crashes) for job in await backend.held_by("e1", 9)] == [
        (held[0].id, 1), (held[2].id, 1), (held[3].id, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [{"nonsense": 1}, {"state": "failed"}, {"id": 7}, {"args = '' --": 1}, {}])
async def test_a_change_may_name_known_columns_only(backend, insert, columns):
    (id,) = await insert()
    before = await backend.get(id)
    with pytest.raises(AssertionError, match="a change"):
        await backend.apply([Change(id, None, (State.WAITING,), None, columns)])
    assert await backend.get(id) == before


async def test_a_change_must_say_which_state_it_expects(backend, insert):
    (id,) = await insert()
    with pytest.raises(AssertionError, match="no state"):
        await backend.apply([Change(id, None, (), State.FAILED, {})])


async def test_with_locked_rows_skipped_the_fence_is_the_same(backend, insert, claim, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(4)))
    first, second, third, fourth = await claim(4)
    changes = [transitions.finish(job, Completed("1"), None, clock.time, chance) for job in (first, second, third)]
    changes.append(transitions.finish(fourth, Released(), None, clock.time, chance))
    changes[1] = changes[1]._replace(lease="another's")
    assert await backend.apply(changes, skip_locked=True) == {second.id}
    assert await backend.apply([], skip_locked=True) == frozenset()
    states = [record.state for record in await backend.get_many(job.id for job in (first, second, third, fourth))]
    assert states == [State.COMPLETED, State.CLAIMED, State.COMPLETED, State.WAITING]
