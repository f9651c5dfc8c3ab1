"""PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

backend = partial(Mutant, file="backends/postgres/backend.py")
pools = partial(Mutant, file="backends/pool.py")
sessions = partial(Mutant, file="backends/postgres/session.py")
urls = partial(Mutant, file="backends/postgres/url.py")
schema = partial(Mutant, file="backends/migrations/postgres/0001_jobs_queues_engines.sql")

MUTANTS: Sequence[Mutant] = (
    # The fence
    backend(
        name="a change is written whoever holds the job",
        before="AND j.lease IS NOT DISTINCT FROM {new('the_lease')} AND",
        after="AND",
        seen_by="test_fence.py::test_a_former_owner_cannot_finish_what_another_holds",
    ),
    backend(
        name="no lease matches any lease",
        before="j.lease IS NOT DISTINCT FROM {new('the_lease')}",
        after="({new('the_lease')} IS NULL OR j.lease = {new('the_lease')})",
        seen_by="test_fence.py::test_no_lease_matches_no_lease_only",
    ),
    # Claiming
    backend(
        name="a claim waits for another transaction",
        before='f"ORDER BY priority DESC, available_at, id LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED) f',
        after='f"ORDER BY priority DESC, available_at, id LIMIT {most} FOR NO KEY UPDATE) f',
        seen_by="test_row_locks.py::test_a_claim_goes_past_jobs_that_another_transaction_holds",
    ),
    backend(
        name="a claim locks nothing",
        before='f"ORDER BY priority DESC, available_at, id LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED) f',
        after='f"ORDER BY priority DESC, available_at, id LIMIT {most}) f',
        seen_by="test_contention.py::test_each_job_goes_to_one_claimer_and_each_gets_them_in_order",
    ),
    backend(
        name="the lowest priority goes first",
        before='f"ORDER BY priority DESC, available_at, id LIMIT {most}',
        after='f"ORDER BY priority, available_at, id LIMIT {most}',
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    backend(
        name="the id counts before the time",
        before='f"ORDER BY priority DESC, available_at, id LIMIT {most}',
        after='f"ORDER BY priority DESC, id, available_at LIMIT {most}',
        seen_by="test_claim.py::test_the_first_in_order_are_taken_whatever_their_ids",
    ),
    backend(
        name="the claim is returned in any order",
        before="ordered = sorted(rows, key=RANK)",
        after="ordered = list(rows)",
        seen_by="test_claim.py::test_order_is_priority_then_due_time_then_id",
    ),
    backend(
        name="the queues of a claim are returned in any order",
        before="ordered.sort(key=lambda row: places[row[QUEUE]])",
        after="ordered.sort(key=RANK)",
        seen_by="test_claim.py::test_only_the_queues_asked_for_and_each_has_its_own_room",
    ),
    backend(
        name="one more than there is room for",
        before="f LIMIT q.room)",
        after="f LIMIT q.room + 1)",
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
        name="jobs are claimed before they are due",
        before="WHERE ready AND queue = q.name ",
        after="WHERE ready IS NOT NULL AND queue = q.name ",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="jobs of other queues are claimed",
        before="WHERE ready AND queue = q.name ",
        after="WHERE ready AND queue >= q.name ",
        seen_by="test_claim.py::test_only_the_queues_asked_for_and_each_has_its_own_room",
    ),
    # Due times
    backend(
        name="a promotion waits for another transaction",
        before="LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED",
        after="LIMIT :limit FOR NO KEY UPDATE",
        seen_by="test_row_locks.py::test_a_promotion_goes_past_jobs_that_another_transaction_holds",
    ),
    backend(
        name="a job due this very instant is not promoted",
        before="AND available_at <= :now",
        after="AND available_at < :now",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="a promotion ignores its limit",
        before="LIMIT :limit FOR",
        after="LIMIT :limit * 100 FOR",
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    backend(
        name="a promotion takes the latest first",
        before="ORDER BY available_at, id LIMIT :limit",
        after="ORDER BY available_at DESC, id LIMIT :limit",
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    backend(
        name="microseconds are lost",
        before="        return instant\n",
        after="        return instant.replace(microsecond=instant.microsecond // 1000 * 1000)\n",
        seen_by="test_insert.py::test_a_minimal_job_gets_the_documented_defaults",
    ),
    # Enqueueing
    backend(
        name="ids of a batch are returned in the wrong order",
        before="ORDER BY number RETURNING id",
        after="ORDER BY number DESC RETURNING id",
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
    # Reading and counting
    backend(
        name="text is a pattern",
        before="""f'strpos(lower({column} COLLATE "C"), lower(:{parameter} COLLATE "C")) > 0'""",
        after="""f"{column} ILIKE '%' || :{parameter} || '%'\"""",
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="text is found in its own case only",
        before="""f'strpos(lower({column} COLLATE "C"), lower(:{parameter} COLLATE "C")) > 0'""",
        after='f"strpos({column}, :{parameter}) > 0"',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="a part of a tag is enough",
        before='"tags::jsonb ? :tag"',
        after='"strpos(tags, :tag) > 0"',
        seen_by="test_reading.py::test_filter_by_tag_finds_whole_tags_only",
    ),
    backend(
        name="buckets ignore fractions of a second",
        before="date_part('epoch', {column} -",
        after="date_part('epoch', date_trunc('second', {column}) -",
        seen_by="test_counts.py::test_jobs_are_counted_where_they_came_and_where_they_ended",
    ),
    schema(
        name="names are ordered by the server's language",
        before='CREATE TABLE {schema}{prefix}queues (\n    name text COLLATE "C" PRIMARY KEY',
        after='CREATE TABLE {schema}{prefix}queues (\n    name text COLLATE "en-x-icu" PRIMARY KEY',
        seen_by="test_queues.py::test_names_are_in_the_order_of_their_codes",
    ),
    # Transactions
    backend(
        name="a deletion does not lock what it looked at",
        before='LOCK_ROWS: ClassVar[str] = " FOR UPDATE"',
        after='LOCK_ROWS: ClassVar[str] = ""',
        seen_by="test_row_locks.py::test_a_deletion_that_waited_spares_what_is_held_by_then",
    ),
    backend(
        name="steps of the schema are applied without a lock",
        before='await session.fetch("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", {"name": self.steps})',
        after="await asyncio.sleep(0)",
        seen_by="test_migrations.py::test_many_migrating_at_once_apply_each_step_once",
    ),
    sessions(
        name="a deadlock is no conflict",
        before='CONFLICTS = frozenset({"40001", "40P01", "55P03"})',
        after='CONFLICTS = frozenset({"40001", "55P03"})',
        seen_by="test_postgres_trouble.py::test_a_deadlock_is_tried_again_until_both_have_done_their_work",
    ),
    # Connections
    sessions(
        name="a lost connection is asked to roll back",
        before="with suppress(asyncpg.InterfaceError):  # a lost",
        after="with suppress(KeyError):  # a lost",
        seen_by="test_postgres_trouble.py::test_a_transaction_that_loses_its_connection_leaves_nothing",
    ),
    sessions(
        name="an error quotes the row",
        before="return str(error.args[0]) if isinstance(error, asyncpg.PostgresError) else",
        after="return str(error) if isinstance(error, asyncpg.PostgresError) else",
        seen_by="test_postgres_trouble.py::test_an_error_does_not_quote_what_is_in_a_row",
    ),
    pools(
        name="giving a connection back takes a round trip",
        before="        await self._pool.take_back(self._lent, error)",
        after="        await self._pool.take_back(self._lent, error or BackendUnavailable())",
        seen_by="test_postgres.py::test_giving_a_connection_back_costs_no_round_trip",
    ),
    urls(
        name="statements are prepared behind a pooler",
        before='"statement_cache_size": 100 if prepared else 0',
        after='"statement_cache_size": 100',
        seen_by="test_postgres.py::test_all_works_where_each_transaction_runs_on_another_connection",
    ),
    # Plans
    backend(
        name="the planner takes a claim for a big query",
        before="LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED) f LIMIT q.room)",
        after="LIMIT q.room FOR NO KEY UPDATE SKIP LOCKED) f)",
        seen_by="test_postgres.py::test_the_planner_takes_no_claim_for_a_big_query",
    ),
    schema(
        name="a claim may read all that waits",
        before="WHERE ready IN (TRUE, FALSE)",
        after="WHERE ready IS NOT NULL",
        seen_by="test_postgres.py::test_claims_looks_and_ends_go_by_their_indexes_also_when_statistics_are_wrong",
    ),
    schema(
        name="every end moves in an index",
        before="WHERE cancel_requested_at IS NOT NULL",
        after="WHERE state IN ('claimed', 'running')",
        seen_by="test_postgres.py::test_starts_and_ends_touch_no_index",
    ),
    # Connections
    backend(
        name="connections to a server that takes no writes any more are kept",
        before="        if self._own is not None and isinstance(error, BackendUnavailable) and read_only(error):",
        after="        if False:",
        seen_by="test_postgres_trouble.py::test_a_server_that_takes_no_writes_any_more_loses_all_connections",
    ),
    backend(
        name="a clock that was read long ago is not read again",
        before="if measuring and self._time.stale:",
        after="if False:",
        seen_by="test_postgres.py::test_a_stale_clock_is_read_again_before_a_write",
    ),
    backend(
        name="everybody hears of all tables",
        before="        return name if len(name) < 64 else",
        after='        return "sidequest" if len(name) < 64 else',
        seen_by="test_postgres.py::test_nobody_hears_of_other_tables",
    ),
    schema(
        name="an index names what changes while a job runs",
        before="CREATE INDEX {prefix}jobs_cancel ON",
        after="CREATE INDEX {prefix}jobs_state ON {schema}{prefix}jobs (state);\nCREATE INDEX {prefix}jobs_cancel ON",
        seen_by="test_postgres.py::test_starts_and_ends_touch_no_index",
    ),
    sessions(
        name="a serialization failure is no conflict",
        before='CONFLICTS = frozenset({"40001", "40P01", "55P03"})',
        after='CONFLICTS = frozenset({"40P01", "55P03"})',
        seen_by="test_postgres_trouble.py::test_a_serialization_failure_is_tried_again",
    ),
)
