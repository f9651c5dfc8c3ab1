"""What runs when: queues, priorities, concurrency, times; and what a running job can see and do."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from sidequest import ConfigError, JobNotFound, JobStateError, QueueNotFound, Sidequest, State
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually, in_state


async def test_a_job_knows_what_it_is(sq: Sidequest) -> None:
    handle = await jobs.about_itself.options(queue="own", tags=["a", "b"], meta={"x": [1]}, max_attempts=3).enqueue()
    assert await handle.result(timeout=10) == {
        "id": handle.id,
        "name": "tests.integration.sample_jobs:about_itself",
        "queue": "own",
        "attempt": 1,
        "max_attempts": 3,
        "tags": ["a", "b"],
        "meta": {"x": [1]},
        "key": f"sidequest-{handle.id}",
    }


async def test_a_job_enqueues_and_awaits_others(sq: Sidequest) -> None:
    assert await (await jobs.parent.enqueue(20)).result(timeout=20) == [2 * i for i in range(20)]
    assert await (await jobs.sync_parent.enqueue()).result(timeout=20) == 42


async def test_progress_shows_while_the_job_runs(sq: Sidequest, tmp_path: Path) -> None:
    handle = await jobs.reports_progress.enqueue(str(tmp_path / "gate"))

    async def told() -> bool:
        return (await handle.refresh()).progress is not None

    await eventually(told)
    progress = (await handle.refresh()).progress
    assert progress is not None
    assert (progress.done, progress.total, progress.note) == (3, 10, "página 3")
    (tmp_path / "gate").touch()
    assert await handle.wait(timeout=10) is State.COMPLETED


async def test_times_are_in_order_and_true(sq: Sidequest, database: str) -> None:
    # app and engine each know a server's clock to half a round trip, which is long on a busy machine
    inexact = timedelta(0) if database == "sqlite" else timedelta(seconds=0.05)
    before = datetime.now(UTC)
    handle = await jobs.sleep.enqueue(0.2)
    await handle.result(timeout=10)
    record = await handle.refresh()
    assert record.claimed_at is not None
    assert record.started_at is not None
    assert record.finished_at is not None
    times = [before, record.inserted_at, record.claimed_at, record.started_at, record.finished_at, datetime.now(UTC)]
    for earlier, later in pairwise(times):
        assert earlier <= later + inexact, times
    assert timedelta(seconds=0.2) <= record.finished_at - record.started_at < timedelta(seconds=1)


async def test_sync_jobs_run_in_several_processes_and_async_ones_share_one(sq: Sidequest) -> None:
    naps = [await jobs.nap.enqueue(0.5) for _ in range(5)]
    sleeps = [await jobs.sleep.enqueue(0.5) for _ in range(3)]
    nap_pids = {await handle.result(timeout=10) for handle in naps}
    sleep_pids = {await handle.result(timeout=10) for handle in sleeps}
    assert (len(nap_pids), len(sleep_pids)) == (1, 3)
    assert not nap_pids & sleep_pids


async def test_async_jobs_do_not_wait_for_sync_ones_that_have_all_workers(start: StartSidequest) -> None:
    sq = await start(max_workers=2)
    blockers = [await jobs.sleep.options(queue="cpu").enqueue(3) for _ in range(3)]
    await eventually(lambda: in_state(sq, State.RUNNING, 2))
    began = datetime.now(UTC)
    await (await jobs.nap.options(queue="io").enqueue(0)).result(timeout=10)
    assert datetime.now(UTC) - began < timedelta(seconds=2)
    for blocker in blockers:
        await blocker.cancel()


async def test_an_isolated_job_shares_its_worker_with_nobody(sq: Sidequest) -> None:
    alone = await jobs.nap.options(isolated=True).enqueue(3.0)  # long enough for another worker to start
    shared = [await jobs.nap.enqueue(0.5) for _ in range(3)]
    theirs = {await handle.result(timeout=10) for handle in shared}
    assert await alone.result(timeout=10) not in theirs


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_queue_runs_no_more_than_its_concurrency(start: StartSidequest, tmp_path: Path, limit: int) -> None:
    sq = await start(queues={"narrow": limit})
    path = tmp_path / "log"
    handles = await sq.enqueue_many([jobs.overlap.options(queue="narrow").call(str(path), 0.05) for _ in range(12)])
    for handle in handles:
        await handle.wait(timeout=20)
    depth = deepest = 0
    for sign in path.read_text().split():
        depth += 1 if sign == "+" else -1
        deepest = max(deepest, depth)
    assert deepest == limit


async def test_higher_priority_runs_first_and_equals_in_order(start: StartSidequest, tmp_path: Path) -> None:
    sq = await start(queues={"line": {"concurrency": 1, "paused": True}})
    path = str(tmp_path / "log")
    line = jobs.mark.options(queue="line")
    calls = [line.options(priority=p).call(path, f"{p}{n}") for p in (0, 5, -5) for n in "ab"]
    handles = await sq.enqueue_many(calls)
    await sq.queues.resume("line")
    for handle in handles:
        await handle.wait(timeout=20)
    assert Path(path).read_text().split() == ["5a", "5b", "0a", "0b", "-5a", "-5b"]


async def test_a_paused_queue_takes_jobs_and_starts_none(sq: Sidequest) -> None:
    await sq.queues.create("holiday", paused=True)
    held = await jobs.add.options(queue="holiday").enqueue(1, 2)
    assert await (await jobs.add.enqueue(1, 1)).result(timeout=10) == 2
    assert (await held.refresh()).state is State.WAITING
    await sq.queues.resume("holiday")
    assert await held.result(timeout=10) == 3


async def test_pausing_does_not_stop_what_runs(sq: Sidequest) -> None:
    handle = await jobs.nap.enqueue(0.5)
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    await sq.queues.pause("default")
    assert await handle.wait(timeout=5) is State.COMPLETED


async def test_an_engine_serves_only_its_queues(start: StartSidequest) -> None:
    await start(queues=["mail*", "-mail.slow"])
    served = await jobs.add.options(queue="mail.fast").enqueue(1, 2)
    refused = [await jobs.add.options(queue=queue).enqueue(1, 2) for queue in ("mail.slow", "default")]
    assert await served.result(timeout=10) == 3
    assert [(await handle.refresh()).state for handle in refused] == [State.WAITING] * 2


async def test_a_delayed_job_runs_when_due_and_not_before(sq: Sidequest) -> None:
    handle = await jobs.add.options(delay=0.7).enqueue(1, 2)
    at = await jobs.add.options(at=datetime.now(UTC) + timedelta(seconds=0.7)).enqueue(1, 2)
    for one in (handle, at):
        await one.result(timeout=10)
        record = await one.refresh()
        assert record.started_at is not None
        assert timedelta(0) <= record.started_at - record.available_at < timedelta(seconds=0.5)
        assert record.started_at - record.inserted_at >= timedelta(seconds=0.65)


async def test_operations_move_jobs_by_hand(sq: Sidequest) -> None:
    handle = await jobs.add.options(delay=600).enqueue(1, 2)
    snoozed = await sq.jobs.snooze(handle.id, 900)
    assert snoozed.available_at - datetime.now(UTC) > timedelta(seconds=890)
    await sq.jobs.run_now(handle.id)
    assert await handle.result(timeout=10) == 3
    for move in (sq.jobs.run_now(handle.id), sq.jobs.snooze(handle.id, 1)):
        with pytest.raises(JobStateError, match="completed"):
            await move
    await sq.jobs.retry(handle.id)
    assert await handle.result(timeout=10) == 3
    assert (await handle.refresh()).attempt == 2
    await sq.jobs.delete(handle.id)
    with pytest.raises(JobNotFound):
        await handle.refresh()
    with pytest.raises(JobNotFound):
        await handle.result(timeout=5)


async def test_a_job_in_hand_cannot_be_deleted(sq: Sidequest) -> None:
    handle = await jobs.sleep.enqueue(30)
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    with pytest.raises(JobStateError, match="running"):
        await sq.jobs.delete(handle.id)
    await handle.cancel()


async def test_unknown_jobs_and_queues_are_named(sq: Sidequest) -> None:
    with pytest.raises(JobNotFound, match="4711"):
        await sq.jobs.get(4711)
    with pytest.raises(QueueNotFound, match="nowhere"):
        await sq.queues.pause("nowhere")


async def test_watch_shows_a_job_from_its_arrival_to_its_end(sq: Sidequest) -> None:
    states: list[State] = []

    async def follow() -> None:
        async for record in sq.jobs.watch():
            states.append(record.state)
            if record.state.final:
                return

    watcher = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await eventually(lambda: _arrives(sq, states))
    await asyncio.wait_for(watcher, 10)
    assert states[-1] is State.COMPLETED


async def test_jobs_are_counted_over_time(sq: Sidequest) -> None:
    handles = [await jobs.add.enqueue(1, 1), await jobs.fails.enqueue()]
    for handle in handles:
        await handle.wait(timeout=10)
    buckets = await sq.jobs.count_over_time(60, 3)
    assert len(buckets) == 3
    assert [sum(bucket[n] for bucket in buckets) for n in (1, 2, 3, 4)] == [2, 1, 1, 0]


async def test_a_worker_is_replaced_after_its_share_of_jobs(start: StartSidequest) -> None:
    sq = await start(max_workers=1, max_jobs_per_worker=5, queues={"default": 1})
    pids = [await (await jobs.sleep.enqueue(0)).result(timeout=10) for _ in range(12)]
    assert len(set(pids)) == 3
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [5, 5, 2]
    assert sq is not None


async def test_a_job_reads_an_empty_stdin(sq: Sidequest) -> None:
    assert await (await jobs.read_stdin.enqueue()).result(timeout=10) == ""


async def test_environment_and_working_directory_reach_the_job(sq: Sidequest) -> None:
    assert await (await jobs.echo.enqueue(str(Path.cwd()))).result(timeout=10) == str(Path.cwd())


async def test_several_sidequests_must_be_named(start: StartSidequest, tmp_path: Path) -> None:
    one = await start()
    async with Sidequest(f"sqlite:///{tmp_path}/other.db") as other:
        with pytest.raises(ConfigError, match="2 Sidequests are running"):
            await jobs.add.enqueue(1, 2)
        assert await (await one.enqueue(jobs.add.call(1, 2))).result(timeout=10) == 3
        assert await (await other.enqueue(jobs.add.call(2, 2))).result(timeout=10) == 4


async def test_nothing_can_be_enqueued_before_the_start_or_after_the_end(url: str) -> None:
    sq = Sidequest(url)
    for _ in range(2):
        with pytest.raises(ConfigError, match="not started"):
            await jobs.add.enqueue(1, 2)
        with pytest.raises(ConfigError, match="not started"):
            await sq.enqueue(jobs.add.call(1, 2))
        async with sq:
            pass


async def test_a_module_imported_after_the_start_brings_its_jobs(
    sq: Sidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_shop.py").write_text("from sidequest import job\n@job\nasync def send(x: int) -> int:\n    return -x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "late_shop", raising=False)  # the same test on another database has imported it
    import late_shop  # type: ignore[import-not-found]

    assert await (await late_shop.send.enqueue(5)).result(timeout=10) == -5


async def _arrives(sq: Sidequest, states: list[State]) -> bool:
    if not states:
        await jobs.nap.enqueue(0.1)
        await asyncio.sleep(0.5)
    return bool(states)
