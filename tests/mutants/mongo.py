"""MongoDB, as a replica set and as a standalone server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

backend = partial(Mutant, file="backends/mongo/backend.py")
changes = partial(Mutant, file="backends/mongo/changes.py")
claims = partial(Mutant, file="backends/mongo/claim.py")
counts = partial(Mutant, file="backends/mongo/counts.py")
deletion = partial(Mutant, file="backends/mongo/deletion.py")
documents = partial(Mutant, file="backends/mongo/documents.py")
ids = partial(Mutant, file="backends/mongo/ids.py")
inserts = partial(Mutant, file="backends/mongo/insert.py")
steps = partial(Mutant, file="backends/mongo/schema.py")
sessions = partial(Mutant, file="backends/mongo/session.py")
schema = partial(Mutant, file="backends/migrations/mongo/0001_jobs_queues_engines.json")

SET, ALONE, BOTH = ("mongodb",), ("mongodb-standalone",), ("mongodb", "mongodb-standalone")
"""Where there are transactions, where there are none, and where it is told apart; for all else the first will do."""

MUTANTS: Sequence[Mutant] = (
    # The fence
    changes(
        name="a change is written whoever holds the job",
        before='return {"_id": ids, "lease": changes[0].lease, **_guard(shape)}',
        after='return {"_id": ids, **_guard(shape)}',
        seen_by="test_fence.py::test_a_former_owner_cannot_finish_what_another_holds",
        databases=BOTH,
    ),
    changes(
        name="a change does not ask which state the job is in",
        before='state = {"$in": [state.value for state in shape.before]}',
        after='state = {"$exists": True}',
        seen_by="test_fence.py::test_a_released_owner_cannot_finish",
        databases=BOTH,
    ),
    changes(
        name="a job asked to cancel is put back to waiting",
        before='return {"state": state, "cancel_requested_at": None} if shape.state is State.WAITING else {"state": state}',
        after='return {"state": state}',
        seen_by="test_fence.py::test_a_job_asked_to_cancel_never_waits_again",
        databases=BOTH,
    ),
    backend(
        name="rows that others hold are waited for although they are to be skipped",
        before="if skip_locked:",
        after="if False:",
        seen_by="test_mongo_trouble.py::test_changes_may_go_past_jobs_that_another_transaction_holds",
        databases=SET,
    ),
    backend(
        name="an engine that was given up can beat",
        before='alive = {"_id": id, "given_up_by": None}',
        after='alive = {"_id": id}',
        seen_by="test_engines.py::test_an_engine_that_was_given_up_stays_listed_and_cannot_beat",
    ),
    backend(
        name="an engine is given up although it has beaten meanwhile",
        before='({} if beat is None else {"beat": beat})',
        after="{}",
        seen_by="test_engines.py::test_an_engine_that_has_beaten_meanwhile_is_not_given_up",
    ),
    backend(
        name="a beat takes its turn with all other work",
        before="self._working(beating=True)",
        after="self._working()",
        seen_by="test_mongo_trouble.py::test_a_beat_waits_for_no_other_work",
        databases=BOTH,
    ),
    changes(
        name="a batch stays written in part where a change is refused",
        before="    if written.matched_count != sum(len(update.changes) for update in found):\n        raise Refused",
        after="    if not written.matched_count:\n        raise Refused",
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
        databases=SET,
    ),
    changes(
        name="changes of the same values share the first one's lease",
        before="key = change.id if one_by_one else (change.lease, *values.values())",
        after="key = change.id if one_by_one else (*values.values(),)",
        seen_by="test_fence.py::test_one_wrong_lease_does_not_hold_up_the_others",
        databases=SET,
    ),
    changes(
        name="a refused change names the wrong job",
        before='(found[int(each["index"])] for each in failed)',
        after='(found[int(each["index"]) - 1] for each in failed)',
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
        databases=ALONE,
    ),
    changes(
        name="progress is saved without a look at the lease",
        before='UpdateOne({"_id": id, "lease": lease, **held}',
        after='UpdateOne({"_id": id, **held}',
        seen_by="test_progress_cancel.py::test_progress_of_a_former_owner_is_ignored",
        databases=BOTH,
    ),
    changes(
        name="progress is saved after the end",
        before='UpdateOne({"_id": id, "lease": lease, **held}',
        after='UpdateOne({"_id": id, "lease": lease}',
        seen_by="test_progress_cancel.py::test_progress_of_an_ended_job_is_ignored",
        databases=BOTH,
    ),
    # Changes
    changes(
        name="a change overwrites what it did not name",
        before='return {operator: fields for operator, fields in (("$set", given), ("$unset", gone)) if fields}',
        after='return {"$set": given, "$unset": {"progress": True} | gone}',
        seen_by="test_apply.py::test_columns_not_named_stay",
        databases=BOTH,
    ),
    changes(
        name="what becomes None stays",
        before='("$set", given), ("$unset", gone)',
        after='("$set", given), ("$unset", {})',
        seen_by="test_apply.py::test_a_retry_gives_an_ended_job_a_clean_new_life",
        databases=BOTH,
    ),
    changes(
        name="a text with a dollar is taken for a field's name",
        before='"$$REMOVE" if value is None else {"$literal": value}',
        after='"$$REMOVE" if value is None else value',
        seen_by="test_texts.py::test_text_is_never_an_expression",
    ),
    changes(
        name="a job sent back for now is not claimable",
        before='return _operators(values | {"ready": due <= now})',
        after='return _operators(values | {"ready": due < now})',
        seen_by="test_time.py::test_a_job_sent_back_for_now_is_claimable_at_once",
    ),
    changes(
        name="a job sent back without a time is claimable before it is due",
        before='return _stages(values, {"$lte": ["$available_at", now]})',
        after="return _stages(values, True)",
        seen_by="test_time.py::test_a_job_sent_back_without_a_time_keeps_the_one_it_had",
    ),
    changes(
        name="a held job that gets a new due time is claimable again",
        before='{"$cond": [waits, due <= now, "$$REMOVE"]}',
        after='{"$literal": due <= now}',
        seen_by="test_time.py::test_a_new_due_time_without_a_state_moves_a_waiting_job_only",
    ),
    changes(
        name="what cannot be stored is found half-way",
        before='    bson.encode({"": [update.update for update in found]})',
        after="    pass",
        seen_by="test_apply.py::test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing",
        databases=ALONE,
    ),
    # Claiming
    documents(
        name="the lowest priority goes first",
        before='CLAIM_ORDER = [("priority", -1),',
        after='CLAIM_ORDER = [("priority", 1),',
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    documents(
        name="the id counts before the time",
        before='("available_at", 1), ("_id", 1)]\nHELD',
        after='("_id", 1), ("available_at", 1)]\nHELD',
        seen_by="test_claim.py::test_the_first_in_order_are_taken_whatever_their_ids",
    ),
    claims(
        name="the claim is returned in any order",
        before="for document in sorted(found, key=claim_rank)]",
        after="for document in found]",
        seen_by="test_claim.py::test_order_is_priority_then_due_time_then_id",
    ),
    claims(
        name="one more than there is room for",
        before="ready.limit(room).batch_size(room + 1)",
        after="ready.limit(room + 1).batch_size(room + 2)",
        seen_by="test_claim.py::test_no_more_than_the_room_and_the_first_in_order",
    ),
    claims(
        name="a job that a rival has claimed is claimed once more",
        before='database.jobs.update_many({"_id": {"$in": ids}, "ready": True}, mark, hint=BY_ID)',
        after='database.jobs.update_many({"_id": {"$in": ids}}, mark, hint=BY_ID)',
        seen_by="test_mongo_trouble.py::test_rooms_are_filled_in_order_although_rivals_take_candidates",
        databases=BOTH,
    ),
    claims(
        name="a claim returns what a rival has got",
        before='ours = {"_id": {"$in": ids}, "lease": mark["$set"]["lease"], "state": "claimed"}',
        after='ours = {"_id": {"$in": ids}, "state": "claimed"}',
        seen_by="test_mongo_trouble.py::test_rooms_are_filled_in_order_although_rivals_take_candidates",
        databases=BOTH,
    ),
    claims(
        name="the attempt does not rise",
        before='"$inc": {"attempt": 1}',
        after='"$inc": {"attempt": 0}',
        seen_by="test_claim.py::test_a_claim_changes_state_holder_attempt_and_time_and_nothing_else",
    ),
    claims(
        name="a claimed job stays ready",
        before='"$unset": {"ready": True, "started_at"',
        after='"$unset": {"started_at"',
        seen_by="test_claim.py::test_a_job_is_claimed_once",
    ),
    claims(
        name="the start of the attempt before stays",
        before='"started_at": True, "progress": True}',
        after='"progress": True}',
        seen_by="test_claim.py::test_a_claim_clears_start_and_progress_of_the_attempt_before",
    ),
    claims(
        name="jobs of other queues are claimed",
        before='_claim_first(database, {"ready": True, "queue": queue}, mark)',
        after='_claim_first(database, {"ready": True, "queue": {"$gte": queue}}, mark)',
        seen_by="test_claim.py::test_queue_names_are_told_apart_by_case_and_in_full",
    ),
    claims(
        name="jobs are claimed before they are due",
        before='_claim_first(database, {"ready": True, "queue": queue}, mark)',
        after='_claim_first(database, {"ready": {"$exists": True}, "queue": queue}, mark)',
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    # Due times, and looking
    claims(
        name="a job due this very instant is not promoted",
        before='due = {"ready": False, "available_at": {"$lte": now}}',
        after='due = {"ready": False, "available_at": {"$lt": now}}',
        seen_by="test_time.py::test_a_future_job_is_not_claimed_until_promoted",
    ),
    claims(
        name="a promotion ignores its limit",
        before='.sort([("available_at", 1), ("_id", 1)]).limit(limit)',
        after='.sort([("available_at", 1), ("_id", 1)]).limit(limit * 100)',
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    claims(
        name="a promotion takes the latest first",
        before='.sort([("available_at", 1), ("_id", 1)]).limit(limit)',
        after='.sort([("available_at", -1), ("_id", 1)]).limit(limit)',
        seen_by="test_time.py::test_promote_takes_the_earliest_first_up_to_its_limit",
    ),
    claims(
        name="a queue looks ready because of jobs that wait for their time",
        before='{"$match": {"ready": True}}, {"$group"',
        after='{"$match": {"ready": {"$exists": True}}}, {"$group"',
        seen_by="test_time.py::test_look_tells_settings_readiness_and_the_next_due_time",
    ),
    claims(
        name="the latest due time counts as the next",
        before='{"$sort": {"available_at": 1, "_id": 1}}, {"$limit": 1}',
        after='{"$sort": {"available_at": -1, "_id": 1}}, {"$limit": 1}',
        seen_by="test_time.py::test_look_tells_settings_readiness_and_the_next_due_time",
    ),
    documents(
        name="milliseconds are lost",
        before="microsecond=utc.microsecond // 1000 * 1000, tzinfo=None",
        after="microsecond=0, tzinfo=None",
        seen_by="test_apply.py::test_start_writes_state_and_true_start_only",
    ),
    documents(
        name="a job may start up to a millisecond early",
        before="due if due <= now else due.astimezone(UTC) + ALMOST_A_MILLISECOND",
        after="due",
        seen_by="test_time.py::test_a_job_is_not_due_before_its_time_however_short_that_is",
    ),
    # Enqueueing
    ids(
        name="ids are returned in the wrong order",
        before="return range(last - size + 1, last + 1)",
        after="return range(last, last - size, -1)",
        seen_by="test_insert.py::test_many_jobs_get_their_ids_in_order",
    ),
    ids(
        name="what is left of a block of ids comes after a batch's",
        before="                self._left = range(0)  # they would be lower than these\n",
        after="",
        seen_by="test_insert.py::test_ids_are_never_used_again test_insert.py::test_ids_rise_however_jobs_come",
    ),
    inserts(
        name="a queue that exists is overwritten",
        before='{"$setOnInsert": fields}, upsert=True)',
        after='{"$set": fields}, upsert=True)',
        seen_by="test_queues.py::test_an_existing_queue_is_not_created_again",
    ),
    inserts(
        name="everybody has created the queue",
        before="return written.upserted_id is not None",
        after="return True",
        seen_by="test_queues.py::test_an_existing_queue_is_not_created_again",
    ),
    inserts(
        name="new queues ignore the defaults given",
        before="queue_fields(queue_defaults, now)",
        after="queue_fields(QueueRecord(name), now)",
        seen_by="test_insert.py::test_a_new_queue_gets_the_defaults_given",
    ),
    backend(
        name="jobs do not become part of the user's transaction",
        before="session = None if connection is None else in_transaction(connection)",
        after="session = None",
        seen_by="test_transactions.py::test_rolled_back_jobs_were_never_there",
    ),
    inserts(
        name="what was stored of a batch that failed stays",
        before="if session is None and not await _removed(database, documents):",
        after="if session is None:",
        seen_by="test_mongo_trouble.py::test_an_insert_that_fails_half_way_leaves_nothing_behind",
        databases=ALONE,
    ),
    # Reading and counting
    documents(
        name="text is a pattern",
        before='    return {"$gte": [{"$indexOfBytes": [{"$toLower": f"${field}"}, {"$literal": lower}]}, 0]}',
        after='    found = {"$ifNull": [f"${field}", ""]}\n'
        '    return {"$regexMatch": {"input": found, "regex": {"$literal": text}, "options": "i"}}',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    documents(
        name="text is found in its own case only",
        before='[{"$toLower": f"${field}"}, {"$literal": lower}]',
        after='[f"${field}", {"$literal": text}]',
        seen_by="test_reading.py::test_text_is_literal_and_ascii_case_does_not_matter",
    ),
    documents(
        name="a text with a dollar is not found",
        before='{"$literal": lower}',
        after="lower",
        seen_by="test_texts.py::test_text_is_found_as_it_is_stored test_reading.py::test_hostile_filters_are_data",
    ),
    documents(
        name="text in errors is not found",
        before='for field in ("name", "args", "errors")]}',
        after='for field in ("name", "args")]}',
        seen_by="test_reading.py::test_text_is_found_in_name_args_and_errors",
    ),
    documents(
        name="a filter is a pattern",
        before='found[field] = {"$eq": value}',
        after='found[field] = {"$regex": value}',
        seen_by="test_reading.py::test_filter_by_tag_finds_whole_tags_only",
    ),
    documents(
        name="until is included",
        before='inserted["$lt"] = which.until',
        after='inserted["$lte"] = which.until',
        seen_by="test_reading.py::test_since_is_included_and_until_is_not",
    ),
    backend(
        name="a page begins with the last job of the one before",
        before='{"_id": {"$lt": before}}',
        after='{"_id": {"$lte": before}}',
        seen_by="test_reading.py::test_the_newest_jobs_come_first_page_by_page",
    ),
    backend(
        name="a further page forgets the filter",
        before='self._found("jobs", where(which) | below, [("_id", -1)], limit)',
        after='self._found("jobs", below or where(which), [("_id", -1)], limit)',
        seen_by="test_reading.py::test_the_filter_holds_on_every_page",
    ),
    backend(
        name="jobs that run count as ended",
        before=' for document in found if document["state"] in FINAL_STATES]',
        after=" for document in found]",
        seen_by="test_reading.py::test_ends_tells_what_ended_and_what_does_not_exist",
    ),
    counts(
        name="counts ignore the filter",
        before='{"$match": where(which)}',
        after='{"$match": {}}',
        seen_by="test_counts.py::test_counts_obey_the_filter",
    ),
    counts(
        name="jobs of all queues are counted for one",
        before='{"$match": where(JobFilter(queue=queue)) | {"$or": [came, ended]}}',
        after='{"$match": {"$or": [came, ended]}}',
        seen_by="test_counts.py::test_one_queue_can_be_counted_alone",
    ),
    # Engines
    backend(
        name="a forgotten engine's heart goes on beating",
        before="        return bool(written.matched_count)",
        after="        return True",
        seen_by="test_engines.py::test_a_forgotten_engine_is_told_at_its_next_beat",
    ),
    backend(
        name="an engine hears of other engines' cancel requests",
        before='asked = {"engine": engine, "cancel_requested_at"',
        after='asked = {"cancel_requested_at"',
        seen_by="test_progress_cancel.py::test_a_request_to_cancel_is_seen_by_its_engine_only",
    ),
    backend(
        name="cancel requests of jobs that are no longer held are reported",
        before='"cancel_requested_at": {"$exists": True}, "state": {"$in": HELD_STATES}}',
        after='"cancel_requested_at": {"$exists": True}}',
        seen_by="test_progress_cancel.py::test_a_request_to_cancel_is_over_when_the_job_is_no_longer_held",
    ),
    backend(
        name="an engine seems to hold what it has ended",
        before='held = {"state": {"$in": HELD_STATES}, "engine": engine}',
        after='held = {"engine": engine}',
        seen_by="test_engines.py::test_held_by_gives_claimed_and_running_jobs_lowest_id_first",
    ),
    counts(
        name="what an engine has ended counts as held",
        before='{"$match": {"state": {"$in": HELD_STATES}}}',
        after='{"$match": {"engine": {"$ne": None}}}',
        seen_by="test_engines.py::test_held_jobs_are_counted_by_engine",
    ),
    backend(
        name="a server that cannot tell is said to tell",
        before="return self._database is not None and self._database.transactions",
        after="return self._database is not None",
        seen_by="test_engines.py::test_a_backend_tells_if_and_only_if_it_can_be_listened_to",
        databases=ALONE,
    ),
    # Deleting
    deletion(
        name="a job that an engine holds is deleted",
        before='free = {"state": {"$nin": HELD_STATES}}',
        after='free = {"state": {"$exists": True}}',
        seen_by="test_cleanup.py::test_delete_spares_what_an_engine_holds",
        databases=BOTH,
    ),
    deletion(
        name="failed jobs go by the cutoff of completed ones",
        before='"canceled": completed_before, "failed": failed_before}',
        after='"canceled": completed_before, "failed": completed_before}',
        seen_by="test_cleanup.py::test_the_two_cutoffs_are_obeyed_separately",
    ),
    deletion(
        name="the clean-up stops before it is at the end",
        before='if any(job["inserted_at"] < newest for job in seen) or await _older_after(database, last, newest):',
        after="if deleted:",
        seen_by="test_cleanup.py::test_it_goes_window_by_window_to_the_end "
        "test_cleanup.py::test_it_stops_where_all_came_after_both_cutoffs",
    ),
    deletion(
        name="a purge leaves jobs that wait for their time",
        before="for ready in (False, True):",
        after="for ready in (True,):",
        seen_by="test_cleanup.py::test_purging_a_queue_deletes_its_waiting_jobs_only",
    ),
    # Queues
    backend(
        name="a queue that is resumed stays paused",
        before="for field, value in given.items() if value is not None}",
        after="for field, value in given.items() if value}",
        seen_by="test_queues.py::test_only_what_is_given_changes",
    ),
    documents(
        name="queues of the same priority come in any order",
        before="key=lambda queue: (-queue.priority, queue.name.encode())",
        after="key=lambda queue: (-queue.priority, queue.name.lower())",
        seen_by="test_queues.py::test_names_are_in_the_order_of_their_codes",
    ),
    # Transactions, and the schema
    sessions(
        name="what belongs together is not one transaction",
        before="        if not wanted or not self.transactions:\n",
        after="        if True:\n",
        seen_by="test_fence.py::test_one_refused_change_does_not_hold_up_the_others",
        databases=SET,
    ),
    sessions(
        name="a conflict of transactions is none of ours",
        before="    if code in CONFLICTS or error.has_error_label(TRANSIENT):",
        after="    if code in {46}:",
        seen_by="test_contention.py::test_batches_that_cross_each_other_are_both_written",
        databases=SET,
    ),
    steps(
        name="a step is applied to collections of a newer Sidequest",
        before="        migrations.refuse_newer(seen, database.where)\n",
        after="",
        seen_by="test_migrations.py::test_tables_made_by_a_newer_sidequest_are_refused",
    ),
    steps(
        name="a step that fails counts as applied",
        before="        raise meaning from error",
        after="        return",
        seen_by="test_migrations.py::test_a_step_that_fails_leaves_nothing_of_itself",
    ),
    # The collections as a whole
    backend(
        name="the ids in hand outlive their counter when collections are dropped",
        before="            self._inserts = Inserts(self._time)  # the ids",
        after="            _ = Inserts(self._time)  # the ids",
        seen_by="test_tables.py::test_dropped_tables_are_gone_and_can_be_made_again",
    ),
    backend(
        name="dropped collections are made anew by the next insert, without their indexes",
        before="            self._schema_seen = False\n\n            def drop()",
        after="            def drop()",
        seen_by="test_tables.py::test_dropped_tables_are_gone_and_can_be_made_again",
    ),
    steps(
        name="a drop leaves the counter of ids",
        before="database.engines, database.counters, database.signals",
        after="database.engines, database.signals",
        seen_by="test_tables.py::test_dropped_tables_are_gone_and_can_be_made_again",
    ),
)
