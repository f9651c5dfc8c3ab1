"""The states of a job against a model that fits on a page: two engines, people, and time, in any order.

Hypothesis makes up histories. Each step is done on the real store and on a plain dictionary; then the
two must agree. What the rules of `jobs/transitions.py` are is proved elsewhere, without a store: here
the model uses them as well, and what is proved is that the store applies a move if and only if its fence
holds, claims in order and what is due, and forgets nothing that anybody wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule, run_state_machine_as_test

from sidequest.backends import moves
from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.errors import JobNotFound, JobStateError
from sidequest.jobs import transitions
from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
)
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobRecord, NewJob
from sidequest.jobs.states import FINAL, State
from sidequest.jobs.transitions import Change
from tests.conformance.conftest import Clock

T = TypeVar("T")
OOPS = JobError("error", "ValueError", "oops")
EXAMPLES = {"sqlite": 60}
"""Histories, by database; elsewhere a few, because a server takes its time for each step."""
FEW = 12
HELD = (State.CLAIMED, State.RUNNING)
OUTCOMES: Sequence[Outcome] = (
    Completed(None),
    Completed('"a result"'),
    Errored(OOPS),
    Errored(OOPS, timedelta(0)),
    Failed(OOPS),
    Crashed(OOPS),
    SharedCrash(OOPS),
    Interrupted(OOPS),
    Released(),
    Released(timedelta(seconds=30), OOPS),
    Snoozed(timedelta(seconds=20)),
    Stopped(),
)
numbers = count()


class Histories(RuleBasedStateMachine):
    """One history in a queue of its own."""

    store: Backend
    clock: Clock
    runner: asyncio.Runner

    ids = Bundle("ids")
    claims = Bundle("claims")
    """What engines were once given; they may try to write it whatever has become of the job."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, JobRecord] = {}
        self.deleted: set[int] = set()
        self.queue = f"q{next(numbers)}"
        self.leases = count()

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.runner.run(run())

    @initialize()
    def there_is_a_queue(self) -> None:
        self.do(self.store.create_queue(QueueRecord(self.queue)))

    # What people do

    @rule(target=ids, priority=st.integers(-1, 1), delay=st.sampled_from([0, 0, 5]), most=st.integers(1, 3))
    def enqueue(self, priority: int, delay: int, most: int) -> int:
        job = NewJob(
            "shop:pay",
            queue=self.queue,
            priority=priority,
            delay=timedelta(seconds=delay) if delay else None,
            max_attempts=most,
        )
        (id,) = self.do(self.store.insert([job], QueueRecord("*")))
        record = self.do(self.store.get(id))
        assert record is not None
        assert (record.state, record.attempt, record.priority, record.max_attempts) == (State.WAITING, 0, priority, most)
        assert record.available_at == self.clock.time + timedelta(seconds=delay)
        self.model[id] = record
        return id

    @rule(id=ids)
    def cancel(self, id: int) -> None:
        if id in self.deleted:
            with pytest.raises(JobNotFound):
                self.do(moves.cancel(self.store, id))
            return
        change = transitions.cancel(self.model[id], self.clock.time)
        expected = "too_late" if change is None else "canceled" if change.state else "requested"
        assert self.do(moves.cancel(self.store, id)) == expected
        if change is not None:
            self.expect(change, written=True)

    @rule(id=ids, which=st.sampled_from(["retry", "run_now", "snooze"]))
    def move(self, id: int, which: str) -> None:
        def transition(record: JobRecord, now: Any) -> Change:
            match which:
                case "retry":
                    return transitions.retry(record, now)
                case "run_now":
                    return transitions.run_now(record, now)
                case _:
                    return transitions.snooze(record, timedelta(seconds=7), now)

        if id in self.deleted:
            with pytest.raises(JobNotFound):
                self.do(moves.move(self.store, id, transition))
            return
        try:
            change = transition(self.model[id], self.clock.time)
        except JobStateError:
            with pytest.raises(JobStateError):
                self.do(moves.move(self.store, id, transition))
        else:
            self.do(moves.move(self.store, id, transition))
            self.expect(change, written=True)

    @rule(id=ids)
    def delete(self, id: int) -> None:
        may = id in self.model and self.model[id].state not in HELD
        assert self.do(self.store.delete([id])) == (frozenset({id}) if may else frozenset())
        if may:
            del self.model[id]
            self.deleted.add(id)

    # What engines do

    @rule(target=claims, engine=st.sampled_from(["a", "b"]), room=st.integers(1, 3))
    def claim(self, engine: str, room: int) -> Any:
        self.do(self.store.promote(100))
        due = [job for job in self.model.values() if job.state is State.WAITING and job.available_at <= self.clock.time]
        due.sort(key=lambda job: (-job.priority, job.available_at, job.id))
        lease = f"l{next(self.leases)}"
        held = self.do(self.store.claim(f"{engine}-{self.queue}", lease, {self.queue: room}))
        assert [job.id for job in held] == [job.id for job in due[:room]]
        for job, was in zip(held, due, strict=False):
            assert (job.lease, job.attempt) == (lease, was.attempt + 1)
            self.model[job.id] = replace(
                was, state=State.CLAIMED, attempt=was.attempt + 1, lease=lease, engine=f"{engine}-{self.queue}",
                claimed_at=self.clock.time, started_at=None, progress=None,
            )  # fmt: skip
        return multiple(*held)

    @rule(job=claims)
    def start(self, job: ClaimedJob) -> None:
        self.write(transitions.start(job, self.clock.time))

    @rule(job=claims, outcome=st.sampled_from(OUTCOMES), seed=st.integers(0, 3))
    def finish(self, job: ClaimedJob, outcome: Outcome, seed: int) -> None:
        """Early or late, first or again, with a lease that holds or one that others have broken."""
        started = self.clock.time if outcome != Released() else None
        self.write(transitions.finish(job, outcome, started, self.clock.time, Random(seed)))

    @rule(jobs=st.lists(claims, min_size=2, max_size=4, unique_by=lambda job: job.id), outcome=st.sampled_from(OUTCOMES))
    def finish_some(self, jobs: list[ClaimedJob], outcome: Outcome) -> None:
        """In one batch, where what is refused holds up nothing else."""
        changes = [transitions.finish(job, outcome, None, self.clock.time, Random(1)) for job in jobs]
        holding = {change.id for change in changes if self.fence_holds(change)}
        assert self.do(self.store.apply(changes)) == {change.id for change in changes} - holding
        for change in changes:
            self.expect(change, written=change.id in holding)

    @rule(engine=st.sampled_from(["a", "b"]))
    def rescue(self, engine: str) -> None:
        """An engine has died, and another gives its jobs back."""
        name = f"{engine}-{self.queue}"
        held = self.do(self.store.held_by(name, 100))
        mine = sorted(job.id for job in self.model.values() if job.state in HELD and job.engine == name)
        assert [job.id for job in held] == mine
        for job in held:
            canceled = self.model[job.id].cancel_requested_at is not None
            self.write(transitions.finish(job, Stopped() if canceled else Interrupted(OOPS), None, self.clock.time, Random(2)))

    @rule(engine=st.sampled_from(["a", "b"]))
    def look_for_cancels(self, engine: str) -> None:
        name = f"{engine}-{self.queue}"
        asked = [
            job.id for job in self.model.values()
            if job.state in HELD and job.engine == name and job.cancel_requested_at is not None
        ]  # fmt: skip
        assert sorted(self.do(self.store.cancel_requests(name))) == sorted(asked)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    def time_goes_on(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    # What must be so

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        ids = [*self.model, *self.deleted]
        found = {job.id: job for job in self.do(self.store.get_many(ids))}
        assert found == self.model
        for job in found.values():
            assert 0 <= job.attempt <= job.max_attempts
            assert (job.finished_at is not None) == (job.state in FINAL)
            assert job.cancel_requested_at is None or job.state in HELD

    def write(self, change: Change) -> None:
        holds = self.fence_holds(change)
        assert self.do(self.store.apply([change])) == (frozenset() if holds else frozenset({change.id}))
        self.expect(change, written=holds)

    def fence_holds(self, change: Change) -> bool:
        job = self.model.get(change.id)
        if job is None or job.state not in change.before or job.lease != change.lease:
            return False
        return not (change.state is State.WAITING and job.cancel_requested_at is not None)

    def expect(self, change: Change, *, written: bool) -> None:
        if not written:
            return
        names = {"errors": "errors_json", "result": "result_json"}
        columns: dict[str, Any] = {names.get(name, name): value for name, value in change.columns.items()}
        job = replace(self.model[change.id], **columns)
        self.model[change.id] = job if change.state is None else replace(job, state=change.state)


def test_every_history_ends_as_the_model_says(backend_class: type[Backend], url: str, clock: Clock, database: str) -> None:
    examples = EXAMPLES.get(database, FEW)
    with asyncio.Runner() as runner:
        store = backend_class(DatabaseURL.parse(url), "engine", clock=clock)
        runner.run(store.open())
        try:
            runner.run(store.migrate())
            histories = type("Histories", (Histories,), {"store": store, "clock": clock, "runner": runner})
            run_state_machine_as_test(
                histories,
                settings=settings(
                    max_examples=examples, stateful_step_count=40, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )  # fmt: skip
        finally:
            runner.run(store.close())
