"""Which enqueues share a statement, and that nothing else is shared."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, cast

import pytest

from sidequest.backends.base import Backend
from sidequest.backends.joined import MOST, MOST_LETTERS, JoinedInserts
from sidequest.errors import BackendFull, BackendUnavailable
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from tests.unit.engine.virtual_time import settle

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class Store:
    """Stores what it is given when the test lets it; refuses a job that is named so."""

    def __init__(self) -> None:
        self.statements: list[list[str]] = []
        self.stored: dict[str, int] = {}
        self.told: list[int] = []
        self.may_end = asyncio.Event()
        self.error: Exception | None = None
        self.deadlines: set[float | None] = set()

    async def insert(self, jobs: Sequence[NewJob], queue_defaults: QueueRecord) -> Sequence[int]:
        assert queue_defaults == QueueRecord("*")
        self.statements.append([job.name for job in jobs])
        self.deadlines.add(deadline.get())
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        if bad := [job.name for job in jobs if "bad" in job.name]:
            raise ValueError(f"refused: {', '.join(bad)}")
        for job in jobs:
            self.stored[job.name] = len(self.stored) + 1
        return [self.stored[job.name] for job in jobs]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def joined(store: Store) -> JoinedInserts:
    return JoinedInserts(cast("Backend", store), QueueRecord("*"), lambda: store.told.append(len(store.stored)))


def start(joined: JoinedInserts, *names: str, args: str = "{}") -> list[asyncio.Task[int]]:
    return [asyncio.create_task(joined.insert(NewJob(name, args))) for name in names]


async def answers(tasks: Sequence[asyncio.Task[int]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_is_alone_goes_at_once(store: Store, joined: JoinedInserts) -> None:
    tasks = start(joined, "a")
    await settle()
    assert store.statements == [["a"]]
    store.may_end.set()
    assert await answers(tasks) == [1]
    assert await answers(start(joined, "b")) == [2]
    assert store.statements == [["a"], ["b"]]


async def test_those_that_come_meanwhile_are_the_next_statement_in_their_order(store: Store, joined: JoinedInserts) -> None:
    first = start(joined, "a")
    await settle()
    others = start(joined, "b", "c", "d")
    await settle()
    assert store.statements == [["a"]]
    store.may_end.set()
    assert await answers([*first, *others]) == [1, 2, 3, 4]
    assert store.statements == [["a"], ["b", "c", "d"]]


async def test_those_that_begin_at_the_same_moment_are_one_statement(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    assert await answers(start(joined, "a", "b", "c")) == [1, 2, 3]
    assert store.statements == [["a", "b", "c"]]


async def test_a_statement_holds_so_many_jobs_and_no_more(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    names = [f"n{n}" for n in range(2 * MOST + 1)]
    assert await answers(start(joined, *names)) == list(range(1, 2 * MOST + 2))
    assert [len(names) for names in store.statements] == [MOST, MOST, 1]


async def test_a_statement_holds_so_many_letters_and_no_more(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    await answers(start(joined, "a", "b", "c", "d", "e", args="x" * (MOST_LETTERS // 2)))
    assert store.statements == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_job_with_more_letters_than_a_statement_goes_alone(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    await answers([*start(joined, "a"), *start(joined, "long", args="x" * (MOST_LETTERS + 1)), *start(joined, "b")])
    assert store.statements == [["a"], ["long"], ["b"]]


@pytest.mark.parametrize("place", range(5))
async def test_a_job_that_is_refused_fails_alone(store: Store, joined: JoinedInserts, place: int) -> None:
    store.may_end.set()
    names = ["a", "b", "c", "d"]
    names.insert(place, "bad")
    found = dict(zip(names, await answers(start(joined, *names)), strict=True))
    assert repr(found.pop("bad")) == "ValueError('refused: bad')"
    assert found == {"a": 1, "b": 2, "c": 3, "d": 4} == store.stored


async def test_each_refused_job_has_an_error_of_its_own(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    one, a, other = await answers(start(joined, "bad1", "a", "bad2"))
    assert (str(one), a, str(other)) == ("refused: bad1", 1, "refused: bad2")


async def test_what_says_that_the_database_is_away_is_said_to_all_and_nothing_is_sent_again(
    store: Store, joined: JoinedInserts
) -> None:
    store.may_end.set()
    store.error = BackendFull("the disk is full")
    store.error.__cause__ = OSError(28)
    store.error.add_note("look there")
    found = await answers(start(joined, "a", "b", "c"))
    assert store.statements == [["a", "b", "c"]]
    assert [repr(error) for error in found] == ["BackendFull('the disk is full')"] * 3
    assert len({id(error) for error in found}) == 3
    assert {(error.__cause__, tuple(error.__notes__)) for error in found} == {(store.error.__cause__, ("look there",))}


async def test_a_traceback_leads_from_its_own_caller_to_the_store(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    store.error = BackendUnavailable("away")

    async def shop(name: str) -> None:
        await joined.insert(NewJob(name))

    for error in await answers([asyncio.create_task(cast("Coroutine[Any, Any, int]", shop(name))) for name in "abc"]):
        frames: list[str] = []
        trace = error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert (frames.count("shop"), frames[-1]) == (1, "insert")
        assert frames.count("_write") == 1


async def test_after_an_error_others_are_stored(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    store.error = BackendUnavailable("away")
    await answers(start(joined, "a", "b"))
    store.error = None
    assert await answers(start(joined, "c")) == [1]


async def test_who_is_cancelled_while_waiting_is_not_stored(store: Store, joined: JoinedInserts) -> None:
    tasks = start(joined, "a", "b")
    await settle()
    late = start(joined, "c", "d", "e")
    await settle()
    late[1].cancel()
    await settle()
    assert late[1].cancelled()
    store.may_end.set()
    assert await answers([*tasks, late[0], late[2]]) == [1, 2, 3, 4]
    assert store.statements == [["a", "b"], ["c", "e"]]


@pytest.mark.parametrize("times", [1, 3])
async def test_who_is_cancelled_on_the_way_is_stored_first(store: Store, joined: JoinedInserts, times: int) -> None:
    tasks = start(joined, "a", "b", "c")
    await settle()
    for _ in range(times):
        tasks[1].cancel()
        await settle()
    assert not tasks[1].done()
    store.may_end.set()
    assert await answers([tasks[0], tasks[2]]) == [1, 3]
    await asyncio.wait([tasks[1]])
    assert tasks[1].cancelled()
    assert store.stored == {"a": 1, "b": 2, "c": 3}


async def test_who_is_cancelled_between_the_answer_and_its_own_turn_leaves_at_once(store: Store) -> None:
    joined = JoinedInserts(cast("Backend", store), QueueRecord("*"), lambda: task.cancel() and None)
    [task] = start(joined, "a")
    store.may_end.set()
    async with asyncio.timeout(1):
        await asyncio.wait([task])
    assert task.cancelled()
    assert store.stored == {"a": 1}


async def test_when_all_who_waited_are_cancelled_no_statement_is_sent(store: Store, joined: JoinedInserts) -> None:
    [first] = start(joined, "a")
    await settle()
    late = start(joined, "b", "c")
    await settle()
    for task in late:
        task.cancel()
    store.may_end.set()
    assert await answers([first]) == [1]
    await joined.drain(1)
    assert store.statements == [["a"]]
    assert await answers(start(joined, "d")) == [2]


async def test_a_cancelled_one_that_is_refused_harms_nobody(store: Store, joined: JoinedInserts) -> None:
    tasks = start(joined, "a", "bad")
    await settle()
    tasks[1].cancel()
    store.may_end.set()
    assert await answers(tasks[:1]) == [1]
    await asyncio.wait(tasks[1:])
    assert tasks[1].cancelled()


async def test_nobodys_context_is_everybodys(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    deadline.set(0.1)
    await answers(start(joined, "a", "b"))
    assert store.deadlines == {None}


async def test_engines_are_told_once_for_each_commit_before_the_callers_go_on(store: Store, joined: JoinedInserts) -> None:
    store.may_end.set()
    seen: list[int] = []

    async def enqueue(name: str) -> None:
        await joined.insert(NewJob(name))
        seen.append(len(store.told))

    await asyncio.gather(*map(enqueue, "abc"))
    assert (store.told, seen) == ([3], [1, 1, 1])


async def test_engines_are_told_of_a_job_whose_caller_was_cancelled_and_of_none_that_was_refused(
    store: Store, joined: JoinedInserts
) -> None:
    tasks = start(joined, "a")
    await settle()
    tasks[0].cancel()
    store.may_end.set()
    await asyncio.wait(tasks)
    await answers(start(joined, "bad"))
    assert store.told == [1]


async def test_a_drain_ends_when_all_that_came_is_stored(store: Store, joined: JoinedInserts) -> None:
    await joined.drain(1)
    first = start(joined, "a")
    await settle()
    others = start(joined, "b", "c")
    draining = asyncio.create_task(joined.drain(60))
    await settle()
    assert not draining.done()
    store.may_end.set()
    await draining
    assert store.stored == {"a": 1, "b": 2, "c": 3}
    assert await answers([*first, *others]) == [1, 2, 3]


async def test_a_drain_does_not_wait_for_ever(store: Store, joined: JoinedInserts) -> None:
    tasks = start(joined, "a")
    await settle()
    await joined.drain(0.01)
    assert not tasks[0].done()
    store.may_end.set()
    assert await answers(tasks) == [1]


async def alone(store: Store, joined: JoinedInserts) -> None:
    """One job has been stored that had no company."""
    store.may_end.set()
    await answers(start(joined, "before"))
    store.may_end.clear()


async def test_after_one_that_was_alone_those_who_come_meanwhile_still_share_the_next_statement(
    store: Store, joined: JoinedInserts
) -> None:
    await alone(store, joined)
    first = start(joined, "a", "b", "c")
    await settle()
    late = start(joined, "d")
    await settle()
    store.may_end.set()
    assert await answers([*first, *late]) == [2, 3, 4, 5]
    assert store.statements == [["before"], ["a"], ["b", "c", "d"]]
    assert await answers(start(joined, "e", "f")) == [6, 7]
    assert store.statements[3:] == [["e", "f"]]


async def test_one_after_the_other_is_alone_each_time(store: Store, joined: JoinedInserts) -> None:
    await alone(store, joined)
    store.may_end.set()
    assert [await joined.insert(NewJob(name)) for name in "abc"] == [2, 3, 4]
    assert store.told == [1, 2, 3, 4]


async def test_the_error_of_one_that_is_alone_is_its_own(store: Store, joined: JoinedInserts) -> None:
    await alone(store, joined)
    first = start(joined, "bad", "b")
    await settle()
    store.may_end.set()
    refused, b = await answers(first)
    assert (str(refused), b) == ("refused: bad", 2)
    assert store.told == [1, 2]


async def test_when_one_that_is_alone_is_cancelled_engines_are_told_and_others_go_on(
    store: Store, joined: JoinedInserts
) -> None:
    await alone(store, joined)
    first, other = start(joined, "a", "b")
    await settle()
    first.cancel()
    store.may_end.set()
    assert await answers([other]) == [2]
    assert first.cancelled()
    assert len(store.told) == 3


async def test_a_drain_waits_for_one_that_is_alone_and_for_those_behind_it(store: Store, joined: JoinedInserts) -> None:
    await alone(store, joined)
    tasks = start(joined, "a", "b")
    await settle()
    await joined.drain(0.01)
    assert not any(task.done() for task in tasks)
    draining = asyncio.create_task(joined.drain(60))
    await settle()
    store.may_end.set()
    await draining
    assert store.stored == {"before": 1, "a": 2, "b": 3}
    assert await answers(tasks) == [2, 3]


def test_when_the_loop_is_torn_down_nobody_is_left_waiting() -> None:
    outcomes: list[str] = []

    async def main() -> None:
        store = Store()
        joined = JoinedInserts(cast("Backend", store), QueueRecord("*"), lambda: None)

        async def enqueue(name: str) -> None:
            try:
                await joined.insert(NewJob(name))
            except asyncio.CancelledError:
                outcomes.append(name)
                raise

        tasks = [asyncio.create_task(enqueue(name)) for name in "ab"]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(enqueue("late")))
        await asyncio.sleep(0.01)
        assert [task.done() for task in tasks] == [False] * 3

    asyncio.run(main())
    assert sorted(outcomes) == ["a", "b", "late"]
