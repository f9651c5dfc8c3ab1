"""Each way in which a job can end, on real processes, with neighbours that must not notice."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidequest import (
    JobCanceled,
    JobFailed,
    JobHandle,
    NotSerializable,
    Sidequest,
    State,
    call_by_name,
)  # fmt: skip
from sidequest.jobs.record import NewJob
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually, in_state


async def failure(handle: JobHandle[object]) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await handle.result(timeout=20)
    return caught.value


@pytest.mark.parametrize("value", [None, "", 0, False, "123", "null", [], {}, "å\U0001f600", 2**70, -0.5])
async def test_a_result_comes_back_as_it_was(sq: Sidequest, value: object) -> None:
    result = await (await jobs.echo.enqueue(value)).result(timeout=10)
    assert (type(result), result) == (type(value), value)


async def test_a_typed_result_is_rebuilt(sq: Sidequest) -> None:
    handle = await jobs.receipt.enqueue(7)
    assert await handle.result(timeout=10) == jobs.Receipt(7, datetime(2026, 1, 2, 3, 4, 5, 6, UTC))


async def test_a_mebibyte_of_arguments_arrives(sq: Sidequest) -> None:
    text = "é" * 500_000
    assert await (await jobs.echo.enqueue(text)).result(timeout=10) == text


async def test_a_job_that_raises_is_retried_then_fails_with_its_traceback(sq: Sidequest) -> None:
    handle = await jobs.boom.enqueue("bäng")
    error = await failure(handle)
    record = await handle.refresh()
    assert (error.error_type, error.error_message) == ("ValueError", "bäng")
    assert "sample_jobs.py" in str(error)
    assert "raise ValueError(text)" in str(error)
    assert [(e.kind, e.attempt) for e in record.errors] == [("error", 1), ("error", 2)]
    assert (record.state, record.attempt) == (State.FAILED, 2)


@pytest.mark.parametrize(
    ("definition", "attempts"), [(jobs.discarded, 1), (jobs.only_os_errors, 1), (jobs.own_backoff, 2), (jobs.fails, 1)]
)
async def test_the_rules_of_the_job_decide_about_retries(sq: Sidequest, definition: object, attempts: int) -> None:
    handle = await definition.enqueue()  # type: ignore[attr-defined]
    await failure(handle)
    assert (await handle.refresh()).attempt == attempts


@pytest.mark.parametrize(("definition", "words"), [(jobs.unstorable, "$.deep[0]"), (jobs.enormous, "1,048,576")])
async def test_a_result_that_cannot_be_stored_fails_at_once(sq: Sidequest, definition: object, words: str) -> None:
    handle = await definition.enqueue()  # type: ignore[attr-defined]
    error = await failure(handle)
    record = await handle.refresh()
    assert words in error.error_message
    assert (record.attempt, record.errors[-1].kind) == (1, "result")


async def test_sys_exit_in_a_job_is_an_ordinary_error(sq: Sidequest) -> None:
    pids = [await (await jobs.sleep.enqueue(0)).result(timeout=10)]
    assert (await failure(await jobs.sys_exit.enqueue())).error_type == "SystemExit"
    pids.append(await (await jobs.sleep.enqueue(0)).result(timeout=10))
    assert pids[0] == pids[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (jobs.hard_exit.options(max_attempts=1).call(5), "exited with code 5"),
        (jobs.hard_exit.options(max_attempts=1).call(0), "exited with code 0"),
        (jobs.kill_itself.options(max_attempts=1).call(), "SIGKILL, which nobody here sent: probably out of memory"),
        (jobs.segfault.call(), "SIGSEGV"),
        (jobs.async_hard_exit.call(), "exited with code 7"),
    ],
)
async def test_a_crash_names_its_cause_and_spares_the_neighbours(sq: Sidequest, call: object, words: str) -> None:
    sync, other = await jobs.sleep.enqueue(1), await jobs.sleep.enqueue(1)
    await eventually(lambda: in_state(sq, State.RUNNING, 2))
    error = await failure(await sq.enqueue(call))  # type: ignore[arg-type]
    assert error.error_type == "WorkerDied"
    assert words in error.error_message
    for neighbour in (sync, other):
        await neighbour.result(timeout=10)
        record = await neighbour.refresh()
        assert (record.attempt, record.crashes, record.interrupts, record.errors) == (1, 0, 0, ())


async def test_a_crash_is_retried_after_ten_seconds_and_the_third_is_the_last(sq: Sidequest) -> None:
    handle = await jobs.hard_exit.enqueue()
    for crashes in (1, 2):

        async def crashed(crashes: int = crashes) -> bool:
            record = await handle.refresh()
            return (record.state, record.crashes) == (State.WAITING, crashes)

        await eventually(crashed)
        record = await handle.refresh()
        assert record.finished_at is None
        assert record.available_at - datetime.now(UTC) > timedelta(seconds=8)
        await sq.jobs.run_now(handle.id)
    await failure(handle)
    record = await handle.refresh()
    assert (record.crashes, record.attempt, record.max_attempts) == (3, 3, 5)


async def test_an_async_job_caught_in_the_act_is_blamed_and_the_others_are_not(sq: Sidequest) -> None:
    others = [await jobs.nap.enqueue(1.0) for _ in range(3)]
    await eventually(lambda: in_state(sq, State.RUNNING, 3))
    await failure(await jobs.async_hard_exit.enqueue(0.1))
    for other in others:
        await other.result(timeout=10)
        record = await other.refresh()
        assert (record.attempt, record.crashes, record.isolated) == (1, 0, False)


async def test_when_nobody_can_be_blamed_all_run_alone_next_time(sq: Sidequest) -> None:
    pid = await (await jobs.nap.enqueue(0)).result(timeout=10)
    sleepers = [await jobs.nap.enqueue(0.8) for _ in range(3)]
    await eventually(lambda: in_state(sq, State.RUNNING, 3))
    os.kill(pid, signal.SIGKILL)
    pids = [await sleeper.result(timeout=15) for sleeper in sleepers]
    records = [await sleeper.refresh() for sleeper in sleepers]
    assert len(set(pids)) == 3
    assert [(r.attempt, r.crashes, r.isolated, len(r.errors)) for r in records] == [(1, 0, True, 1)] * 3


async def test_a_crash_is_seen_while_a_grandchild_lives_and_takes_it_along(sq: Sidequest, tmp_path: Path) -> None:
    path = tmp_path / "child"
    error = await failure(await jobs.grandchild.options(max_attempts=1).enqueue(str(path)))
    assert "exited with code 9" in error.error_message
    child = int(path.read_text())
    await eventually(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())


@pytest.mark.parametrize("definition", [jobs.hang, jobs.async_hang])
async def test_a_timeout_stops_the_job_and_says_where_it_was(sq: Sidequest, definition: object) -> None:
    neighbour = await jobs.sleep.enqueue(1)
    error = await failure(await definition.enqueue())  # type: ignore[attr-defined]
    assert error.error_type == "JobTimeout"
    assert "0.2 s" in error.error_message
    assert "sleep(60)" in str(error)
    await neighbour.result(timeout=10)


@pytest.mark.parametrize("definition", [jobs.stubborn, jobs.hold_the_gil, jobs.block_the_loop])
async def test_a_job_that_does_not_stop_is_killed_with_its_stack_in_the_error(sq: Sidequest, definition: object) -> None:
    neighbours = [await jobs.sleep.enqueue(1.5), await jobs.nap.enqueue(1.5)]
    handle = await definition.enqueue()  # type: ignore[attr-defined]
    error = await failure(handle)
    assert "its worker was killed" in error.error_message
    assert definition.name.partition(":")[2] in str(error)  # type: ignore[attr-defined]
    for neighbour in neighbours:
        await neighbour.result(timeout=10)
        assert (await neighbour.refresh()).attempt == 1


@pytest.mark.parametrize(("definition", "attempt"), [(jobs.snoozes, 1), (jobs.returns_snooze, 1), (jobs.retries, 3)])
async def test_a_job_steers_its_own_end(sq: Sidequest, definition: object, attempt: int) -> None:
    handle = await definition.enqueue()  # type: ignore[attr-defined]
    assert await handle.result(timeout=10) == attempt
    assert (await handle.refresh()).attempt == attempt


async def test_a_class_job_is_built_again_in_the_worker(sq: Sidequest) -> None:
    assert await (await jobs.Tenant("acme").enqueue(3)).result(timeout=10) == "acme 3 tenants 1"
    assert await (await jobs.Tenant("acme").enqueue(0)).result(timeout=10) == "early"
    assert (await failure(await jobs.Tenant("acme").enqueue(-1))).error_message == "no such day"


async def test_a_waiting_job_is_canceled_at_once_and_never_starts(sq: Sidequest, tmp_path: Path) -> None:
    handle = await jobs.mark.options(delay=60).enqueue(str(tmp_path / "ran"), "x")
    assert await handle.cancel() == "canceled"
    with pytest.raises(JobCanceled):
        await handle.result(timeout=5)
    assert await handle.cancel() == "too_late"
    assert not (tmp_path / "ran").exists()


async def test_a_running_sync_job_is_canceled_and_cleans_up(sq: Sidequest, tmp_path: Path) -> None:
    handle = await jobs.cleans_up.enqueue(str(tmp_path / "log"))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    assert await handle.cancel() == "requested"
    assert await handle.wait(timeout=5) is State.CANCELED
    assert (tmp_path / "log").read_text() == "cleaned\n"


async def test_a_running_async_job_is_canceled_and_its_neighbour_is_not(sq: Sidequest) -> None:
    neighbour, handle = await jobs.nap.enqueue(1), await jobs.nap.enqueue(60)
    await eventually(lambda: in_state(sq, State.RUNNING, 2))
    assert await handle.cancel() == "requested"
    assert await handle.wait(timeout=5) is State.CANCELED
    assert await neighbour.wait(timeout=5) is State.COMPLETED


async def test_a_running_job_that_ignores_its_cancel_is_killed(sq: Sidequest) -> None:
    handle = await jobs.stubborn.options(timeout=None, kill_grace=0.2).enqueue()
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    assert await handle.cancel() == "requested"
    assert await handle.wait(timeout=5) is State.CANCELED


async def test_a_cancel_from_elsewhere_reaches_the_job_within_a_second_or_so(sq: Sidequest, start: StartSidequest) -> None:
    elsewhere = await start(engine="off")
    handle = await sq.enqueue(jobs.sleep.call(60))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    assert await elsewhere.jobs.cancel(handle.id) == "requested"
    assert await handle.wait(timeout=3) is State.CANCELED


async def test_a_job_that_no_worker_knows_waits_for_a_deploy(sq: Sidequest) -> None:
    handle = await sq.enqueue(call_by_name("shop.jobs:send", "a@b.c"))

    async def looked_at() -> bool:
        return bool((await handle.refresh()).errors)

    await eventually(looked_at)
    record = await handle.refresh()
    assert (record.state, record.attempt, record.errors[0].kind) == (State.WAITING, 0, "unknown")
    assert timedelta(seconds=20) < record.available_at - datetime.now(UTC) < timedelta(seconds=31)


async def test_arguments_that_no_longer_fit_are_an_error_of_the_attempt(sq: Sidequest) -> None:
    [id] = await sq._insert([NewJob(jobs.add.name, '{"args":[1,2,3]}', max_attempts=1)])
    error = await failure(sq.handle(id))
    message = f"{jobs.add.name}: too many positional arguments; it takes (a: 'int', b: 'int') -> 'int'"
    assert (error.error_type, error.error_message) == ("TypeError", message)


async def test_a_row_cannot_choose_what_code_runs(sq: Sidequest) -> None:
    [id] = await sq._insert([NewJob("os:system", '{"args":["touch /tmp/owned"]}')])
    handle = sq.handle(id)

    async def looked_at() -> bool:
        return bool((await handle.refresh()).errors)

    await eventually(looked_at)
    assert (await handle.refresh()).errors[0].kind == "unknown"


async def test_a_module_that_cannot_be_imported_says_so_in_the_job(
    start: StartSidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_shop.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sq = await start(modules=["broken_shop"])
    handle = await sq.enqueue(call_by_name("broken_shop:send"), max_attempts=1)
    error = await failure(handle)
    assert "broken_shop cannot be imported: RuntimeError: no licence" in error.error_message
    assert await (await jobs.add.enqueue(1, 1)).result(timeout=10) == 2


async def test_what_cannot_be_stored_is_refused_before_anything_is_written(sq: Sidequest) -> None:
    with pytest.raises(NotSerializable, match=r"argument 'value' .* \$\.a\[0\]"):
        await jobs.echo.enqueue({"a": [object()]})
    assert sum((await sq.jobs.count()).values()) == 0
