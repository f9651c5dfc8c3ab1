"""`engine="inline"`: the same jobs and promises in this very event loop, without processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidequest import JobContext, JobFailed, Sidequest, State, job
from sidequest.backends import make_backend
from sidequest.config import Settings
from sidequest.engine.dispatcher import Dispatcher
from sidequest.engine.engine import Engine, Orders
from sidequest.engine.inline import InlineLink
from tests.integration import sample_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually, in_state, marked_processes


@pytest.fixture
async def inline(start: StartSidequest) -> Sidequest:
    return await start(engine="inline", kill_grace=0.2, shutdown_timeout=1)


async def test_jobs_run_here_and_start_no_process(inline: Sidequest, mark: str) -> None:
    pids = [await (await definition.enqueue(0)).result(timeout=5) for definition in (jobs.nap, jobs.sleep)]
    assert pids == [os.getpid()] * 2
    assert not marked_processes(mark)


@pytest.mark.parametrize(("definition", "line"), [(jobs.nap, "asyncio.sleep(seconds)"), (jobs.sleep, "time.sleep(seconds)")])
async def test_a_running_job_shows_where_it_is(inline: Sidequest, definition: object, line: str) -> None:
    handle = await definition.enqueue(1)  # type: ignore[attr-defined]

    async def runs() -> bool:
        return (await handle.refresh()).state is State.RUNNING

    await eventually(runs)
    assert line in await inline.jobs.stack(handle.id)
    await handle.result(timeout=5)


async def test_a_sync_job_does_not_block_the_loop(inline: Sidequest) -> None:
    slow = await jobs.sleep.enqueue(0.5)
    assert await (await jobs.add.enqueue(1, 2)).result(timeout=5) == 3
    assert (await slow.refresh()).state is not State.COMPLETED
    await slow.result(timeout=5)


async def test_jobs_fail_retry_and_snooze_as_elsewhere(inline: Sidequest) -> None:
    with pytest.raises(JobFailed, match="boom"):
        await (await jobs.boom.enqueue()).result(timeout=5)
    assert await (await jobs.retries.enqueue()).result(timeout=5) == 3
    assert await (await jobs.snoozes.enqueue()).result(timeout=5) == 1
    assert await (await jobs.parent.enqueue(3)).result(timeout=5) == [0, 2, 4]


async def test_an_async_job_is_stopped_by_its_timeout_and_by_a_cancel(inline: Sidequest) -> None:
    with pytest.raises(JobFailed, match="timeout"):
        await (await jobs.async_hang.enqueue()).result(timeout=5)
    handle = await jobs.nap.enqueue(60)
    await eventually(lambda: in_state(inline, State.RUNNING))
    assert await handle.cancel() == "requested"
    assert await handle.wait(timeout=5) is State.CANCELED


async def test_a_job_defined_in_a_function_can_run_here(inline: Sidequest) -> None:
    seen: list[int] = []

    @job
    async def local(ctx: JobContext, n: int) -> None:
        seen.append(n)

    await (await local.enqueue(5)).result(timeout=5)
    assert seen == [5]


async def test_a_job_enqueues_on_the_sidequest_that_runs_it(inline: Sidequest, tmp_path: Path) -> None:
    async with Sidequest(f"sqlite:///{tmp_path}/other.db", engine="inline") as other:
        handle = await other.enqueue(jobs.parent.call(2))
        assert await handle.result(timeout=5) == [0, 2]
        assert (sum((await other.jobs.count()).values()), sum((await inline.jobs.count()).values())) == (3, 0)


async def test_an_engine_whose_dispatcher_breaks_ends_instead_of_idling(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Dispatcher) -> bool:
        raise ZeroDivisionError("a bug")

    store = make_backend(url, role="engine")
    await store.open()
    await store.migrate()
    monkeypatch.setattr(Dispatcher, "_round", broken)
    engine = Engine(Orders(Settings.collect(url, {})), store, lambda: InlineLink(Sidequest(url)), Nobody())
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await asyncio.wait_for(engine.run(lambda: None), 10)
    await store.close()


class Nobody:
    def jobs_ended(self, ids: Sequence[int]) -> None: ...

    def workers_changed(self, pids: Sequence[int]) -> None: ...


async def test_stopping_gives_back_what_does_not_end(url: str) -> None:
    async with Sidequest(url, engine="inline", shutdown_timeout=0.1) as sq:
        handle = await jobs.nap.enqueue(60)
        await eventually(lambda: in_state(sq, State.RUNNING))
    async with Sidequest(url, engine="off") as sq:
        record = await sq.handle(handle.id).refresh()
    assert (record.state, record.attempt, record.interrupts) == (State.WAITING, 0, 1)
