"""What keeps jobs and processes in order when something dies: leases, hand-over, supervision, accounting, shutdown.

The tests that must notice are those of the chaos suite, on SQLite; a few rules have a closer test elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.mutants.mutant import Mutant

engine = partial(Mutant, file="engine/engine.py")
outbox = partial(Mutant, file="engine/outbox.py")
leases = partial(Mutant, file="engine/leases.py")
heartbeat = partial(Mutant, file="engine/heartbeat.py")
rescue = partial(Mutant, file="engine/rescue.py")
verdicts = partial(Mutant, file="engine/verdicts.py")
wakeups = partial(Mutant, file="engine/wakeups.py")
pipe = partial(Mutant, file="engine/app_pipe.py")
keeper = partial(Mutant, file="app/engine_process.py")
worker = partial(Mutant, file="worker/serve.py")
transitions = partial(Mutant, file="jobs/transitions.py")

ARROWS = "tests/chaos/test_arrows.py::"
KILLS = "tests/chaos/test_kills.py::"
HOSTS = "tests/chaos/test_hosts.py::"
DATABASE = "tests/chaos/test_database.py::"
HANDED_OVER = f"{KILLS}test_the_next_engine_of_an_app_takes_over_also_where_nobody_can_see_who_has_died"
TAKES_OVER = f"{ARROWS}test_an_engine_that_dies_at_an_arrow_loses_and_charges_nothing[sqlite-claim.after_commit]"

MUTANTS: Sequence[Mutant] = (
    # An engine dies
    keeper(
        name="nobody starts a new engine",
        before="            if not await self.insist(predecessor=self.engine_id):",
        after="            if self.engine_id:",
        seen_by=TAKES_OVER,
    ),
    keeper(
        name="the new engine is not told of its predecessor",
        before="await self.insist(predecessor=self.engine_id)",
        after="await self.insist()",
        seen_by=HANDED_OVER,
    ),
    engine(
        name="a predecessor's jobs are not released",
        before="if self._orders.predecessor is not None:",
        after="if self._orders.predecessor == 0:",
        seen_by=HANDED_OVER,
    ),
    keeper(
        name="the workers of a dead engine are left alone",
        before="if not await end_groups(workers):",
        after="if not workers:",
        seen_by=f"{KILLS}test_a_job_that_holds_the_gil_does_not_outlive_its_engine",
    ),
    worker(
        name="a worker does not watch whether its engine lives",
        before="        os.killpg(0, signal.SIGKILL)",
        after="        pass",
        seen_by=f"{KILLS}test_a_worker_that_nobody_can_kill_any_more_ends_by_itself",
    ),
    transitions(
        name="an interrupt costs an attempt",
        before="return _back(job, due, attempt=job.attempt - 1, errors=errors, interrupts=interrupts, lease=None, engine=None)",
        after="return _back(job, due, errors=errors, interrupts=interrupts, lease=None, engine=None)",
        seen_by=TAKES_OVER,
    ),
    rescue(
        name="an interrupted job does not say so",
        before="else Interrupted(error)",
        after="else Stopped()",
        seen_by=TAKES_OVER,
    ),
    pipe(
        name="an engine works on when its app is gone",
        before="        self._stop(self.grace)",
        after="        pass",
        seen_by=f"{ARROWS}test_an_app_that_dies_leaves_its_jobs_to_end_or_to_wait",
    ),
    pipe(
        name="an engine that is starting does not hear that its app is gone, or stops",
        before="        self.over.set()",
        after="        pass",
        seen_by=f"{HOSTS}test_an_app_that_dies_while_its_engine_starts_leaves_no_engine",
    ),
    # Leases and rescue
    rescue(
        name="an engine is taken for dead at first sight",
        before="return contact is not None and now - contact >= self._life and now - self._seen[engine_id][1] >= self._life",
        after="return contact is not None",
        seen_by=f"{HOSTS}test_a_frozen_engine_that_thaws_overwrites_nothing "
        f"{HOSTS}test_a_host_whose_power_fails_is_rescued_within_a_lease_life_and_a_look",
    ),
    rescue(
        name="nobody is ever taken for dead",
        before="return contact is not None and now - contact >= self._life and now - self._seen[engine_id][1] >= self._life",
        after="return False",
        seen_by=f"{HOSTS}test_a_host_whose_power_fails_is_rescued_within_a_lease_life_and_a_look",
    ),
    Mutant(
        name="a change does not ask whose lease it is",
        file="backends/sqlite/backend.py",
        before="AND j.lease IS {new('the_lease')} AND",
        after="AND",
        seen_by=f"{HOSTS}test_a_frozen_engine_that_thaws_overwrites_nothing",
    ),
    leases(
        name="a claim whose answer was lost is never looked for",
        before="        if self.uncertain:\n            await self._find_strays(engine_id)",
        after="        pass",
        seen_by=f"{DATABASE}test_a_claim_whose_answer_is_lost_is_found_and_given_back",
    ),
    heartbeat(
        name="who stops does not look for the claim whose answer was lost",
        before="                await self._leases.check(self.engine_id)\n        else:",
        after="                pass\n        else:",
        seen_by=f"{DATABASE}test_a_stop_right_after_a_claim_whose_answer_was_lost_gives_it_back",
    ),
    heartbeat(
        name="a beat brings back an engine that has stopped",
        before="elif not self._left:",
        after="else:",
        seen_by="tests/unit/engine/test_heartbeat.py::test_no_beat_brings_back_an_engine_that_has_left",
    ),
    # Ends
    outbox(
        name="the gate is never closed",
        before="return not failing and len(self._entries) + len(self._in_flight) < FULL and self._bytes < FULL_BYTES",
        after="return True",
        seen_by=f"{DATABASE}test_an_engine_that_can_write_no_end_claims_no_more",
    ),
    outbox(
        name="an end that cannot be written is dropped",
        before='                await asyncio.sleep(self._trouble.met(error, f" ({self.waiting} ends wait)"))',
        after="                return _Done([], [])",
        seen_by=f"{DATABASE}test_an_end_that_could_not_be_written_is_written_later",
    ),
    engine(
        name="an end that was refused is written again for ever",
        before="if entry.change.state is State.WAITING:",
        after="if entry.change.state is not None:",
        seen_by=f"{DATABASE}test_a_row_that_vanishes_while_its_job_runs_harms_nobody",
    ),
    engine(
        name="an engine that could not write its last ends is forgotten with them",
        before="        if flushing.cancelled_caught:\n            await self._keep_the_rest()",
        after="        if False:\n            await self._keep_the_rest()",
        seen_by=f"{DATABASE}test_an_engine_that_can_write_no_end_claims_no_more",
    ),
    # A worker dies
    verdicts(
        name="a crash is charged to all that shared the worker",
        before="            yield held, SharedCrash(_crash(death, len(jobs)))",
        after="            yield held, Crashed(_crash(death))",
        seen_by=f"{KILLS}test_an_async_worker_that_is_killed_charges_none_of_the_jobs_it_shared",
    ),
    transitions(
        name="jobs that shared a crashed worker share the next one as well",
        before="_back(job, now, attempt=job.attempt - 1, isolated=True, ",
        after="_back(job, now, attempt=job.attempt - 1, ",
        seen_by=f"{KILLS}test_an_async_worker_that_is_killed_charges_none_of_the_jobs_it_shared",
    ),
    # A stop
    engine(
        name="an engine that stops goes on claiming",
        before="        self._dispatcher.close()\n",
        after="",
        seen_by=f"{HOSTS}test_a_stop_under_continual_insertion_leaves_no_job_held",
    ),
    engine(
        name="an engine that stops stays registered",
        before="                await self._heartbeat.leave()",
        after="                pass",
        seen_by=f"{HOSTS}test_a_stop_under_continual_insertion_leaves_no_job_held",
    ),
    wakeups(
        name="an engine that stops leaves its socket",
        before="        finally:\n            self._close()",
        after="        finally:\n            pass",
        seen_by=f"{HOSTS}test_starting_and_stopping_again_and_again_leaks_no_descriptor_and_no_socket",
    ),
)
