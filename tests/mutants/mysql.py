"""MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

backend = partial(Mutant, file="backends/mysql/backend.py")
pool = partial(Mutant, file="backends/mysql/pool.py")
pools = partial(Mutant, file="backends/pool.py")
sessions = partial(Mutant, file="backends/mysql/session.py")
schema = partial(Mutant, file="backends/migrations/mysql/0001_jobs_queues_engines.sql")

MUTANTS: Sequence[Mutant] = (
    # The fence
    backend(
        name="a change is written whoever holds the job",
        before='return f"{among} AND lease <=> {sign} AND {guard(shape)}"',
        after='return f"{among} AND {guard(shape)}"',
        seen_by="test_fence.py::test_a_former_owner_cannot_finish_what_another_holds",
    ),
    backend(
        name="no lease matches any lease",
        before="AND lease <=> {sign} AND",
        after="AND ({sign} IS NULL OR lease = {sign}) AND",
        seen_by="test_fence.py::test_no_lease_matches_no_lease_only",
    ),
    backend(
        name="the first lease stands for the whole batch",
        before='    sign, lease = _each("the_lease", rows)',
        after='    sign, lease = _each("the_lease", rows[:1])',
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
    ),
    backend(
        name="the first value stands for the whole batch",
        before="    if all(row[name] == first for row in rows):",
        after='    if name != "the_lease":',
        seen_by="test_apply.py::test_a_mixed_batch_writes_every_change "
        "test_texts.py::test_fifty_mebibytes_in_one_insert_and_in_one_apply",
    ),
    backend(
        name="a batch with a refused change is not written again",
        before="        if found:\n            await self._write(",
        after="        if not found:\n            await self._write(",
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
    ),
    backend(
        name="a batch is not taken back before it is written again",
        before="        await session.rollback_to_savepoint()\n",
        after="",
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
    ),
    # Claiming
    backend(
        name="a claim waits for another transaction",
        before="ORDER BY urgency, available_at, id LIMIT %s FOR UPDATE SKIP LOCKED)",
        after="ORDER BY urgency, available_at, id LIMIT %s FOR UPDATE)",
        seen_by="test_row_locks.py::test_a_claim_goes_past_jobs_that_another_transaction_holds",
    ),
    backend(
        name="a claim locks nothing",
        before="ORDER BY urgency, available_at, id LIMIT %s FOR UPDATE SKIP LOCKED)",
        after="ORDER BY urgency, available_at, id LIMIT %s)",
        seen_by="test_contention.py::test_each_job_goes_to_one_claimer_and_each_gets_them_in_order",
    ),
    schema(
        name="the lowest priority goes first",
        before="urgency INT AS (-priority) STORED",
        after="urgency INT AS (priority) STORED",
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    backend(
        name="the id counts before the time",
        before="ORDER BY urgency, available_at, id LIMIT %s",
        after="ORDER BY urgency, id, available_at LIMIT %s",
        seen_by="test_claim.py::test_the_first_in_order_are_taken_whatever_their_ids",
    ),
    backend(
        name="one more than there is room for",
        before="for queue, room in rooms.items() if room > 0]",
        after="for queue, room in [(queue, room + 1) for queue, room in rooms.items() if room > 0]]",
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    backend(
        name="no room is room for all",
        before="for queue, room in rooms.items() if room > 0]",
        after="for queue, room in [(queue, room or 99) for queue, room in rooms.items()]]",
        seen_by="test_claim.py::test_no_room_claims_nothing",
    ),
    backend(
        name="the attempt does not rise",
        before="attempt = attempt + 1, engine",
        after="attempt = attempt, engine",
        seen_by="test_claim.py::test_a_claim_changes_state_holder_attempt_and_time_and_nothing_else",
    ),
    backend(
        name="a claim returns the attempt before it",
        before='.replace(" attempt,", " attempt + 1,", 1)',
        after="",
        seen_by="test_claim.py::test_a_claimed_job_carries_all_that_its_engine_needs",
    ),
    backend(
        name="a claimed job stays ready",
        before="state = 'claimed', ready = NULL, attempt",
        after="state = 'claimed', attempt",
        seen_by="test_claim.py::test_a_job_is_claimed_once",
    ),
    backend(
        name="the start of the attempt before stays",
        before="claimed_at = :now, started_at = NULL, progress",
        after="claimed_at = :now, progress",
        seen_by="test_claim.py::test_a_claim_clears_start_and_progress_of_the_attempt_before",
    ),
    backend(
        name="a claim is not one transaction",
        before="rows = await self.transact(partial(self._claim_all, orders=orders, asked=asked))",
        after="rows = await self.autocommit(partial(self._claim_all, orders=orders, asked=asked))",
        seen_by="test_contention.py::test_each_job_goes_to_one_claimer_and_each_gets_them_in_order",
    ),
    backend(
        name="jobs are claimed before they are due",
        before="WHERE ready = 1 AND queue = %s",
        after="WHERE ready IN (0, 1) AND queue = %s",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="jobs of other queues are claimed",
        before="WHERE ready = 1 AND queue = %s",
        after="WHERE ready = 1 AND queue >= %s",
        seen_by="test_claim.py::test_only_the_queues_asked_for_and_each_has_its_own_room",
    ),
    backend(
        name="the queues of a claim are returned in any order",
        before="(places[row[3]], row[19], row[20], row[0])",
        after="(row[19], row[20], row[0])",
        seen_by="test_claim.py::test_only_the_queues_asked_for_and_each_has_its_own_room",
    ),
    # Due times
    backend(
        name="a promotion waits for another transaction",
        before="LIMIT :limit FOR UPDATE SKIP LOCKED",
        after="LIMIT :limit FOR UPDATE",
        seen_by="test_row_locks.py::test_a_promotion_goes_past_jobs_that_another_transaction_holds",
    ),
    backend(
        name="a job due this very instant is not promoted",
        before="WHERE later = 1 AND available_at <= :now",
        after="WHERE later = 1 AND available_at < :now",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    backend(
        name="a promotion ignores its limit",
        before='{"now": self.to_column(self.now()), "limit": limit}',
        after='{"now": self.to_column(self.now()), "limit": limit * 100}',
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
        before='isoformat(" ", "microseconds")',
        after='isoformat(" ", "seconds")',
        seen_by="test_insert.py::test_a_minimal_job_gets_the_documented_defaults",
    ),
    schema(
        name="due times have milliseconds",
        before="available_at DATETIME(6) NOT NULL",
        after="available_at DATETIME(3) NOT NULL",
        seen_by="test_time.py::test_due_is_exact_to_the_tick",
    ),
    backend(
        name="an instant in another zone is stored as if it were in UTC",
        before="instant.astimezone(UTC).replace(tzinfo=None)",
        after="instant.replace(tzinfo=None)",
        seen_by="test_zones.py::test_an_instant_of_any_zone_is_written_and_compared_as_what_it_is",
    ),
    # Enqueueing
    backend(
        name="ids are returned in the wrong order",
        before="return range(first, first + count * step, step)",
        after="return range(first, first + count * step, step)[::-1]",
        seen_by="test_insert.py::test_many_jobs_get_their_ids_in_order",
    ),
    backend(
        name="a queue that exists is overwritten",
        before='INSERT IGNORE INTO {self.queues} ({columns}) VALUES ({parameters})"',
        after='REPLACE INTO {self.queues} ({columns}) VALUES ({parameters})"',
        seen_by="test_row_locks.py::test_a_queue_that_another_transaction_creates_is_kept_as_it_is",
    ),
    backend(
        name="a queue that exists is not looked for",
        before="            return False\n        columns",
        after="            return True\n        columns",
        seen_by="test_queues.py::test_an_existing_queue_is_not_created_again",
    ),
    backend(
        name="whoever loses the race for a queue believes to have won it",
        before='VALUES ({parameters})", row) == 1',
        after='VALUES ({parameters})", row) >= 0',
        seen_by="test_row_locks.py::test_a_queue_that_another_transaction_creates_is_kept_as_it_is",
    ),
    # Reading and counting
    backend(
        name="text is a pattern",
        before='return f"instr({found}, {text} COLLATE hebrew_bin) > 0"',
        after="return f\"lower({column}) LIKE concat('%', lower(:{parameter}), '%')\"",
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="text is found in its own case only",
        before='return f"instr({found}, {text} COLLATE hebrew_bin) > 0"',
        after='return f"instr({column}, :{parameter}) > 0"',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="cases of letters beyond ASCII do not matter",
        before='return f"instr({found}, {text} COLLATE hebrew_bin) > 0"',
        after='return f"instr(lower({column}), lower(:{parameter})) > 0"',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    backend(
        name="a part of a tag is enough",
        before='"json_contains(tags, json_quote(:tag))"',
        after='"instr(tags, :tag) > 0"',
        seen_by="test_reading.py::test_filter_by_tag_finds_whole_tags_only",
    ),
    backend(
        name="buckets ignore fractions of a second",
        before="timestampdiff(MICROSECOND, '1970-01-01', {column})",
        after="timestampdiff(SECOND, '1970-01-01', {column}) * 1000000",
        seen_by="test_counts.py::test_jobs_are_counted_where_they_came_and_where_they_ended",
    ),
    schema(
        name="blanks at the end of a queue's name do not count",
        before="    name VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */",
        after="    name VARCHAR(100) COLLATE utf8mb4_bin",
        seen_by="test_queues.py::test_queues_are_told_apart_by_case_and_to_the_last_letter",
    ),
    schema(
        name="queues that differ in case are one",
        before="    name VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */",
        after="    name VARCHAR(100) COLLATE utf8mb4_general_ci",
        seen_by="test_queues.py::test_queues_are_told_apart_by_case_and_to_the_last_letter",
    ),
    schema(
        name="jobs' queues are compared without regard to case",
        before="    queue VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */",
        after="    queue VARCHAR(100) COLLATE utf8mb4_general_ci",
        seen_by="test_claim.py::test_queue_names_are_told_apart_by_case_and_in_full",
    ),
    schema(
        name="errors are cut off",
        before="errors LONGTEXT",
        after="errors TEXT",
        seen_by="test_texts.py::test_errors_may_be_as_long_as_they_get",
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
        before='((locked,),) = await session.fetch("SELECT GET_LOCK(:name, :seconds)", lock)',
        after="locked = True",
        seen_by="test_migrations.py::test_many_migrating_at_once_apply_each_step_once",
    ),
    sessions(
        name="a deadlock is no conflict",
        before="CONFLICTS = frozenset({",
        after="CONFLICTS = frozenset[int]() - frozenset({",
        seen_by="test_contention.py::test_batches_that_cross_each_other_are_both_written",
    ),
    sessions(
        name="a stricter isolation locks gaps",
        before='"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; "',
        after='"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; "',
        seen_by="test_row_locks.py::test_a_claim_that_is_not_over_holds_up_nobody",
    ),
    sessions(
        name="the server cuts off what is too long",
        before="sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        after="sql_mode = ''",
        seen_by="test_apply.py::test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing",
    ),
    sessions(
        name="a statement may become too large for the server",
        before="n - begin == most or weight + more > STATEMENT",
        after="n - begin == most",
        seen_by="test_texts.py::test_fifty_mebibytes_in_one_insert_and_in_one_apply",
        databases=("mariadb",),  # MySQL accepts 64 MiB unless told otherwise
    ),
    # Connections
    pool(
        name="a connection that broke is used again",
        before="        return not reader.eof_received and reader.exception() is None",
        after="        return True",
        seen_by="test_mysql.py::test_connections_that_broke_while_nobody_used_them_are_replaced",
    ),
    pools(
        name="old connections are used for ever",
        before=" and monotonic() - pooled.since < LIFE",
        after="",
        seen_by="test_mysql.py::test_old_connections_are_replaced",
    ),
    backend(
        name="connections to a server that takes no writes any more are kept",
        before="                self._own.expire()",
        after="                pass",
        seen_by="test_mysql.py::test_a_server_that_becomes_read_only_loses_all_our_connections",
    ),
    backend(
        name="ids are taken for going in steps of one",
        before="return range(first, first + count * step, step)",
        after="return range(first, first + count)",
        seen_by="test_mysql.py::test_ids_are_right_where_several_servers_take_turns_in_giving_them",
    ),
)
