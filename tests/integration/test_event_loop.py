"""What engines and workers really run on: uvloop, asyncio's own loop, and that where uvloop is broken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sidequest import call_by_name
from tests.integration import worker_jobs as jobs
from tests.integration.conftest import StartSidequest
from tests.integration.waiting import engine_pid, marked_templates

LOADED: dict[str, Any] = {"modules": ["tests.integration.worker_jobs"], "engine": "process"}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """One driver that needs the loop for its sockets, and one that does not."""
    name: str = request.param
    return name


@pytest.mark.parametrize(("choice", "kind"), [("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")])
async def test_engine_template_and_jobs_of_both_ways_run_on_the_loop_of_choice(
    start: StartSidequest, mark: str, choice: str, kind: str
) -> None:
    sq = await start(event_loop=choice, **LOADED)
    shared = await (await sq.enqueue(jobs.running_loop.call())).result(timeout=20)
    alone = await (await sq.enqueue(call_by_name("tests.integration.lazy_jobs:running_loop"))).result(timeout=20)
    assert (shared, alone) == ((kind, False), (kind, True))
    assert [has_uvloop(pid) for pid in (engine_pid(sq), *marked_templates(mark))] == [kind == "uvloop"] * 2


async def test_a_broken_uvloop_is_done_without_and_told_once(
    start: StartSidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "uvloop.py").write_text("raise RuntimeError('built for another Python')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    sq = await start(event_loop="auto", **LOADED)
    assert await (await sq.enqueue(jobs.running_loop.call())).result(timeout=20) == ("asyncio", False)
    told = [line for line in capfd.readouterr().err.splitlines() if "uvloop" in line]
    assert told == [
        "WARNING sidequest.event_loop: uvloop is installed and cannot be imported; "
        "running on asyncio's own event loop: built for another Python"
    ]


def has_uvloop(pid: int) -> bool:
    """Whether its code is in that process."""
    return "/uvloop/loop." in Path(f"/proc/{pid}/maps").read_text()
