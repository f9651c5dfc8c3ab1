"""What people may ask and do: arguments are judged before the store is asked anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from sidequest.app import operations
from sidequest.app.operations import GAP_LIFE, MOST_GAPS, WATCH_INTERVAL, JobsOperations, QueuesOperations
from sidequest.backends.base import Backend, Bucket, JobFilter
from sidequest.errors import JobNotFound, JobStateError, QueueNotFound
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.unit.engine import virtual_time
from tests.unit.engine.fakes import stored
from tests.unit.engine.virtual_time import settle

NOW = datetime(2026, 11, 23, 12, 0, 7, tzinfo=UTC)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return virtual_time.BACKEND


@pytest.fixture(autouse=True)
def _virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "monotonic", virtual_time.monotonic)


class AskedStore:
    """Remembers what it was asked; knows no jobs and one queue."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def now(self) -> datetime:
        return NOW

    async def get(self, id: int) -> JobRecord | None:
        self.asked.append(("get", id))
        return None

    async def apply(self, changes: Sequence[Change]) -> frozenset[int]:
        raise AssertionError("there is nothing to write")

    async def list_jobs(self, which: JobFilter, limit: int, before: int | None) -> Sequence[JobRecord]:
        self.asked.append(("list", which, limit, before))
        return []

    async def count(self, which: JobFilter) -> dict[State, int]:
        self.asked.append(("count", which))
        return {}

    async def count_over_time(self, start: datetime, width: timedelta, buckets: int, queue: str | None) -> Sequence[Bucket]:
        self.asked.append(("over time", start, width, buckets, queue))
        return []

    async def delete(self, ids: Sequence[int]) -> frozenset[int]:
        self.asked.append(("delete", *ids))
        return frozenset()

    async def get_queue(self, name: str) -> QueueRecord | None:
        self.asked.append(("get queue", name))
        return QueueRecord(name) if name == "mail" else None

    async def create_queue(self, queue: QueueRecord) -> bool:
        self.asked.append(("create", queue))
        return queue.name != "mail"

    async def update_queue(self, name: str, **settings: Any) -> QueueRecord | None:
        self.asked.append(("update", name, {key: value for key, value in settings.items() if value is not None}))
        return QueueRecord(name) if name == "mail" else None

    async def purge_queue(self, name: str) -> int:
        self.asked.append(("purge", name))
        return 3


class Desk:
    def __init__(self) -> None:
        self.store = AskedStore()
        self.woken: list[str] = []
        store = cast("Callable[[], Backend]", lambda: self.store)
        self.jobs = JobsOperations(store, lambda: self.woken.append("enqueued"), lambda: self.woken.append("canceled"))
        self.queues = QueuesOperations(store, lambda: self.woken.append("changed"), QueueRecord("*", 4, 2))


@pytest.fixture
def desk() -> Desk:
    return Desk()


Ask = Callable[[Desk], Awaitable[object]]


async def test_a_list_without_conditions_is_the_newest_fifty(desk: Desk) -> None:
    await desk.jobs.list()
    assert desk.store.asked == [("list", JobFilter(), 50, None)]


async def test_a_list_hands_all_conditions_to_the_store(desk: Desk) -> None:
    await desk.jobs.list(
        state="failed", queue="mail", name="shop:send", tag="a", text="50%", since=NOW, until=NOW, limit=7, before=9
    )
    which = JobFilter((State.FAILED,), "mail", "shop:send", "a", "50%", NOW, NOW)
    assert desk.store.asked == [("list", which, 7, 9)]


@pytest.mark.parametrize("states", [State.FAILED, "failed", ["failed"], (State.FAILED,)])
async def test_a_state_may_be_given_in_many_ways(desk: Desk, states: Any) -> None:
    await desk.jobs.list(state=states)
    assert desk.store.asked[0][1].states == (State.FAILED,)


async def test_counting_over_time_ends_with_the_stretch_that_is_under_way(desk: Desk) -> None:
    await desk.jobs.count_over_time(60, 12, queue="mail")
    minute = timedelta(minutes=1)
    assert desk.store.asked == [("over time", NOW.replace(second=0) - 11 * minute, minute, 12, "mail")]


