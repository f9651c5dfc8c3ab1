"""What all SQL databases share: statements, changes, sessions, rows, filters, schema steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

statements = partial(Mutant, file="backends/sql/backend.py")
dialects = partial(Mutant, file="backends/sql/dialect.py")
instants = partial(Mutant, file="backends/instants.py")
shapes = partial(Mutant, file="backends/shapes.py")
work = partial(Mutant, file="backends/work.py")
changes = partial(Mutant, file="backends/sql/changes.py")
sessions = partial(Mutant, file="backends/sql/session.py")
rows = partial(Mutant, file="backends/sql/rows.py")
joined = partial(Mutant, file="backends/joined.py", seen_by="tests/unit/backends/test_joined.py", databases=("sqlite",))
filters = partial(Mutant, file="backends/sql/filters.py")
steps = partial(Mutant, file="backends/migrations/__init__.py")

MUTANTS: Sequence[Mutant] = (
    # The fence
    changes(
        name="a change does not ask which state the job is in",
        before='return f"state IN ({listed(shape.before)}){not_canceled}"',
        after='return f"1 = 1{not_canceled}"',
        seen_by="test_fence.py::test_a_released_owner_cannot_finish",
    ),
    changes(
        name="a job asked to cancel is put back to waiting",
        before='" AND cancel_requested_at IS NULL" if shape.state is State.WAITING else ""',
        after='""',
        seen_by="test_fence.py::test_a_job_asked_to_cancel_never_waits_again",
    ),
    statements(
        name="apply does not tell what was refused",
        before="refused.update(await self.write_group(session, group, now))",
        after="await self.write_group(session, group, now)",
        seen_by="test_fence.py::test_a_released_owner_cannot_finish",
    ),
    statements(
        name="rows that others hold are waited for although they are to be skipped",
        before="ORDER BY id{self.LOCK_FREE_ROWS}",
        after="ORDER BY id{self.LOCK_ROWS}",
        seen_by="test_row_locks.py::test_changes_may_go_past_jobs_that_another_transaction_holds",
        databases=("postgres", "mariadb", "mysql"),
    ),
    statements(
        name="rows that others hold do not count as refused",
        before="return refused | {change.id for change in changes if change.id not in free}",
        after="return refused",
        seen_by="test_row_locks.py::test_changes_may_go_past_jobs_that_another_transaction_holds",
        databases=("postgres", "mariadb", "mysql"),
    ),
    statements(
        name="an engine that was given up can beat",
        before='f"WHERE id = :id AND given_up_by IS NULL"',
        after='f"WHERE id = :id"',
        seen_by="test_engines.py::test_an_engine_that_was_given_up_stays_listed_and_cannot_beat",
    ),
    statements(
        name="a beat does not note the worker groups",
        before="heartbeat_at = :now, workers = :workers ",
        after="heartbeat_at = :now ",
        seen_by="test_engines.py::test_an_engine_says_where_it_lives_and_at_each_beat_which_worker_groups_it_has",
    ),
    statements(
        name="an engine is given up although it has beaten meanwhile",
        before='"" if beat is None else " AND beat = :beat"',
        after='""',
        seen_by="test_engines.py::test_an_engine_that_has_beaten_meanwhile_is_not_given_up",
    ),
    statements(
        name="who gives up an engine last is noted",
        before="SET given_up_by = :by WHERE id = :id AND given_up_by IS NULL{as_seen}",
        after="SET given_up_by = :by WHERE id = :id{as_seen}",
        seen_by="test_engines.py::test_who_gives_up_an_engine_first_is_noted_and_the_others_are_told_that_it_is_given_up",
    ),
    statements(
        name="a beat takes its turn with all other work",
        before="async with self.beating(within) as session:",
        after="async with self.writer() as session:",
        seen_by="test_row_locks.py::test_a_beat_waits_for_no_other_work",
        databases=("postgres", "mariadb", "mysql"),
    ),
    statements(
        name="progress is saved without a look at the lease",
        before="WHERE id = :id AND lease = :lease AND state",
        after="WHERE id = :id AND state",
        seen_by="test_progress_cancel.py::test_progress_of_a_former_owner_is_ignored",
    ),
    statements(
        name="progress is saved after the end",
        before="AND lease = :lease AND state IN {HELD_STATES}",
        after="AND lease = :lease",
        seen_by="test_progress_cancel.py::test_progress_of_an_ended_job_is_ignored",
    ),
    # Changes
    shapes(
        name="two changes of one job are written in any order",
        before="shapes, seen, shape = {}, set(), None",
        after="pass",
        seen_by="test_apply.py::test_two_changes_of_one_job_are_written_in_their_order",
    ),
    changes(
        name="a change overwrites a column that it did not name",
        before="for column in shape.columns]\n    if shape.state is not None",
        after='for column in shape.columns] + (["progress = NULL"] if "progress" not in shape.columns else [])\n'
        "    if shape.state is not None",
        seen_by="test_apply.py::test_columns_not_named_stay",
    ),
    shapes(
        name="a change may name the state and the id",
        before='"priority", "available_at", "attempt",',
        after='"state", "id", "priority", "available_at", "attempt",',
        seen_by="test_apply.py::test_a_change_may_name_known_columns_only",
    ),
    changes(
        name="a job sent back for now is not claimable",
        before='[due <= now for due in columns["available_at"]]',
        after='[due < now for due in columns["available_at"]]',
        seen_by="test_time.py::test_a_job_sent_back_for_now_is_claimable_at_once",
    ),
    changes(
        name="a job sent back without a time is claimable before it is due",
        before='else "(available_at <= :now)"',
        after='else "(available_at = available_at)"',
        seen_by="test_time.py::test_a_job_sent_back_without_a_time_keeps_the_one_it_had",
    ),
    changes(
        name="a held job that gets a new due time is claimable again",
        before="CASE WHEN ready IS NULL THEN NULL ELSE {value('ready')} END",
        after="{value('ready')}",
        seen_by="test_time.py::test_a_new_due_time_without_a_state_moves_a_waiting_job_only",
    ),
    changes(
        name="an hour that comes twice is one value for all changes of a batch",
        before="len(set(map(id, values))) == 1",
        after="len(set(values)) == 1",
        seen_by="test_zones.py::test_a_job_sent_back_in_any_zone_waits_as_long_as_it_should",
    ),
    changes(
        name="the first fence stands for the whole batch",
        before="for name, values in columns.items() if all_the_same(values)}",
        after="for name, values in columns.items() if name == 'the_lease' or all_the_same(values)}",
        seen_by="test_fence.py::test_jobs_of_several_claims_are_written_together",
    ),
    changes(
        name="a job that ended keeps its unique key",
        before='        parts.append("unique_lock = NULL")',
        after="        pass",
        seen_by="test_sqlite.py::test_an_ended_job_frees_its_unique_key "
        "test_postgres.py::test_an_ended_job_frees_its_unique_key "
        "test_mysql.py::test_an_ended_job_frees_its_unique_key",
    ),
    # Transactions and conflicts
    dialects(
        name="what belongs together is not one transaction",
        before="persist(lambda: transaction(session, work), self.patience)",
        after="persist(lambda: work(session), self.patience)",
        seen_by="test_insert.py::test_a_bulk_with_one_bad_job_stores_nothing "
        "test_apply.py::test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing",
    ),
    dialects(
        name="conflicts are not tried again",
        before="persist(lambda: transaction(session, work), self.patience)",
        after="transaction(session, work)",
        seen_by="test_contention.py::test_batches_that_cross_each_other_are_both_written "
        "test_sqlite.py::test_a_lock_held_for_too_long_makes_the_store_unavailable",
    ),
    sessions(
        name="a unit that failed is not rolled back",
        before="        await session.rollback()\n        raise",
        after="        raise",
        seen_by="test_contention.py::test_batches_that_cross_each_other_are_both_written "
        "test_insert.py::test_a_bulk_with_one_bad_job_stores_nothing "
        "test_mysql.py::test_after_a_lock_timeout_nothing_is_left_of_the_first_try",
    ),
    work(
        name="a sent write is cancelled half-way",
        before="return await asyncio.shield(task)",
        after="return await task",
        seen_by="test_row_locks.py::test_a_cancelled_write_that_was_sent_is_finished_first "
        "test_sqlite.py::test_a_cancelled_write_that_was_sent_is_finished_first",
    ),
    # Enqueueing
    statements(
        name="a queue counts as created although the insert failed",
        before="        ids = await (self.autocommit if",
        after="        self._known_queues.update(fresh)\n        ids = await (self.autocommit if",
        seen_by="test_insert.py::test_a_bulk_with_one_bad_job_stores_nothing",
    ),
    statements(
        name="new queues ignore the defaults given",
        before="QueueRecord(name, *_settings(queue_defaults))",
        after="QueueRecord(name)",
        seen_by="test_insert.py::test_a_new_queue_gets_the_defaults_given",
    ),
    statements(
        name="only the first fresh queue of a batch is created",
        before="for name in fresh]",
        after="for name in fresh[:1]]",
        seen_by="test_insert.py::test_every_queue_of_a_batch_is_created",
    ),
    rows(
        name="a job due this very instant is not claimable",
        before="job.queue, due <= now,",
        after="job.queue, due < now,",
        seen_by="test_time.py::test_a_job_due_now_or_in_the_past_needs_no_promotion",
    ),
    rows(
        name="a future job is claimable at once",
        before="job.queue, due <= now,",
        after="job.queue, True,",
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    joined(
        name="who is cancelled while waiting is stored all the same",
        before="self._waiting.remove(mine)",
        after="pass",
    ),
    joined(
        name="who is cancelled on the way leaves before the write has ended",
        before="await mine.has_arrived()",
        after="pass",
    ),
    joined(
        name="one refused job is the failure of all",
        before="        except SidequestError as error:",
        after="        except Exception as error:",
    ),
    joined(
        name="all get one and the same error",
        before="error if len(group) == 1 else _own(error)",
        after="error",
    ),
    joined(
        name="the statement has the context of its first caller",
        before="undisturbed(self._write_all())",
        after="asyncio.ensure_future(self._write_all())",
    ),
    joined(
        name="nobody is told of the jobs",
        before="                one.succeed(id)\n            self._stored()\n",
        after="                one.succeed(id)\n",
    ),
    rows(
        name="what differs among the jobs of a batch is taken from the first",
        before="if column.count(column[0]) < len(column)}",
        after="if column.count(column[0]) < 2}",
        seen_by="test_insert.py::test_jobs_that_differ_in_one_option_keep_it",
    ),
    rows(
        name="all jobs of a batch are taken to be alike",
        before="if way != known or columns is None:",
        after="if columns is None:",
        seen_by="test_insert.py::test_jobs_that_differ_in_one_thing_each_keep_what_is_theirs",
    ),
    rows(
        name="a bulk is one statement, however long",
        before="(n - begin == MOST or length + more > LONGEST)",
        after="n - begin == MOST",
        seen_by="test_texts.py::test_fifty_mebibytes_in_one_insert_and_in_one_apply",
        databases=("mariadb",),  # the others take as much
    ),
    statements(
        name="only the ids of the last statement are returned",
        before="ids += await self.insert_jobs(session, part, now)",
        after="ids = [*await self.insert_jobs(session, part, now)]",
        seen_by="test_insert.py::test_a_great_many_jobs_in_one_call_get_their_ids_in_order",
    ),
    instants(
        name="the shortest timeout becomes none",
        before="-(-span // MILLISECOND)",
        after="span // MILLISECOND",
        seen_by="test_insert.py::test_a_timeout_below_a_millisecond_does_not_become_none_at_all",
    ),
    statements(
        name="jobs do not become part of the user's transaction",
        before="session = None if connection is None else await self.session_on(connection)",
        after="session = None",
        seen_by="test_transactions.py::test_rolled_back_jobs_were_never_there",
    ),
    statements(
        name="a queue counts as created although the user's transaction is rolled back",
        before="        if session is not None:  # the transaction",
        after="        self._known_queues.update(fresh)\n        if session is not None:  # the transaction",
        seen_by="test_transactions.py::test_rolled_back_jobs_were_never_there",
    ),
    # Looking
    statements(
        name="a queue looks ready because of another queue's jobs",
        before="WHERE {self.READY} AND queue = q.name ORDER BY",
        after="WHERE {self.READY} ORDER BY",
        seen_by="test_time.py::test_look_tells_settings_readiness_and_the_next_due_time",
    ),
    statements(
        name="the latest due time counts as the next",
        before="WHERE {self.NOT_YET} ORDER BY available_at LIMIT 1",
        after="WHERE {self.NOT_YET} ORDER BY available_at DESC LIMIT 1",
        seen_by="test_time.py::test_look_tells_settings_readiness_and_the_next_due_time",
    ),
    statements(
        name="a dispatcher sees the lowest queue first",
        before='{self.queues} q ORDER BY priority DESC, name"',
        after='{self.queues} q ORDER BY priority, name"',
        seen_by="test_time.py::test_look_tells_settings_readiness_and_the_next_due_time",
    ),
    # Engines
    statements(
        name="a forgotten engine's heart goes on beating",
        before="session.execute(statement, values), timedelta(0))) == 1",
        after="session.execute(statement, values), timedelta(0))) >= 0",
        seen_by="test_engines.py::test_a_forgotten_engine_is_told_at_its_next_beat",
    ),
    statements(
        name="one engine's beat raises all",
        before='f"WHERE id = :id AND given_up_by IS NULL"',
        after='f"WHERE id >= :id AND given_up_by IS NULL"',
        seen_by="test_engines.py::test_a_beat_raises_the_counter_and_notes_the_time",
    ),
    statements(
        name="other engines are forgotten as well",
        before='f"DELETE FROM {self.engines} WHERE id = :id", {"id": id}',
        after='f"DELETE FROM {self.engines} WHERE id >= :id", {"id": id}',
        seen_by="test_engines.py::test_a_forgotten_engine_is_told_at_its_next_beat",
    ),
    statements(
        name="engines are listed by id",
        before="ORDER BY started_at, id",
        after="ORDER BY id",
        seen_by="test_engines.py::test_engines_are_listed_oldest_first",
    ),
    statements(
        name="an engine hears of other engines' cancel requests",
        before="WHERE engine = :engine AND cancel_requested_at IS NOT NULL",
        after="WHERE engine >= :engine AND cancel_requested_at IS NOT NULL",
        seen_by="test_progress_cancel.py::test_a_request_to_cancel_is_seen_by_its_engine_only",
    ),
    statements(
        name="cancel requests of jobs that are no longer held are reported",
        before='f"AND state IN {HELD_STATES} ORDER BY id"',
        after='"ORDER BY id"',
        seen_by="test_progress_cancel.py::test_a_request_to_cancel_is_over_when_the_job_is_no_longer_held",
    ),
    statements(
        name="an engine seems to hold what it has ended",
        before="WHERE engine = :engine AND state IN {HELD_STATES} ORDER BY id LIMIT",
        after="WHERE engine = :engine ORDER BY id LIMIT",
        seen_by="test_engines.py::test_held_by_gives_claimed_and_running_jobs_lowest_id_first",
    ),
    statements(
        name="what an engine has ended counts as held",
        before="WHERE state IN {HELD_STATES} GROUP BY engine",
        after="WHERE engine IS NOT NULL GROUP BY engine",
        seen_by="test_engines.py::test_held_jobs_are_counted_by_engine",
    ),
    # Reading
    statements(
        name="a page begins with the last job of the one before",
        before='f"{clause} AND id < :before" if clause else "WHERE id < :before"',
        after='f"{clause} AND id <= :before" if clause else "WHERE id <= :before"',
        seen_by="test_reading.py::test_the_newest_jobs_come_first_page_by_page",
    ),
    statements(
        name="a further page forgets the filter",
        before='f"{clause} AND id < :before" if clause else "WHERE id < :before"',
        after='"WHERE id < :before"',
        seen_by="test_reading.py::test_the_filter_holds_on_every_page",
    ),
    statements(
        name="what came in since begins with what was seen",
        before='f"WHERE id > :id{in_queue}',
        after='f"WHERE id >= :id{in_queue}',
        seen_by="test_reading.py::test_what_came_in_since_is_listed_oldest_first",
    ),
    statements(
        name="jobs that run count as ended",
        before="ended += [end for end in found if end.state.final]",
        after="ended += found",
        seen_by="test_reading.py::test_any_number_of_ids_can_be_asked_for",
    ),
    statements(
        name="only the first chunk of many ids is asked for",
        before="    while chunk := list(islice(ordered, CHUNK)):\n        yield chunk",
        after="    if chunk := list(islice(ordered, CHUNK)):\n        yield chunk",
        seen_by="test_reading.py::test_any_number_of_ids_can_be_asked_for",
    ),
    filters(
        name="one of the conditions is enough",
        before="WHERE {' AND '.join(parts)}",
        after="WHERE {' OR '.join(parts)}",
        seen_by="test_reading.py::test_all_conditions_must_hold",
    ),
    filters(
        name="until is included",
        before='"inserted_at < :until"',
        after='"inserted_at <= :until"',
        seen_by="test_reading.py::test_since_is_included_and_until_is_not",
    ),
    filters(
        name="text in errors is not found",
        before="for column in ('name', 'args', 'errors'))",
        after="for column in ('name', 'args'))",
        seen_by="test_reading.py::test_text_is_found_in_name_args_and_errors",
    ),
    # Counting
    statements(
        name="counts ignore the filter",
        before="self.fetch(self.counts(clause), values)",
        after='self.fetch(self.counts(""))',
        seen_by="test_counts.py::test_counts_obey_the_filter",
    ),
    statements(
        name="a job that ended is counted where it came",
        before="UNION ALL SELECT {self.bucket('finished_at')}",
        after="UNION ALL SELECT {self.bucket('inserted_at')}",
        seen_by="test_counts.py::test_jobs_are_counted_where_they_came_and_where_they_ended",
    ),
    statements(
        name="ends of all queues are counted for one",
        before="AND state IN {FINAL_STATES}{in_queue} GROUP",
        after="AND state IN {FINAL_STATES} GROUP",
        seen_by="test_counts.py::test_one_queue_can_be_counted_alone",
    ),
    # Cleaning up
    statements(
        name="a job that an engine holds is deleted",
        before="WHERE {condition} AND state NOT IN {HELD_STATES}{self.LOCK_ROWS}",
        after="WHERE {condition}{self.LOCK_ROWS}",
        seen_by="test_cleanup.py::test_delete_spares_what_an_engine_holds",
    ),
    statements(
        name="the clean-up takes what ended at the cutoff",
        before="finished_at < :completed_before",
        after="finished_at <= :completed_before",
        seen_by="test_cleanup.py::test_old_ended_jobs_are_deleted_and_others_are_not",
    ),
    statements(
        name="failed jobs go by the cutoff of completed ones",
        before="finished_at < :failed_before",
        after="finished_at < :completed_before",
        seen_by="test_cleanup.py::test_the_two_cutoffs_are_obeyed_separately",
    ),
    statements(
        name="the clean-up deletes beyond its window",
        before="WHERE id > :after AND id <= :last AND {old}",
        after="WHERE id > :after AND {old}",
        seen_by="test_cleanup.py::test_it_goes_window_by_window_to_the_end",
    ),
    statements(
        name="the clean-up stops before it is at the end",
        before="over = rows < window or",
        after="over = not found or rows < window or",
        seen_by="test_cleanup.py::test_it_stops_where_all_came_after_both_cutoffs",
    ),
    statements(
        name="a purge takes jobs that do not wait",
        before='statement = f"DELETE FROM {self.jobs} WHERE {waiting} AND queue = :queue{self.SOME_ROWS}"',
        after='statement = f"DELETE FROM {self.jobs} WHERE queue = :queue{self.SOME_ROWS}"',
        seen_by="test_cleanup.py::test_purging_a_queue_deletes_its_waiting_jobs_only",
    ),
    statements(
        name="a purge leaves jobs that wait for their time",
        before="for waiting in (self.NOT_YET, self.READY):",
        after="for waiting in (self.READY,):",
        seen_by="test_cleanup.py::test_purging_a_queue_deletes_its_waiting_jobs_only",
    ),
    # Queues
    statements(
        name="a queue that is resumed stays paused",
        before="for column, value in given.items() if value is not None",
        after="for column, value in given.items() if value",
        seen_by="test_queues.py::test_only_what_is_given_changes",
    ),
    statements(
        name="a change of one queue changes all",
        before="UPDATE {self.queues} SET {sets} WHERE name = :name",
        after="UPDATE {self.queues} SET {sets} WHERE name >= :name",
        seen_by="test_queues.py::test_only_what_is_given_changes",
    ),
    statements(
        name="a change of a queue writes back what was read",
        before="        values = {**wanted,",
        after="        was = await self.get_queue(name)\n"
        "        wanted = {column: getattr(was, column) for column in given if was} | wanted\n"
        "        values = {**wanted,",
        seen_by="test_queues.py::test_changes_by_two_at_once_are_both_kept",
    ),
    statements(
        name="saving does not overwrite a queue",
        before="if not await self.insert_queue(session, row):",
        after="if await self.insert_queue(session, row):",
        seen_by="test_queues.py::test_saved_queues_are_created_or_overwritten",
    ),
    # The schema
    statements(
        name="a step is applied to tables of a newer Sidequest",
        before="        migrations.refuse_newer(seen, self.url.shown)\n",
        after="",
        seen_by="test_migrations.py::test_tables_made_by_a_newer_sidequest_are_refused",
    ),
    steps(
        name="tables of a newer Sidequest pass the check",
        before="    refuse_newer(seen, where)\n",
        after="",
        seen_by="test_migrations.py::test_tables_made_by_a_newer_sidequest_are_refused",
    ),
    steps(
        name="tables of an older Sidequest pass the check",
        before="    if seen.pending:",
        after="    if not seen.applied:",
        seen_by="test_migrations.py::test_older_tables_are_named_with_the_command_to_run",
    ),
    statements(
        name="a batch of changes is not one transaction",
        before="run = self.autocommit if one_statement else self.transact",
        after="run = self.autocommit",
        seen_by="test_apply.py::test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing",
    ),
    statements(
        name="a batch of jobs is not one transaction",
        before="(self.autocommit if len(parts) == 1 and not fresh else self.transact)",
        after="(self.autocommit if not fresh else self.transact)",
        seen_by="test_insert.py::test_a_bulk_of_several_statements_with_a_bad_job_in_the_last_stores_nothing",
    ),
    statements(
        name="a step that fails leaves its first half",
        before="await self.transact(self._apply_next_step)",
        after="await self.autocommit(self._apply_next_step)",
        seen_by="test_migrations.py::test_many_migrating_at_once_apply_each_step_once",
        databases=("sqlite", "postgres"),
    ),
    statements(
        name="only the first pending step is applied",
        before="        while name := await self.transact(self._apply_next_step):",
        after="        if name := await self.transact(self._apply_next_step):",
        seen_by="test_migrations.py::test_later_steps_are_applied_in_order_to_what_is_there",
    ),
    steps(
        name="a newer step that this code can live with is refused",
        before="newer=tuple(name for name in strange if applied[name] <= newest)",
        after="newer=()",
        seen_by="test_migrations.py::test_tables_of_a_newer_sidequest_that_this_one_knows_enough_of_are_accepted",
    ),
    # The tables as a whole
    statements(
        name="a drop leaves the notes of the schema steps",
        before="for table in (self.steps, self.jobs, self.queues, self.engines):",
        after="for table in (self.jobs, self.queues, self.engines):",
        seen_by="test_tables.py::test_dropped_tables_are_gone_and_can_be_made_again",
    ),
    statements(
        name="queues are known that were dropped with their table",
        before="await self.transact(self._drop_all)\n        self._known_queues.clear()",
        after="await self.transact(self._drop_all)",
        seen_by="test_tables.py::test_dropped_tables_are_gone_and_can_be_made_again",
    ),
)
