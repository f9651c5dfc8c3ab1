"""The workers of an engine that died: killed, and gone, and nobody else with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sidequest.app import orphans
from sidequest.app.orphans import Orphans

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")  # noqa: PTH110
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def worker():
    """A process in a group of its own, with a child; and the child's number."""
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = int(process.stdout.readline())
    yield process, child
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def lives(pid: int) -> bool:
    seen = orphans._look_at(pid)
    return seen is not None and seen.state not in "ZX"


async def test_they_and_their_children_are_gone_when_it_returns(worker) -> None:
    process, child = worker
    left = Orphans()
    left.remember([process.pid])
    await left.end()
    assert not lives(process.pid)
    assert not lives(child)


async def test_what_a_dead_worker_has_started_is_ended_as_well(worker) -> None:
    process, child = worker
    left = Orphans()
    left.remember([process.pid])
    process.kill()
    process.wait()
    assert lives(child)
    await left.end()
    assert not lives(child)


async def test_a_frozen_worker_is_ended(worker) -> None:
    process, _ = worker
    left = Orphans()
    left.remember([process.pid])
    process.send_signal(signal.SIGSTOP)
    await left.end()
    assert not lives(process.pid)


async def test_another_process_that_was_given_the_number_is_spared(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = worker
    left = Orphans()
    left.remember([process.pid])
    left._born[process.pid] = "1"
    await left.end()
    assert lives(process.pid)


async def test_those_who_ended_before_are_not_remembered(worker) -> None:
    process, child = worker
    left = Orphans()
    left.remember([process.pid])
    left.remember([])
    await left.end()
    assert lives(child)


async def test_one_that_cannot_be_killed_is_given_up_with_an_error(
    worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process, _ = worker
    monkeypatch.setattr(orphans, "_kill", lambda pid: None)
    monkeypatch.setattr(orphans, "LONGEST", 0.05)
    left = Orphans()
    left.remember([process.pid])
    await left.end()
    assert f"[{process.pid}]" in caplog.text
