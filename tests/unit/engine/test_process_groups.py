"""The worker groups of an engine that died: killed, and gone, and nobody else with them. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sidequest.backends.base import WorkerGroup
from sidequest.engine import process_groups
from sidequest.engine.process_groups import born, end_groups, worker_groups
from tests.unit.engine.fakes import DEAD_PID

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


async def test_they_and_their_children_are_gone_when_it_returns(worker) -> None:
    process, child = worker
    assert await end_groups(worker_groups([process.pid])) is True
    assert (born(process.pid), born(child)) == ("", "")


async def test_what_a_dead_worker_has_started_is_ended_as_well(worker) -> None:
    process, child = worker
    groups = worker_groups([process.pid])
    process.kill()
    process.wait()
    assert born(child)
    assert await end_groups(groups) is True
    assert not born(child)


async def test_what_a_worker_has_started_is_ended_when_nobody_has_looked_at_its_death(worker) -> None:
    process, child = worker
    groups = worker_groups([process.pid])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert await end_groups(groups) is True
    assert not born(child)


async def test_a_frozen_worker_is_ended(worker) -> None:
    process, _ = worker
    process.send_signal(signal.SIGSTOP)
    assert await end_groups(worker_groups([process.pid])) is True
    assert not born(process.pid)


async def test_another_process_that_was_given_the_number_is_spared(worker) -> None:
    process, _ = worker
    assert await end_groups([WorkerGroup(process.pid, "1")]) is True
    assert born(process.pid)


async def test_groups_that_are_gone_are_no_work() -> None:
    assert await end_groups([WorkerGroup(DEAD_PID, "1")]) is True


async def test_one_that_cannot_be_killed_is_told(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = worker
    monkeypatch.setattr(process_groups, "_kill", lambda pid: True)
    monkeypatch.setattr(process_groups, "GONE_WITHIN", 0.05)
    assert await end_groups(worker_groups([process.pid])) is False


def test_processes_that_are_not_there_lead_no_groups() -> None:
    assert worker_groups([0, DEAD_PID]) == ()