WRONG: list[tuple[Ask, type[Exception], str]] = [
    (lambda desk: desk.jobs.get(0), ValueError, "id must be between 1 and"),
    (lambda desk: desk.jobs.get(True), TypeError, "id must be an integer"),
    (lambda desk: desk.jobs.get("7"), TypeError, "id must be an integer"),  # type: ignore[arg-type]
    (lambda desk: desk.jobs.cancel(-1), ValueError, "id must be between"),
    (lambda desk: desk.jobs.retry(2**63), ValueError, "id must be between"),
    (lambda desk: desk.jobs.run_now(0), ValueError, "id must be between"),
    (lambda desk: desk.jobs.delete(0), ValueError, "id must be between"),
    (lambda desk: desk.jobs.snooze(0, 5), ValueError, "id must be between"),
    (lambda desk: desk.jobs.snooze(1, -5), ValueError, "delay must be 0 seconds up to a century"),
    (lambda desk: desk.jobs.snooze(1, "5"), TypeError, "delay must be a number of seconds"),  # type: ignore[arg-type]
    (lambda desk: desk.jobs.list(state="done"), ValueError, "state must be one of 'waiting'"),
    (lambda desk: desk.jobs.list(state="cancelled"), ValueError, "did you mean 'canceled'"),
    (lambda desk: desk.jobs.list(state=7), TypeError, "state must be a state or a sequence"),  # type: ignore[arg-type]
    (lambda desk: desk.jobs.list(state=[7]), TypeError, "state must be a string"),  # type: ignore[list-item]
    (lambda desk: desk.jobs.list(queue="a b"), ValueError, "queue must be 1 to 100 letters"),
    (lambda desk: desk.jobs.list(name=""), ValueError, "name must be 1 to 200 letters"),
    (lambda desk: desk.jobs.list(tag="a,b"), ValueError, "tag must be"),
    (lambda desk: desk.jobs.list(text=""), ValueError, "text must not be empty"),
    (lambda desk: desk.jobs.list(text="\0"), ValueError, "text must not contain NUL"),
    (lambda desk: desk.jobs.list(since=datetime(2026, 1, 1)), ValueError, "since must carry a time zone"),  # noqa: DTZ001
    (lambda desk: desk.jobs.list(until="now"), TypeError, "until must be a datetime"),  # type: ignore[arg-type]
    (lambda desk: desk.jobs.list(limit=0), ValueError, "limit must be between 1 and 1000"),
    (lambda desk: desk.jobs.list(limit=1_001), ValueError, "limit must be between 1 and 1000"),
    (lambda desk: desk.jobs.list(before=0), ValueError, "before must be between"),
    (lambda desk: desk.jobs.count(queue="é"), ValueError, "queue must be"),
    (lambda desk: desk.jobs.count_over_time(0.5), ValueError, "width must be at least 1 second, not 0.5"),
    (lambda desk: desk.jobs.count_over_time(60, 0), ValueError, "buckets must be between 1 and 1000"),
    (lambda desk: desk.jobs.count_over_time(60, 5, queue=""), ValueError, "queue must be"),
    (lambda desk: anext(desk.jobs.watch(queue="a b")), ValueError, "queue must be"),
    (lambda desk: desk.queues.get(""), ValueError, "name must be"),
    (lambda desk: desk.queues.pause("a b"), ValueError, "name must be"),
    (lambda desk: desk.queues.purge("a b"), ValueError, "name must be"),
    (lambda desk: desk.queues.set("mail"), TypeError, "nothing to change"),
    (lambda desk: desk.queues.set("mail", concurrency=0), ValueError, "concurrency must be between 1 and 100000"),
    (lambda desk: desk.queues.set("mail", priority=2**31), ValueError, "priority must be between"),
    (lambda desk: desk.queues.create("a b"), ValueError, "name must be"),
    (lambda desk: desk.queues.create("new", concurency=3), TypeError, "did you mean 'concurrency'"),  # type: ignore[call-arg]
    (lambda desk: desk.queues.create("new", paused=1), TypeError, "paused must be True or False"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("ask", "error", "message"), WRONG)
async def test_a_wrong_argument_is_named_and_the_store_is_not_asked(
    desk: Desk, ask: Ask, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await ask(desk)
    assert (desk.store.asked, desk.woken) == ([], [])


MOVES: list[Ask] = [
    lambda desk: desk.jobs.get(7),
    lambda desk: desk.jobs.cancel(7),
    lambda desk: desk.jobs.retry(7),
    lambda desk: desk.jobs.run_now(7),
    lambda desk: desk.jobs.snooze(7, 5),
    lambda desk: desk.jobs.delete(7),
]


@pytest.mark.parametrize("ask", MOVES)
async def test_a_job_that_does_not_exist_is_told_and_nobody_is_woken(desk: Desk, ask: Ask) -> None:
    with pytest.raises(JobNotFound, match="job 7 does not exist"):
        await ask(desk)
    assert desk.woken == []


async def test_a_job_that_an_engine_holds_cannot_be_deleted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        state = State.RUNNING

    async def get(id: int) -> Held:
        return Held()

    monkeypatch.setattr(desk.store, "get", get)
    with pytest.raises(JobStateError, match="job 7 is running: cancel it first"):
        await desk.jobs.delete(7)


async def test_a_new_queue_takes_what_was_not_given_from_the_defaults(desk: Desk) -> None:
    assert await desk.queues.create("new", priority=9) == QueueRecord("new", 4, 9)


async def test_a_queue_is_created_once(desk: Desk) -> None:
    with pytest.raises(ValueError, match="queue 'mail' exists already; use set"):
        await desk.queues.create("mail")


async def test_only_what_is_given_is_changed_and_engines_are_told(desk: Desk) -> None:
    await desk.queues.set("mail", priority=0)
    await desk.queues.pause("mail")
    await desk.queues.resume("mail")
    assert desk.store.asked == [
        ("update", "mail", {"priority": 0}),
        ("update", "mail", {"paused": True}),
        ("update", "mail", {"paused": False}),
    ]
    assert desk.woken == ["changed"] * 3


QUEUE_MOVES: list[Ask] = [
    lambda desk: desk.queues.get("gone"),
    lambda desk: desk.queues.set("gone", priority=1),
    lambda desk: desk.queues.pause("gone"),
    lambda desk: desk.queues.resume("gone"),
    lambda desk: desk.queues.purge("gone"),
]


@pytest.mark.parametrize("ask", QUEUE_MOVES)
async def test_a_queue_that_does_not_exist_is_told(desk: Desk, ask: Ask) -> None:
    with pytest.raises(QueueNotFound, match="queue 'gone' does not exist"):
        await ask(desk)


async def test_purging_says_how_many_jobs_were_deleted(desk: Desk) -> None:
    assert await desk.queues.purge("mail") == 3


# Watching


class Stream:
    """A store whose jobs become visible when the test says so."""

    def __init__(self, *ids: int) -> None:
        self.jobs = {id: stored(id, State.WAITING) for id in ids}
        self.asked: list[str] = []

    async def last_id(self) -> int:
        return max(self.jobs, default=0)

    async def get_many(self, ids: Iterable[int]) -> Sequence[JobRecord]:
        self.asked.append(f"get {len(list(ids))}")
        return [self.jobs[id] for id in sorted(ids) if id in self.jobs]

    async def list_after(self, id: int, queue: str | None, limit: int) -> Sequence[JobRecord]:
        assert queue is None
        return [self.jobs[found] for found in sorted(self.jobs) if found > id][:limit]

    def commit(self, *ids: int, **changes: Any) -> None:
        self.jobs |= {id: stored(id, changes.pop("state", State.WAITING), **changes) for id in ids}


class Watcher:
    """Somebody who watches a stream for as long as the block lasts."""

    def __init__(self, stream: Stream, queue: str | None = None) -> None:
        self.seen: list[int] = []
        operations = JobsOperations(cast("Callable[[], Backend]", lambda: stream), lambda: None, lambda: None)
        self._records = operations.watch(queue=queue)

    async def _follow(self) -> None:
        async for record in self._records:
            self.seen.append(record.id)

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._follow())
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_what_is_there_already_is_not_shown() -> None:
    stream = Stream(*range(1, 3_000))
    async with Watcher(stream) as watcher:
        stream.commit(3_000, 3_001)
        await asyncio.sleep(WATCH_INTERVAL)
        assert watcher.seen == [3_000, 3_001]


async def test_a_job_that_appears_after_later_ones_is_shown_all_the_same() -> None:
    stream = Stream(1)
    async with Watcher(stream) as watcher:
        stream.commit(3, 5)
        await asyncio.sleep(WATCH_INTERVAL)
        stream.commit(4, 6)
        await asyncio.sleep(GAP_LIFE - 2 * WATCH_INTERVAL)
        stream.commit(2)
        await asyncio.sleep(2 * WATCH_INTERVAL)
        assert watcher.seen == [3, 5, 4, 6, 2]


async def test_a_job_that_was_being_enqueued_when_watching_began_is_shown() -> None:
    stream = Stream(1, 3)
    async with Watcher(stream) as watcher:
        stream.commit(2)
        await asyncio.sleep(WATCH_INTERVAL)
        assert watcher.seen == [2]


async def test_a_gap_that_is_never_filled_is_forgotten() -> None:
    stream = Stream(1)
    async with Watcher(stream):
        stream.commit(1_000_000, state=State.COMPLETED)
        await asyncio.sleep(2 * WATCH_INTERVAL)
        assert stream.asked[-1] == f"get {MOST_GAPS}"
        await asyncio.sleep(2 * GAP_LIFE)
        assert stream.asked[-2:] == ["get 0", "get 0"]


async def test_each_state_of_a_job_is_shown_once() -> None:
    stream = Stream()
    async with Watcher(stream) as watcher:
        stream.commit(1)
        await asyncio.sleep(3)
        stream.commit(1, state=State.RUNNING)
        await asyncio.sleep(3)
        stream.commit(1, state=State.COMPLETED)
        await asyncio.sleep(3)
        assert watcher.seen == [1, 1, 1]


async def test_only_the_queue_that_is_asked_for_is_shown() -> None:
    stream = Stream()
    async with Watcher(stream, "mail") as watcher:
        stream.commit(1, 3, queue="mail")
        stream.commit(4, queue="reports")
        await asyncio.sleep(WATCH_INTERVAL)
        stream.commit(2, queue="reports")
        stream.commit(5, queue="mail")
        await asyncio.sleep(WATCH_INTERVAL)
        assert watcher.seen == [1, 3, 5]


async def test_a_flood_is_shown_in_full() -> None:
    stream = Stream()
    async with Watcher(stream) as watcher:
        stream.commit(*range(1, 5_000), state=State.COMPLETED)
        await asyncio.sleep(WATCH_INTERVAL)
        assert watcher.seen == [*range(1, 5_000)]
