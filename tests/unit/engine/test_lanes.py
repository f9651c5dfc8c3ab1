"""Where jobs run, how many, and what becomes of them."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from sidequest.engine import crew
from sidequest.engine.crew import CLOSE_WAIT, SHUNNED_FOR, START_WAITS
from sidequest.engine.lanes import CROWDED, LATE, START_FAILED_WAIT
from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Interrupted,
    JobError,
    Outcome,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
)
from sidequest.jobs.record import Progress
from sidequest.wire.frames import Kind, pack, pack_json, read_json
from sidequest.wire.messages import StopReason, pack_spoiled, read_next
from tests.unit.engine.fakes import claimed
from tests.unit.engine.virtual_time import epoch_us, settle
from tests.unit.engine.workshop import workshop

LONG_AGO = 1


def kinds(ended: dict[int, Outcome]) -> dict[int, type[Outcome]]:
    return {id: type(outcome) for id, outcome in ended.items()}


# Placing


async def test_the_first_job_makes_a_blank_lane_one_of_its_kind() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1, name="async")
        await shop.accept(2, name="sync")
        assert [(link.role, link.ran) for link in shop.links] == [("async", [1]), ("sync", [2])]


async def test_async_jobs_share_a_lane() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1, 2, 3)
        assert shop.ran == [[1, 2, 3], []]


async def test_jobs_that_are_accepted_together_go_in_one_frame() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2, 3)
        assert shop.links[0].told(Kind.RUN) == 1


async def test_async_jobs_go_where_the_fewest_are() -> None:
    async with workshop(warm=2, concurrency=1_000, max_concurrent_jobs=1_000) as shop:
        await shop.accept(1, isolated=True)
        await shop.accept(2)
        await shop.end(0, 1)
        await shop.accept(3, 4, 5)
        assert shop.ran == [[1, 3, 4], [2, 5]]


async def test_sync_jobs_have_a_lane_each() -> None:
    async with workshop(warm=3) as shop:
        await shop.accept(1, 2, 3, name="sync")
        assert shop.ran == [[1], [2], [3]]


async def test_a_sync_job_without_a_lane_waits_for_the_one_that_is_started_for_it() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2, name="sync")
        before = shop.ran
        await shop.greet()
        assert (before, shop.ran) == ([[1], []], [[1], [2]])


async def test_a_sync_job_takes_the_lane_that_becomes_free() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, 2, name="sync")
        await shop.end(0, 1)
        assert shop.ran == [[1, 2]]


async def test_no_more_lanes_are_started_than_max_workers() -> None:
    async with workshop(max_workers=2) as shop:
        await shop.accept(1, 2, 3, 4, name="sync")
        await shop.greet()
        await shop.look(10)
        assert shop.ran == [[1], [2]]


async def test_an_isolated_job_shares_its_lane_with_nobody() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1, isolated=True)
        await shop.accept(2, 3)
        assert shop.ran == [[1], [2, 3]]


async def test_an_isolated_job_does_not_join_others() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1, 2)
        await shop.accept(3, isolated=True)
        assert shop.ran == [[1, 2], [3]]


async def test_a_lane_is_shared_again_after_its_isolated_job() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, isolated=True)
        await shop.accept(2, 3)
        await shop.end(0, 1)
        assert shop.ran == [[1, 2, 3]]


async def test_a_job_that_no_worker_knows_runs_alone() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1)
        await shop.accept(2, name="unknown")
        assert [link.role for link in shop.links] == ["async", "sync"]


async def test_jobs_that_were_claimed_before_any_worker_was_there_are_sorted_out_by_kind() -> None:
    async with workshop(warm=0) as shop:
        await shop.accept(1, 2, 3)
        await shop.greet(0)
        assert (shop.links[0].role, shop.ran[0]) == ("async", [1, 2, 3])


async def test_when_all_lanes_are_busy_with_sync_jobs_one_more_is_started_for_async_ones() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, name="sync")
        await shop.accept(2, 3)
        await shop.greet()
        assert [(link.role, link.ran) for link in shop.links] == [("sync", [1]), ("async", [2, 3])]


async def test_when_the_only_lane_is_async_one_more_is_started_for_sync_jobs() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1)
        await shop.accept(2, name="sync")
        await shop.greet()
        assert [(link.role, link.ran) for link in shop.links] == [("async", [1]), ("sync", [2])]


async def test_a_crowded_lane_gets_company() -> None:
    async with workshop(concurrency=1_000) as shop:
        await shop.accept(*range(1, CROWDED))
        before = len(shop.links)
        await shop.accept(CROWDED)
        assert (before, len(shop.links)) == (1, 2)


# Concurrency


async def test_no_more_jobs_of_a_queue_run_than_its_concurrency() -> None:
    async with workshop(concurrency=2) as shop:
        await shop.accept(1, 2, 3)
        before = shop.ran
        await shop.end(0, 1)
        assert (before, shop.ran) == ([[1, 2]], [[1, 2, 3]])


async def test_no_more_jobs_run_than_the_engine_may_over_all_queues() -> None:
    async with workshop(max_concurrent_jobs=2) as shop:
        await shop.accept(1, 2)
        await shop.accept(3, queue="other")
        before = shop.ran
        await shop.end(0, 1)
        assert (before, shop.ran) == ([[1, 2]], [[1, 2, 3]])


async def test_a_raised_concurrency_lets_more_jobs_in() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2)
        shop.concurrency = 2
        shop.lanes.pump()
        assert shop.ran == [[1, 2]]


async def test_a_job_that_ended_frees_its_slot() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        before = shop.lanes.loads["mail"].running
        await shop.end(0, 1)
        assert (before, shop.lanes.loads["mail"].running) == (2, 1)


async def test_no_lane_is_started_for_jobs_that_wait_for_the_engines_limit() -> None:
    async with workshop(max_concurrent_jobs=1) as shop:
        await shop.accept(1, 2)
        for _ in range(3):
            await shop.look()
            await shop.greet()
        assert len(shop.links) == 1


async def test_no_lane_is_started_for_jobs_of_the_other_kind_that_wait_for_their_queue() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, name="sync")
        await shop.accept(2)
        for _ in range(3):
            await shop.look()
            await shop.greet()
        assert len(shop.links) == 1


# Short sync jobs queue in a lane


async def test_short_sync_jobs_queue_in_a_lane() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        assert shop.ran == [[1, 2, 3]]


async def test_a_queue_of_short_jobs_takes_one_slot() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        assert (shop.lanes.loads["mail"].running, shop.lanes.loads["mail"].backlog) == (1, 0)


async def test_only_so_many_short_jobs_queue_that_the_last_one_starts_soon() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()  # 1 ms each
        await shop.accept(*range(1, 21), name="sync")
        assert shop.ran == [[1, 2, 3, 4, 5, 6]]  # one runs, and five wait


async def test_a_queue_in_a_lane_is_filled_up_when_half_empty() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(*range(1, 21), name="sync")
        for id in (1, 2):
            await shop.end(0, id, took_us=1_000)
        before = shop.ran
        await shop.end(0, 3, took_us=1_000)
        assert (before, shop.ran) == ([[1, 2, 3, 4, 5, 6]], [[*range(1, 10)]])


async def test_short_jobs_are_shared_out_among_the_lanes_where_they_may_wait() -> None:
    async with workshop(warm=2, max_workers=2) as shop:
        await shop.teach_short()
        await shop.accept(*range(1, 7), name="sync")
        assert shop.ran == [[1, 3, 4], [2, 5, 6]]


async def test_short_async_jobs_wait_in_a_lane_without_taking_slots() -> None:
    async with workshop(concurrency=2) as shop:
        await shop.teach_short("async")
        await shop.accept(1, 2, 3, 4)
        load = shop.lanes.loads["mail"]
        assert (shop.links[0].runs[-2:], load.running, load.backlog) == ([[1, 2], [3, 4]], 2, 0)


async def test_the_slot_of_a_job_that_ends_passes_to_one_that_waits_behind_it() -> None:
    async with workshop(concurrency=2) as shop:
        await shop.teach_short("async")
        await shop.accept(1, 2, 3)
        running: list[int] = []
        for id in (1, 2, 3):
            await shop.end(0, id)
            running.append(shop.lanes.loads["mail"].running)
        assert running == [2, 1, 0]


async def test_what_comes_behind_others_says_of_how_many_ends_the_engine_knew() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.teach_short("async")
        await shop.accept(1, 2)
        assert [read_next(payload)[0] for kind, payload in shop.links[0].frames if kind is Kind.NEXT] == [1]


async def test_no_async_jobs_wait_behind_a_long_one() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.teach_short("async")
        await shop.accept(1, name="other async")
        await shop.accept(2)
        assert shop.ran == [[1]]


async def test_an_isolated_job_waits_behind_nobody() -> None:
    async with workshop(concurrency=1, max_workers=2) as shop:
        await shop.teach_short("async")
        await shop.accept(1)
        await shop.accept(2, isolated=True)
        assert shop.ran[0] == [1]


async def test_async_jobs_that_wait_where_nothing_ends_are_recalled() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.teach_short("async")
        await shop.accept(1, 2)
        await shop.look(5)
        assert shop.links[0].told(Kind.RECALL) == 1


async def test_those_that_come_back_leave_the_slots_to_those_that_run() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.teach_short("async")
        await shop.accept(1, 2)
        shop.lanes.recall_all()
        shop.links[0].returned(2)
        assert (shop.lanes.loads["mail"].running, shop.ran) == (1, [[1, 2, 2]])


# Ends that a worker has not sent


async def test_what_had_ended_in_a_worker_that_died_has_ended() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        shop.links[0].keep(1, 2)
        shop.links[0].word = (3, epoch_us())
        shop.links[0].die(1)
        await settle()
        assert kinds(shop.ended) == {1: Completed, 2: Completed, 3: Crashed}


async def test_an_end_that_was_sent_and_still_lies_there_counts_once() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.links[0].keep(1)
        shop.links[0].tell_and_die(1)
        await settle()
        assert kinds(shop.ended)[1] is Completed  # FakeFloor refuses a second end


async def test_an_end_that_a_longer_job_keeps_back_is_taken_soon() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.links[0].keep(1)
        await anyio.sleep(2.5 * LATE)
        before = kinds(shop.ended)
        await shop.end(0, 2)  # its message holds the first end again
        assert (before, kinds(shop.ended)) == ({1: Completed}, {1: Completed, 2: Completed})


async def test_what_is_written_over_the_ends_of_a_dead_worker_counts_for_nothing() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, name="sync")
        shop.links[0].scribble()
        shop.links[0].word = (1, epoch_us())
        shop.links[0].die(1)
        await settle()
        assert kinds(shop.ended) == {1: Crashed}


async def test_jobs_whose_length_is_unknown_do_not_queue() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, 2, name="sync")
        assert shop.ran == [[1]]


async def test_long_jobs_do_not_queue() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, name="sync")
        await shop.end(0, 1, took_us=50_000)
        await shop.accept(2, 3, name="sync")
        assert shop.ran == [[1, 2]]


async def test_short_jobs_do_not_queue_behind_another_queues_jobs() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, name="sync")
        await shop.accept(2, name="sync", queue="other")
        assert shop.ran == [[1]]


async def test_short_jobs_do_not_queue_behind_long_ones() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, name="slow")
        await shop.end(0, 1, took_us=5_000_000)
        await shop.accept(2, name="slow")
        await shop.accept(3, name="sync")
        assert shop.ran == [[1, 2]]


async def test_jobs_stranded_behind_a_long_one_are_recalled_once() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        shop.links[0].word = (1, epoch_us())
        await shop.look(5)
        assert shop.links[0].told(Kind.RECALL) == 1


async def test_nobody_is_recalled_while_jobs_are_as_short_as_they_should_be() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        shop.links[0].word = (1, epoch_us())
        await shop.look(every=0.04)
        assert shop.links[0].told(Kind.RECALL) == 0


async def test_returned_jobs_run_elsewhere_in_their_order() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        await shop.accept(4, name="sync", queue="other")
        shop.links[0].returned(2, 3)
        await shop.end(0, 1, took_us=5_000_000)
        await shop.end(0, 2, took_us=5_000_000)
        await shop.end(0, 3)
        assert (shop.ran, shop.ended) == ([[1, 2, 3, 2, 3, 4]], dict.fromkeys((1, 2, 3), Completed()))


async def test_a_recalled_lane_takes_no_queue_before_it_answered() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.lanes.recall_all()
        await shop.accept(3, name="sync")
        before = shop.ran
        shop.links[0].returned()
        await settle()
        assert (before, shop.ran) == ([[1, 2]], [[1, 2, 3]])


# Workers that come and go


async def test_min_workers_are_kept_warm() -> None:
    async with workshop(warm=0, min_workers=2) as shop:
        shop.lanes.crew.warm_up()
        await settle()
        shop.lanes.crew.warm_up()
        await settle()
        assert len(shop.links) == 2


async def test_the_next_worker_starts_while_the_last_words_of_a_dead_one_are_still_awaited() -> None:
    async with workshop() as shop:
        shop.links[0].gone()
        await settle()
        assert len(shop.links) == 2
        shop.links[0].die(1)
        await settle()
        assert len(shop.links) == 2


async def test_a_worker_that_died_before_it_said_hello_is_replaced_after_a_pause_only() -> None:
    async with workshop(warm=0) as shop:
        shop.lanes.crew.warm_up()
        await settle()
        shop.links[0].gone()
        shop.links[0].die(1)
        await settle()
        assert len(shop.links) == 1
        await shop.look(2, every=0.1)
        assert len(shop.links) == 2


async def test_a_worker_that_had_its_share_is_closed_and_replaced() -> None:
    async with workshop(max_jobs_per_worker=2) as shop:
        await shop.accept(1)
        await shop.end(0, 1)
        closed_early = shop.links[0].told(Kind.CLOSE)
        await shop.accept(2)
        await shop.end(0, 2)
        closed = shop.links[0].told(Kind.CLOSE)
        shop.links[0].die(0)
        await settle()
        await shop.greet()
        await shop.accept(3)
        assert (closed_early, closed, shop.ran) == (0, 1, [[1, 2], [3]])


@pytest.mark.parametrize(("exact", "closed_early"), [(3, 1), (2, 0)])
async def test_a_worker_whose_start_took_long_lives_long_unless_its_share_is_small(
    monkeypatch: pytest.MonkeyPatch, exact: int, closed_early: int
) -> None:
    monkeypatch.setattr(crew, "EXACT", exact)
    async with workshop(warm=0, max_jobs_per_worker=2) as shop:
        shop.lanes.crew.start(1)
        await anyio.sleep(2)
        await shop.greet()
        await shop.accept(1, 2)
        await anyio.sleep(2 * crew.WORTH - 1)
        await shop.end(0, 1, 2)
        assert shop.links[0].told(Kind.CLOSE) == closed_early
        if not closed_early:
            await shop.accept(3)
            await anyio.sleep(2)
            await shop.end(0, 3)
            assert shop.links[0].told(Kind.CLOSE) == 1


async def test_a_worker_that_had_its_share_takes_no_more_and_ends_its_jobs() -> None:
    async with workshop(warm=2, max_jobs_per_worker=2, concurrency=3) as shop:
        await shop.accept(1, 2)
        await shop.end(0, 1)
        await shop.accept(3)
        closed_early = shop.links[0].told(Kind.CLOSE)
        await shop.end(0, 2)
        assert (shop.ran, closed_early, shop.links[0].told(Kind.CLOSE)) == ([[1, 2], [3]], 0, 1)


async def test_a_worker_that_had_its_share_closes_also_when_the_last_jobs_in_it_come_back() -> None:
    async with workshop(max_workers=1, max_jobs_per_worker=3) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.lanes.recall_all()
        await shop.end(0, 1)
        shop.links[0].returned(2)
        await settle()
        assert shop.links[0].told(Kind.CLOSE) == 1


async def test_a_spoiled_worker_takes_no_more_and_the_job_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop(warm=2, concurrency=3) as shop:
        await shop.accept(1, 2)
        shop.links[0].say(pack_spoiled([1], ["the umask is 0777", "SIGTERM has another handler"]))
        await shop.end(0, 1)
        await shop.accept(3)
        before = shop.links[0].told(Kind.CLOSE)
        await shop.end(0, 2)
        assert (shop.ran, before, shop.links[0].told(Kind.CLOSE)) == ([[1, 2], [3]], 0, 1)
        assert caplog.messages == [
            "job 1 (async) left worker 1000 spoiled: the umask is 0777; SIGTERM has another handler; it is replaced"
        ]


async def test_where_several_jobs_may_have_spoiled_a_worker_none_is_accused(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop() as shop:
        await shop.accept(7)
        shop.links[0].say(pack_spoiled([3, 5, 7], ["the umask is 0777"]))
        [told] = caplog.messages
        assert told.startswith("one of 3 jobs, the last of them job 7 (async) left worker 1000 spoiled")


async def test_jobs_that_queue_in_a_spoiled_worker_are_called_back() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.links[0].say(pack_spoiled([1], ["the umask is 0777"]))
        assert shop.links[0].told(Kind.RECALL) == 1


async def test_a_module_whose_import_ended_a_worker_is_left_out_for_a_while() -> None:
    async with workshop(warm=0) as shop:
        shop.lanes.crew.start(1)
        await settle()
        shop.links[0].say(pack(Kind.LOADING, b"good_shop"))
        shop.links[0].say(pack(Kind.LOADING, b"bad_shop"))
        shop.links[0].die(3)
        await shop.look(every=START_WAITS[0])
        shunned = shop.links[1].greeting["shunned"]
        await shop.greet()
        await anyio.sleep(SHUNNED_FOR)
        shop.lanes.crew.start(1)
        await settle()
        assert shunned == {"bad_shop": "the worker process exited with code 3 while it imported this"}
        assert shop.links[2].greeting["shunned"] == {}


async def test_a_module_is_not_blamed_for_a_worker_that_somebody_killed_while_it_was_imported_once() -> None:
    async with workshop(warm=0) as shop:
        shop.lanes.crew.start(1)
        await settle()
        for death in (0, 1):
            shop.links[death].say(pack(Kind.LOADING, b"shop"))
            shop.links[death].die(-9)
            await shop.look(every=START_WAITS[death])
            shop.lanes.crew.start(1 - shop.lanes.crew.starting)
            await settle()
        shunned = [link.greeting["shunned"] for link in shop.links[1:3]]
        assert [set(each) for each in shunned] == [set(), {"shop"}]


async def test_a_module_whose_import_does_not_end_is_left_out_by_the_next_worker() -> None:
    async with workshop(warm=0, worker_start_timeout=timedelta(seconds=5)) as shop:
        shop.lanes.crew.start(1)
        await settle()
        shop.links[0].say(pack(Kind.LOADING, b"bad_shop"))
        await shop.look(times=2, every=5.1)
        assert shop.links[0].kills == [0]
        assert shop.links[1].greeting["shunned"] == {"bad_shop": "importing it took too long"}


async def test_a_worker_that_does_not_close_is_killed() -> None:
    async with workshop(max_jobs_per_worker=1, max_workers=1) as shop:
        shop.links[0].immortal = True
        await shop.accept(1)
        await shop.end(0, 1)
        await anyio.sleep(CLOSE_WAIT - 0.1)
        shop.lanes.look()
        await settle()
        early = list(shop.links[0].kills)
        await shop.look(every=0.2)
        assert (early, shop.links[0].kills) == ([], [0])


async def test_an_idle_worker_above_the_minimum_is_closed() -> None:
    async with workshop(warm=3, min_workers=1, worker_idle_timeout=timedelta(seconds=10)) as shop:
        await shop.look(every=9.9)
        early = [link.told(Kind.CLOSE) for link in shop.links]
        await shop.look(every=0.2)
        assert (early, sum(link.told(Kind.CLOSE) for link in shop.links)) == ([0, 0, 0], 2)


async def test_a_worker_with_jobs_is_never_idle() -> None:
    async with workshop(min_workers=0, worker_idle_timeout=timedelta(seconds=10)) as shop:
        await shop.accept(1)
        await shop.look(every=3_600)
        assert shop.links[0].told(Kind.CLOSE) == 0


async def test_a_worker_that_does_not_come_up_is_killed() -> None:
    async with workshop(warm=0, worker_start_timeout=timedelta(seconds=60)) as shop:
        shop.lanes.crew.warm_up()
        await shop.look(every=59)
        early = list(shop.links[0].kills)
        await shop.look(every=2)
        assert (early, shop.links[0].kills) == ([], [0])


async def test_failing_starts_back_off(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop(warm=0) as shop:
        shop.lanes.crew.warm_up()
        starts: list[float] = []
        for _ in range(6):
            await settle()
            began = anyio.current_time()
            count = len(shop.links)
            shop.links[-1].die(1)
            while len(shop.links) == count:
                await shop.look()
            starts.append(anyio.current_time() - began)
        assert starts == [pytest.approx(pause, abs=0.11) for pause in (*START_WAITS, START_WAITS[-1])]
    assert "a worker did not start: the worker process exited with code 1; next try in 0.1 s" in caplog.text


async def test_a_worker_that_cannot_even_be_made_counts_as_a_failed_start() -> None:
    async with workshop(warm=0) as shop:

        async def fail(*_: object) -> None:
            raise OSError("too many open files")

        shop.lanes.crew.start(1)
        shop.links[0].run = fail  # type: ignore[method-assign,assignment]
        await settle()
        before = len(shop.links)
        await shop.look(every=0.2)
        assert (before, len(shop.links)) == (1, 2)


async def test_when_no_worker_can_start_claimed_jobs_are_given_back_and_no_more_are_wanted() -> None:
    async with workshop(warm=0) as shop:
        await shop.accept(1)
        for _ in range(3):
            shop.links[-1].die(1)
            await settle()
            early = dict(shop.ended)
            slots = shop.lanes.slots("mail")
            if not early:
                await shop.look(every=0.6)
        error = JobError("import", "WorkerStartFailed", "no worker could start: the worker process exited with code 1")
        assert (shop.ended, slots) == ({1: Released(START_FAILED_WAIT, error)}, 0)


async def test_a_worker_that_comes_up_ends_the_back_off() -> None:
    async with workshop(warm=0) as shop:
        shop.lanes.crew.warm_up()
        for _ in range(3):
            await settle()
            shop.links[-1].die(1)
            await shop.look(every=3)
        await shop.greet()
        shop.links[-1].die(1)
        await shop.look()
        shop.links[-1].die(1)
        await shop.look(every=START_WAITS[0] + 0.01)
        assert (shop.lanes.slots("mail") > 0, len(shop.links)) == (True, 6)


async def test_newly_defined_modules_are_told_to_all_workers() -> None:
    async with workshop(warm=2) as shop:
        shop.lanes.crew.learn(["shop.more"], ["/path"])
        told = [[read_json(payload) for kind, payload in link.frames if kind is Kind.MODULES] for link in shop.links]
        assert told == [[{"modules": ["shop.more"], "path": ["/path"]}]] * 2


async def test_a_catalogue_changes_what_kind_a_job_is() -> None:
    async with workshop(warm=2) as shop:
        shop.links[0].say(pack_json(Kind.CATALOGUE, {"pid": 1, "kinds": {"new": True}}))
        await shop.accept(1, 2, name="new")
        assert shop.ran == [[1, 2], []]


# What workers say


async def test_an_end_reaches_the_floor() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        await shop.end(0, 1, outcome=Snoozed(timedelta(seconds=5)))
        assert (shop.ended, list(shop.lanes.held)) == ({1: Snoozed(timedelta(seconds=5))}, [2])


async def test_an_end_of_a_job_that_is_not_in_the_lane_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1)
        await shop.end(1, 1)
        assert shop.ended == {}
    assert "worker 1001 ended job 1, which was not in it" in caplog.text


async def test_a_second_end_of_a_job_is_ignored() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        await shop.end(0, 1, 1)
        assert (shop.ended, shop.lanes.loads["mail"].running) == ({1: Completed()}, 0)


async def test_a_start_is_told_once() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.links[0].started(1, 5)
        shop.links[0].started(1, 5)
        assert (shop.floor.running, shop.lanes.held[1].started_us) == ([1], 5)


async def test_a_job_that_is_stepped_for_long_is_told_as_running() -> None:
    async with workshop() as shop:
        await shop.accept(1, name="sync")
        began = epoch_us()
        shop.links[0].word = (1, began)
        await shop.look(every=0.02)
        early = list(shop.floor.running)
        await shop.look(every=0.02)
        assert (early, shop.floor.running, shop.lanes.held[1].started_us) == ([], [1], began)


async def test_progress_reaches_the_floor_while_the_job_is_held() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.links[0].progress(1, Progress(1, 2, "half"))
        await shop.end(0, 1)
        shop.links[0].progress(1, Progress(2, 2, "late"))
        assert shop.floor.reports == [(1, Progress(1, 2, "half").to_json())]


async def test_a_request_reaches_the_floor() -> None:
    async with workshop() as shop:
        shop.links[0].say(pack_json(Kind.REQUEST, {"n": 1, "do": "find", "with": 7}))
        assert shop.floor.requests == [{"n": 1, "do": "find", "with": 7}]


async def test_ends_free_room() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        before = shop.floor.freed
        await shop.end(0, 1, 2)
        assert shop.floor.freed == before + 1


# Slots


async def test_before_any_job_was_seen_slots_are_those_of_the_engine() -> None:
    async with workshop(max_concurrent_jobs=50) as shop:
        assert shop.lanes.slots("mail") == 50


async def test_slots_for_sync_jobs_are_the_workers_that_are_free_or_may_be_started() -> None:
    async with workshop(max_workers=3, concurrency=100) as shop:
        for id in range(1, 30):  # their kind is learned as they are claimed
            await shop.accept(id, name="sync")
            shop.lanes.release_backlog()
        assert (shop.lanes.running(), shop.lanes.slots("mail")) == ([1], 2)


async def test_with_all_workers_busy_one_job_is_let_in_because_it_may_be_async() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.accept(1, 2, 3, 4, 5, name="sync")
        with_backlog = shop.lanes.slots("mail")
        shop.lanes.release_backlog()
        assert (with_backlog, shop.lanes.slots("mail")) == (0, 1)


# Stopping


async def test_a_waiting_job_is_canceled_at_once() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2)
        shop.lanes.halt(2, StopReason.CANCEL)
        await shop.end(0, 1)
        assert (shop.ended, shop.ran) == ({2: Stopped(), 1: Completed()}, [[1]])


async def test_a_waiting_job_is_released_at_shutdown() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2)
        shop.lanes.halt(2, StopReason.SHUTDOWN)
        assert shop.ended == {2: Released()}


async def test_a_running_job_is_asked_to_stop() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.lanes.halt(1, StopReason.CANCEL)
        assert (shop.links[0].halted, shop.links[0].told(Kind.RECALL), shop.ended) == ([(1, StopReason.CANCEL)], 1, {})


async def test_a_job_is_asked_once_and_the_first_reason_counts() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.lanes.halt(1, StopReason.CANCEL)
        shop.lanes.halt(1, StopReason.SHUTDOWN)
        assert shop.links[0].halted == [(1, StopReason.CANCEL)]


async def test_a_job_that_is_not_held_cannot_be_halted() -> None:
    async with workshop() as shop:
        shop.lanes.halt(7, StopReason.CANCEL)
        assert (shop.ended, shop.links[0].frames) == ({}, [])


async def test_a_canceled_job_that_had_not_started_comes_back_and_is_stopped() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.lanes.halt(2, StopReason.CANCEL)
        shop.links[0].returned(2)
        assert shop.ended == {2: Stopped()}


async def test_a_job_that_does_not_stop_within_its_grace_has_its_worker_killed() -> None:
    async with workshop(kill_grace=timedelta(seconds=5)) as shop:
        await shop.accept(1, 2)
        shop.lanes.halt(1, StopReason.CANCEL)
        await shop.look(every=4.9)
        early = list(shop.links[0].kills)
        await shop.look(every=0.2)
        assert (early, shop.links[0].kills, shop.ended) == ([], [1], {1: Stopped(), 2: Released()})


async def test_a_jobs_own_grace_wins() -> None:
    async with workshop(kill_grace=timedelta(seconds=5)) as shop:
        await shop.accept(1, kill_grace_ms=500)
        shop.lanes.halt(1, StopReason.CANCEL)
        await shop.look(every=0.6)
        assert shop.links[0].kills == [1]


async def test_the_grace_that_is_given_wins_over_both() -> None:
    async with workshop(kill_grace=timedelta(seconds=5)) as shop:
        await shop.accept(1, kill_grace_ms=60_000)
        shop.lanes.halt(1, StopReason.SHUTDOWN, grace=1)
        await shop.look(every=1.1)
        assert kinds(shop.ended) == {1: Interrupted}


async def test_a_job_that_stops_in_time_keeps_its_worker() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.lanes.halt(1, StopReason.CANCEL)
        await shop.end(0, 1, outcome=Stopped())
        await shop.look(every=3_600)
        assert shop.links[0].kills == []


async def test_a_job_over_its_timeout_and_grace_has_its_worker_killed() -> None:
    async with workshop(kill_grace=timedelta(seconds=5)) as shop:
        await shop.accept(1, timeout_ms=10_000)
        shop.links[0].started(1, epoch_us())
        await shop.look(every=14.9)
        early = list(shop.links[0].kills)
        await shop.look(every=0.2)
        assert (early, shop.links[0].kills, kinds(shop.ended)) == ([], [1], {1: Errored})


async def test_the_timeout_of_a_job_that_has_not_started_does_not_run() -> None:
    async with workshop() as shop:
        await shop.accept(1, timeout_ms=1_000)
        await shop.look(every=3_600)
        assert shop.links[0].kills == []


async def test_a_job_without_a_timeout_may_run_for_ever() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.links[0].started(1, LONG_AGO)
        await shop.look(every=3_600)
        assert shop.links[0].kills == []


# Death


async def test_a_death_takes_along_only_what_was_in_the_lane() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1, 2, name="sync")
        shop.links[0].word = (1, LONG_AGO)
        shop.links[0].die(3)
        await settle()
        assert (kinds(shop.ended), list(shop.lanes.held)) == ({1: Crashed}, [2])


async def test_short_jobs_behind_a_crashed_one_run_elsewhere() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        shop.links[0].word = (1, LONG_AGO)
        shop.links[0].die(3)
        await settle()
        await shop.greet()
        assert (kinds(shop.ended), shop.ran) == ({1: Crashed}, [[1, 2, 3], [2, 3]])


async def test_a_canceled_job_behind_a_crashed_one_never_starts() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, 3, name="sync")
        shop.lanes.halt(2, StopReason.CANCEL)
        shop.links[0].word = (1, LONG_AGO)
        shop.links[0].die(3)
        await settle()
        await shop.greet()
        assert (kinds(shop.ended), shop.ran) == ({1: Crashed, 2: Stopped}, [[1, 2, 3], [3]])


async def test_async_jobs_that_shared_a_lost_worker_all_go_back() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        shop.links[0].die(-9)
        await settle()
        assert kinds(shop.ended) == {1: SharedCrash, 2: SharedCrash}


async def test_a_death_frees_the_slots() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        await shop.accept(3, name="sync", queue="other")
        await shop.greet()
        shop.links[1].word = (3, LONG_AGO)
        for link in shop.links:
            link.die(3)
        await settle()
        assert {name: (load.running, load.backlog) for name, load in shop.lanes.loads.items()} == {
            "mail": (0, 0),
            "other": (0, 0),
        }
        assert shop.lanes.idle.is_set()


async def test_a_dead_worker_is_replaced() -> None:
    async with workshop() as shop:
        await shop.accept(1)
        shop.links[0].die(3)
        await settle()
        await shop.greet()
        await shop.accept(2)
        assert shop.ran == [[1], [2]]


# Shutdown


async def test_at_shutdown_the_backlog_is_released_and_running_jobs_go_on() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2, 3)
        shop.lanes.stop_placing()
        shop.lanes.release_backlog()
        assert (shop.ended, shop.lanes.running()) == ({2: Released(), 3: Released()}, [1])


async def test_at_shutdown_workers_are_told_and_nothing_new_starts() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2)
        shop.lanes.stop_placing()
        await shop.end(0, 1)
        await shop.look(10)
        assert (shop.links[0].told(Kind.SHUTTING_DOWN), shop.ran, len(shop.links)) == (1, [[1]], 1)


async def test_jobs_that_are_accepted_or_come_back_during_shutdown_are_released() -> None:
    async with workshop(max_workers=1) as shop:
        await shop.teach_short()
        await shop.accept(1, 2, name="sync")
        shop.lanes.stop_placing()
        shop.lanes.recall_all()
        shop.links[0].returned(2)
        shop.lanes.accept([claimed(3)])
        assert shop.ended == {2: Released(), 3: Released()}


async def test_idle_is_told_when_the_last_job_has_ended() -> None:
    async with workshop() as shop:
        await shop.accept(1, 2)
        shop.lanes.stop_placing()
        before = shop.lanes.idle.is_set()
        await shop.end(0, 1)
        between = shop.lanes.idle.is_set()
        await shop.end(0, 2)
        assert (before, between, shop.lanes.idle.is_set()) == (False, False, True)


async def test_what_is_left_when_all_waiting_is_over_is_interrupted() -> None:
    async with workshop(concurrency=1) as shop:
        await shop.accept(1, 2)
        shop.lanes.abandon()
        error = JobError("interrupt", "EngineStopped", "the engine is shutting down")
        assert (shop.ended, shop.lanes.held) == ({1: Interrupted(error), 2: Released()}, {})


async def test_in_the_end_idle_workers_are_closed_and_busy_ones_killed() -> None:
    async with workshop(warm=2) as shop:
        await shop.accept(1)
        shop.lanes.stop_placing()
        shop.lanes.crew.close_all()
        await settle()
        assert (shop.links[0].kills, shop.links[1].kills, shop.links[1].told(Kind.CLOSE)) == ([0], [], 1)


async def test_gone_is_told_when_the_last_worker_has_ended() -> None:
    async with workshop(warm=2) as shop:
        shop.lanes.stop_placing()
        shop.links[0].die(0)
        await settle()
        before = shop.lanes.crew.gone.is_set()
        shop.links[1].die(0)
        await settle()
        assert (before, shop.lanes.crew.gone.is_set()) == (False, True)
