"""Changes on their way into the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import anyio
import pytest

from sidequest.engine.outbox import BATCH, FULL, FULL_BYTES, PATIENCE, SPOOL_AFTER, Entry, Outbox, ended
from sidequest.engine.spool import Spool
from sidequest.errors import SchemaMismatch
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.unit.engine.fakes import FakeStore, claimed
from tests.unit.engine.virtual_time import settle


@dataclass
class Post:
    """An outbox, and what it told."""

    store: FakeStore = field(default_factory=FakeStore)
    written: list[int] = field(default_factory=list[int])
    refused: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            self.store.backend,
            lambda entries: self.written.extend(entry.job.id for entry in entries),
            lambda entry: self.refused.append(entry.job.id),
        )

    def end(self, *ids: int) -> None:
        for id in ids:
            self.outbox.put([Entry.of(claimed(id), end(id))])

    @property
    def applied(self) -> list[list[Change]]:
        return [list(changes) for changes in self.store.applied]


def start(id: int) -> Change:
    return Change(id, "lease-1", (State.CLAIMED,), State.RUNNING, {"started_at": 1})


def end(id: int, **columns: object) -> Change:
    return Change(id, "lease-1", (State.CLAIMED, State.RUNNING), State.COMPLETED, {"result": "1"} | columns)


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.outbox.run)
        yield made
        tasks.cancel_scope.cancel()


async def test_a_change_is_written_at_once(post: Post) -> None:
    post.end(1)
    await settle()
    assert (post.applied, post.written) == ([[end(1)]], [1])


async def test_a_start_is_written(post: Post) -> None:
    post.outbox.put_start(claimed(1), start(1))
    await settle()
    assert post.applied == [[start(1)]]


async def test_an_end_takes_the_place_of_a_start_that_was_not_written_yet(post: Post) -> None:
    post.outbox.put_start(claimed(1), start(1))
    post.end(1)
    await settle()
    assert post.applied == [[end(1)]]


async def test_starts_are_written_before_ends(post: Post) -> None:
    post.end(1)
    post.outbox.put_start(claimed(2), start(2))
    await settle()
    assert post.applied == [[start(2)], [end(1)]]


async def test_a_report_is_stored_under_its_lease(post: Post) -> None:
    post.outbox.put_progress(claimed(1), "half")
    await settle()
    assert post.store.progress == [(1, "lease-1", "half")]


async def test_of_two_reports_the_latest_is_stored(post: Post) -> None:
    post.outbox.put_progress(claimed(1), "half")
    post.outbox.put_progress(claimed(1), "most")
    await settle()
    assert post.store.progress == [(1, "lease-1", "most")]


async def test_the_latest_report_goes_with_the_end(post: Post) -> None:
    post.outbox.put_progress(claimed(1), "all")
    post.end(1)
    await settle()
    assert (post.applied, post.store.progress) == ([[end(1, progress="all")]], [])


async def test_a_report_of_an_earlier_attempt_does_not_go_with_the_end(post: Post) -> None:
    post.outbox.put_progress(claimed(1, lease="earlier"), "old")
    post.end(1)
    await settle()
    assert (post.applied, post.store.progress) == ([[end(1)]], [])


async def test_a_report_that_cannot_be_stored_is_let_go(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    post.store.away = True
    post.outbox.put_progress(claimed(1), "half")
    await settle()
    post.store.away = False
    post.end(2)
    await post.outbox.emptied()
    assert (post.written, post.store.progress) == ([2], [])
    assert "progress of 1 jobs was not stored: the database is away" in caplog.text


async def test_many_changes_go_in_batches_in_the_order_in_which_they_came(post: Post) -> None:
    post.end(*range(1, 2 * BATCH + 2))
    await post.outbox.emptied()
    assert [len(batch) for batch in post.applied] == [BATCH, BATCH, 1]
    assert post.written == list(range(1, 2 * BATCH + 2))


async def test_changes_that_follow_a_flush_closely_are_gathered(post: Post) -> None:
    post.end(1)
    await settle()
    post.end(2)
    await settle()
    post.end(3)
    await post.outbox.emptied()
    assert post.applied == [[end(1)], [end(2), end(3)]]


async def test_a_refused_change_is_told_and_does_not_count_as_written(post: Post) -> None:
    post.store.refuse = frozenset({2})
    post.end(1, 2, 3)
    await post.outbox.emptied()
    assert (post.written, post.refused) == ([1, 3], [2])


async def test_what_is_put_while_a_refusal_is_told_is_written_as_well() -> None:
    store = FakeStore()
    store.refuse = frozenset({1})

    def again(entry: Entry) -> None:
        store.refuse = frozenset()
        outbox.put([Entry.of(entry.job, end(1, again=True))])

    outbox = Outbox(store.backend, lambda entries: None, again)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        outbox.put([Entry.of(claimed(1), end(1))])
        await outbox.emptied()
        tasks.cancel_scope.cancel()
    assert store.applied == [[end(1)], [end(1, again=True)]]


async def test_a_write_is_tried_until_it_lands(post: Post) -> None:
    post.store.away = True
    post.end(1)
    await anyio.sleep(3_600)
    tries = len(post.store.calls)
    post.store.away = False
    await post.outbox.emptied()
    assert tries > 100
    assert (post.applied, post.written) == ([[end(1)]], [1])


async def test_what_comes_while_the_database_is_away_is_kept(post: Post) -> None:
    post.store.away = True
    post.end(1)
    await settle()
    post.outbox.put_start(claimed(3), start(3))
    post.end(2)
    await anyio.sleep(60)
    post.store.away = False
    await post.outbox.emptied()
    assert post.written == [1, 2]
    await anyio.sleep(1)
    assert {change.id for batch in post.applied for change in batch} == {1, 2, 3}


async def test_waiting_for_emptiness_ends_when_all_is_written_and_not_before(post: Post) -> None:
    post.store.hold = on_its_way = asyncio.Event()
    post.end(1)
    with anyio.move_on_after(60) as waiting:
        await post.outbox.emptied()
    on_its_way.set()
    await post.outbox.emptied()
    assert (waiting.cancelled_caught, post.written) == (True, [1])


async def test_an_outbox_that_never_had_anything_is_empty(post: Post) -> None:
    await post.outbox.emptied()


async def test_the_gate_closes_when_writes_fail_longer_than_patience(post: Post) -> None:
    post.store.away = True
    post.end(1)
    await anyio.sleep(PATIENCE - 0.1)
    before = post.outbox.gate_open
    await anyio.sleep(0.2)
    assert (before, post.outbox.gate_open) == (True, False)


async def test_the_gate_opens_when_a_write_lands(post: Post) -> None:
    post.store.away = True
    post.end(1)
    await anyio.sleep(60)
    post.store.away = False
    await post.outbox.emptied()
    assert post.outbox.gate_open


async def test_patience_starts_anew_with_each_outage(post: Post) -> None:
    for id in (1, 2):
        post.store.away = True
        post.end(id)
        await anyio.sleep(PATIENCE - 0.5)
        assert post.outbox.gate_open
        post.store.away = False
        await post.outbox.emptied()


async def test_the_gate_closes_when_the_outbox_is_full() -> None:
    post = Post()
    post.end(*range(FULL - 1))
    before = post.outbox.gate_open
    post.end(FULL)
    assert (before, post.outbox.gate_open) == (True, False)


async def test_the_gate_closes_when_what_waits_is_too_big_and_nothing_is_lost() -> None:
    post = Post()
    half = "x" * (FULL_BYTES // 2)
    post.outbox.put([Entry.of(claimed(1), end(1, result=half))])
    before = post.outbox.gate_open
    post.outbox.put([Entry.of(claimed(2), end(2, result=half))])
    closed = not post.outbox.gate_open
    post.outbox.put([Entry.of(claimed(3), end(3))])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post.outbox.run)
        await post.outbox.emptied()
        tasks.cancel_scope.cancel()
    assert (before, closed, post.written, post.outbox.gate_open) == (True, True, [1, 2, 3], True)


async def test_a_refused_start_is_told(post: Post) -> None:
    post.store.refuse = frozenset({1})
    post.outbox.put_start(claimed(1), start(1))
    await settle()
    assert (post.refused, post.written) == ([1], [])


async def test_a_write_that_fails_for_another_reason_is_tried_again_as_well(post: Post) -> None:
    post.store.away, post.store.error = True, SchemaMismatch("somebody is migrating")
    post.end(1)
    await anyio.sleep(60)
    post.store.away = False
    await post.outbox.emptied()
    assert post.written == [1]


async def test_an_end_that_the_store_does_not_take_is_told_and_holds_up_no_other(post: Post) -> None:
    unwritable: list[int] = []
    apply = post.store.apply

    async def picky(changes, **options):
        if any(change.id == 2 for change in changes):
            raise ValueError("no place for it")
        return await apply(changes, **options)

    post.store.apply = picky  # type: ignore[method-assign]
    post.outbox._unwritable = lambda entry, error: unwritable.append(entry.job.id)
    post.end(1, 2, 3)
    await post.outbox.emptied()
    assert (post.written, unwritable) == ([1, 3], [2])


# The spool


class FakeSpool:
    def __init__(self) -> None:
        self.kept: list[int] = []
        self.clears = 0
        self.broken = False

    async def keep(self, changes) -> None:
        if self.broken:
            raise OSError("no space left on device")
        self.kept += [change.id for change in changes]

    async def clear(self) -> None:
        self.clears += 1


@pytest.fixture
async def spooling() -> AsyncIterator[tuple[Post, FakeSpool]]:
    made, spool = Post(), FakeSpool()
    made.outbox._spool = cast("Spool", spool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.outbox.run)
        yield made, spool
        tasks.cancel_scope.cancel()


async def test_what_waits_longer_than_a_second_is_spooled_once(spooling: tuple[Post, FakeSpool]) -> None:
    post, spool = spooling
    post.store.away = True
    post.end(1, 2)
    await anyio.sleep(SPOOL_AFTER - 0.3)
    early = list(spool.kept)
    await anyio.sleep(1)
    post.end(3)
    await anyio.sleep(60)
    assert (early, spool.kept, spool.clears) == ([], [1, 2, 3], 0)


async def test_what_waits_for_a_write_that_hangs_is_spooled_as_well(spooling: tuple[Post, FakeSpool]) -> None:
    post, spool = spooling
    post.store.hold = asyncio.Event()
    post.end(1)
    await anyio.sleep(SPOOL_AFTER + 1)
    post.store.hold.set()
    await post.outbox.emptied()
    assert (spool.kept, spool.clears, post.written) == ([1], 1, [1])


async def test_the_spool_is_cleared_when_all_is_written(spooling: tuple[Post, FakeSpool]) -> None:
    post, spool = spooling
    post.store.away = True
    post.end(1)
    await anyio.sleep(60)
    post.store.away = False
    await post.outbox.emptied()
    assert (post.written, spool.clears) == ([1], 1)
    post.end(2)
    await post.outbox.emptied()
    assert spool.clears == 1


async def test_while_all_is_well_nothing_is_spooled(spooling: tuple[Post, FakeSpool]) -> None:
    post, spool = spooling
    post.end(1)
    await anyio.sleep(60)
    assert (spool.kept, spool.clears) == ([], 0)


async def test_what_is_left_at_the_end_is_spooled_at_once(spooling: tuple[Post, FakeSpool]) -> None:
    post, spool = spooling
    post.store.away = True
    post.end(1)
    await settle()
    post.end(2)
    assert (await post.outbox.spool_rest(), spool.kept, post.outbox.waiting) == (True, [1, 2], 2)


async def test_a_disk_that_takes_nothing_is_told_and_the_ends_are_kept(
    spooling: tuple[Post, FakeSpool], caplog: pytest.LogCaptureFixture
) -> None:
    post, spool = spooling
    post.store.away = spool.broken = True
    post.end(1)
    await anyio.sleep(5)
    kept = await post.outbox.spool_rest()
    post.store.away = False
    await post.outbox.emptied()
    assert (kept, post.written) == (False, [1])
    assert "cannot spool what became of jobs: no space left on device" in caplog.text


async def test_without_a_spool_only_an_empty_outbox_is_kept(post: Post) -> None:
    empty = await post.outbox.spool_rest()
    post.store.away = True
    post.end(1)
    await settle()
    assert (empty, await post.outbox.spool_rest()) == (True, False)


def test_the_ended_are_those_that_will_not_run_again() -> None:
    final = [Entry.of(claimed(n), end(n)._replace(state=state)) for n, state in enumerate(State)]
    assert ended(final) == [3, 4, 5]
