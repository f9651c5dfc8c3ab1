"""SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

backend = partial(Mutant, file="backends/sqlite/backend.py")
sessions = partial(Mutant, file="backends/sqlite/session.py")
urls = partial(Mutant, file="backends/sqlite/url.py")
schema = partial(Mutant, file="backends/migrations/sqlite/0001_jobs_queues_engines.sql")

MUTANTS: Sequence[Mutant] = (
    # The fence
    backend(
        name="a change is written whoever holds the job",
        before="AND j.lease IS {new('the_lease')} AND",
        after="AND",
        seen_by="test_fence.py::test_a_former_owner_cannot_finish_what_another_holds",
    ),
    backend(
        name="no lease matches any lease",
        before="j.lease IS {new('the_lease')}",
        after="({new('the_lease')} IS NULL OR j.lease = {new('the_lease')})",
        seen_by="test_fence.py::test_no_lease_matches_no_lease_only",
    ),
    backend(
        name="all changes are taken for written",
        before="[change.id for change in members if change.id not in written]",
        after="[]",
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
    ),
    # Claiming
    backend(
        name="the lowest priority goes first",
        before='f"ORDER BY priority DESC, available_at, id LIMIT :room)',
        after='f"ORDER BY priority, available_at, id LIMIT :room)',
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    backend(
        name="the id counts before the time",
        before='f"ORDER BY priority DESC, available_at, id LIMIT :room)',
        after='f"ORDER BY priority DESC, id, available_at LIMIT :room)',
        seen_by="test_claim.py::test_the_first_in_order_are_taken_whatever_their_ids",
    ),
    backend(
        name="the claim is returned in any order",
        before="sorted(await session.fetch(statement, order), key=_claim_order)",
        after="await session.fetch(statement, order)",
        seen_by="test_claim.py::test_order_is_priority_then_due_time_then_id",
    ),
    backend(
        name="one more than there is room for",
        before="LIMIT :room)",
        after="LIMIT :room + 1)",
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    backend(
        name="the attempt does not rise",
        before="attempt = attempt + 1",
        after="attempt = attempt",
        seen_by="test_claim.py::test_a_claimed_job_carries_all_that_its_engine_needs",
    ),
    backend(
        name="a claimed job stays ready",
        before="SET state = 'claimed', ready = NULL,",
        after="SET state = 'claimed',",
        seen_by="test_claim.py::test_a_claimed_job_carries_all_that_its_engine_needs",
    ),
    backend(
        name="the start of the attempt before stays",
        before="started_at = NULL, progress = NULL WHERE",
        after="progress = NULL WHERE",
        seen_by="test_claim.py::test_a_claim_clears_start_and_progress_of_the_attempt_before",
    ),
    backend(
        name="the progress of the attempt before stays",
        before="started_at = NULL, progress = NULL WHERE",
        after="started_at = NULL WHERE",
        seen_by="test_claim.py::test_a_claim_clears_start_and_progress_of_the_attempt_before",
    ),
    backend(
        name="jobs are claimed before they are due",
        before="WHERE ready = 1 AND queue = :queue ",
        after="WHERE ready IN (0, 1) AND queue = :queue ",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="jobs of any queue are claimed",
        before="WHERE ready = 1 AND queue = :queue ",
        after="WHERE ready = 1 AND queue >= :queue ",
        seen_by="test_claim.py::test_only_the_queues_asked_for_and_each_has_its_own_room",
    ),
    # Due times
    backend(
        name="a job due this very instant is not promoted",
        before="WHERE ready = 0 AND available_at <= :now",
        after="WHERE ready = 0 AND available_at < :now",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="a promotion ignores the time",
        before="WHERE ready = 0 AND available_at <= :now",
        after="WHERE ready = 0 AND available_at >= :now",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="a promotion ignores its limit",
        before="ORDER BY available_at, id LIMIT :limit)",
        after="ORDER BY available_at, id LIMIT :limit * 100)",
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    backend(
        name="a promotion takes the latest first",
        before="ORDER BY available_at, id LIMIT :limit)",
        after="ORDER BY available_at DESC, id LIMIT :limit)",
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    backend(
        name="microseconds are lost",
        before="return (instant - EPOCH) // MICROSECOND",
        after="return (instant - EPOCH) // MICROSECOND // 1000 * 1000",
        seen_by="test_insert.py::test_a_minimal_job_gets_the_documented_defaults",
    ),
    backend(
        name="an instant in another zone is stored as if it were in UTC",
        before="return (instant - EPOCH) // MICROSECOND",
        after="return (instant.replace(tzinfo=EPOCH.tzinfo) - EPOCH) // MICROSECOND",
        seen_by="test_insert.py::test_an_instant_in_another_zone_is_the_same_instant",
    ),
    # Enqueueing
    backend(
        name="ids are returned in the wrong order",
        before="return sorted(id for (id,) in found)",
        after="return sorted((id for (id,) in found), reverse=True)",
        seen_by="test_insert.py::test_many_jobs_get_their_ids_in_order",
    ),
    backend(
        name="a queue that exists is overwritten",
        before="ON CONFLICT (name) DO NOTHING",
        after="ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency",
        seen_by="test_queues.py::test_an_existing_queue_is_not_created_again",
    ),
    backend(
        name="everybody has created the queue",
        before="return await session.execute(statement, row) == 1",
        after="return await session.execute(statement, row) >= 0",
        seen_by="test_queues.py::test_an_existing_queue_is_not_created_again",
    ),
    schema(
        name="ids are used again",
        before="INTEGER PRIMARY KEY AUTOINCREMENT",
        after="INTEGER PRIMARY KEY",
        seen_by="test_insert.py::test_ids_are_never_used_again",
    ),
    schema(
        name="jobs' queues are compared without regard to case",
        before="    queue TEXT NOT NULL,\n",
        after="    queue TEXT NOT NULL COLLATE NOCASE,\n",
        seen_by="test_claim.py::test_queue_names_are_told_apart_by_case_and_in_full",
    ),
    schema(
        name="queues that differ in case are one",
        before="    name TEXT NOT NULL PRIMARY KEY,\n",
        after="    name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,\n",
        seen_by="test_queues.py::test_a_created_queue_is_read_back",
    ),
    # Reading and counting
    backend(
        name="text is a pattern",
        before='f"instr(lower({column}), lower(:{parameter})) > 0"',
        after="f\"{column} LIKE '%' || :{parameter} || '%'\"",
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="text is found in its own case only",
        before='f"instr(lower({column}), lower(:{parameter})) > 0"',
        after='f"instr({column}, :{parameter}) > 0"',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="a part of a tag is enough",
        before='"EXISTS(SELECT 1 FROM json_each(tags) WHERE value = :tag)"',
        after='"instr(tags, :tag) > 0"',
        seen_by="test_reading.py::test_filter_by_tag_finds_whole_tags_only",
    ),
    backend(
        name="jobs waiting for their time are not counted",
        before="{count(f'WHERE {self.READY}')} + {count(f'WHERE {self.NOT_YET}')}",
        after="{count(f'WHERE {self.READY}')}",
        seen_by="test_counts.py::test_jobs_that_wait_for_their_time_are_counted_as_waiting",
    ),
    backend(
        name="buckets ignore fractions of a second",
        before="({column} - :start_us)",
        after="({column} / 1000000 * 1000000 - :start_us)",
        seen_by="test_counts.py::test_jobs_are_counted_where_they_came_and_where_they_ended",
    ),
    # Transactions
    backend(
        name="tasks write into each other's transactions",
        before="        async with self._turn:\n            yield self._opened(self._writer)",
        after="        yield self._opened(self._writer)",
        seen_by="test_contention.py::test_claimers_finishers_and_producers_at_once_lose_and_repeat_nothing",
    ),
    sessions(
        name="a transaction begins as a reader",
        before='"BEGIN IMMEDIATE")\n\n    async def commit',
        after='"BEGIN")\n\n    async def commit',
        seen_by="test_sqlite.py::test_a_transaction_has_the_write_lock_from_its_beginning",
    ),
    sessions(
        name="a lock held for too long is no conflict",
        before="CONFLICTS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})",
        after="CONFLICTS = frozenset({sqlite3.SQLITE_LOCKED})",
        seen_by="test_sqlite.py::test_a_lock_held_for_too_long_makes_the_store_unavailable",
    ),
    urls(
        name="an enqueue does not survive a power cut",
        before='SYNCHRONOUS = {"app": "full",',
        after='SYNCHRONOUS = {"app": "normal",',
        seen_by="test_sqlite.py::test_an_enqueue_survives_a_power_cut_and_an_engine_need_not",
    ),
)
