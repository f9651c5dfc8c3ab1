"""Where a running job is now: asked by another process of the host, answered by the job's engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidequest import EngineUnreachable, JobNotFound, JobStateError, Sidequest, State
from tests.integration import abusive_jobs as jobs
from tests.integration import sample_jobs as samples
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import eventually, in_state

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
MODULE = "tests.integration.abusive_jobs"


@pytest.fixture
async def sq(start: StartSidequest) -> Sidequest:
    return await start(max_workers=4, kill_grace=0.5, modules=[MODULE])


@pytest.mark.parametrize(("definition", "line"), [(jobs.where_it_waits, "deep_inside"), (jobs.where_it_sits, "where_it_sits")])
async def test_a_running_job_shows_its_own_stack_and_goes_on(
    sq: Sidequest, tmp_path: Path, definition: object, line: str
) -> None:
    gate = tmp_path / "gate"
    handle = await sq.enqueue(definition.call(str(gate)))  # type: ignore[attr-defined]
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    stacks = await asyncio.gather(*(sq.jobs.stack(handle.id) for _ in range(3)))
    gate.touch()
    assert await handle.wait(timeout=10) is State.COMPLETED
    for stack in stacks:
        own, threads = stack.split("All threads of the worker")
        assert f"job {handle.id} ({MODULE}:" in own
        assert f", in {line}" in own
        assert "sidequest/worker" not in own
        assert "Thread 0x" in threads


async def test_a_job_that_holds_its_worker_up_is_seen_all_the_same(sq: Sidequest) -> None:
    handle = await sq.enqueue(jobs.blocks_the_loop.call(5))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    stack = await sq.jobs.stack(handle.id)
    assert "the worker does not answer" in stack
    assert "in blocks_the_loop" in stack


async def test_a_job_that_holds_the_gil_is_seen_all_the_same(sq: Sidequest) -> None:
    handle = await sq.enqueue(jobs.hogs_the_gil.options(timeout=4).call())
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    assert "in hogs_the_gil" in await sq.jobs.stack(handle.id)
    await handle.wait(timeout=20)


async def test_the_command_line_shows_it_from_another_process(sq: Sidequest, url: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = await sq.enqueue(jobs.where_it_waits.call(str(gate)))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    plain = await _cli("jobs", "stack", str(handle.id), "--url", url)
    document = json.loads((await _cli("jobs", "stack", str(handle.id), "--url", url, "--json"))[1])
    gate.touch()
    await handle.wait(timeout=10)
    assert (plain[0], "in deep_inside" in plain[1]) == (0, True)
    assert (document["id"], "in deep_inside" in document["stack"]) == (handle.id, True)
    code, _, told = await _cli("jobs", "stack", str(handle.id), "--url", url)
    assert (code, told) == (1, f"sidequest: job {handle.id} is completed: only a running job is somewhere\n")


async def test_only_a_running_job_has_a_stack(sq: Sidequest) -> None:
    waiting = await sq.enqueue(samples.add.options(delay=60).call(1, 2))
    with pytest.raises(JobStateError, match="is waiting"):
        await sq.jobs.stack(waiting.id)
    with pytest.raises(JobNotFound):
        await sq.jobs.stack(10**9)
    with pytest.raises(TypeError, match="id must be an integer"):
        await sq.jobs.stack("7")  # type: ignore[arg-type]


async def test_a_job_that_waits_for_a_worker_is_said_to_do_so(start: StartSidequest, tmp_path: Path) -> None:
    sq = await start(max_workers=1, modules=[MODULE])
    gate = tmp_path / "gate"
    handles = [await sq.enqueue(jobs.where_it_sits.call(str(gate))) for _ in range(2)]

    async def claimed() -> bool:
        return {(await handle.refresh()).state for handle in handles} == {State.RUNNING, State.CLAIMED}

    await eventually(claimed)
    [waiting] = await sq.jobs.list(state=State.CLAIMED)
    with pytest.raises(JobStateError, match="has not started"):
        await sq.jobs.stack(waiting.id)
    gate.touch()
    for handle in handles:
        await handle.wait(timeout=10)


async def test_from_elsewhere_one_is_told_whom_to_ask(sq: Sidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = tmp_path / "gate"
    handle = await sq.enqueue(jobs.where_it_waits.call(str(gate)))
    await eventually(lambda: in_state(sq, State.RUNNING, 1))
    monkeypatch.setattr("sidequest.wire.wake_socket.places", list)
    engine = (await handle.refresh()).engine
    with pytest.raises(EngineUnreachable, match=f"engine {engine} of job {handle.id} .* on this host"):
        await sq.jobs.stack(handle.id)
    host = os.uname().nodename
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    with pytest.raises(EngineUnreachable, match=rf"in engine {engine} on host {host}: .*`sidequest jobs stack {handle.id}`"):
        await sq.jobs.stack(handle.id)
    gate.touch()
    await handle.wait(timeout=10)


async def _cli(*argv: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "sidequest", *argv]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr
