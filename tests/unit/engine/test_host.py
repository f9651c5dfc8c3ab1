"""The other engines of this host: real processes, because that is what is judged."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sidequest.backends.base import EngineRecord, WorkerGroup
from sidequest.engine import host
from tests.unit.engine.fakes import DEAD_PID, NOW

HERE = host.home()
pytestmark = pytest.mark.skipif(not all(HERE), reason="the kernel does not tell where processes live")


PARENT = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a group of its own, and another one in that."""
    command = [sys.executable, "-c", PARENT]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    yield started
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


def child_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def engine(pid: int, born: str, **home: str) -> EngineRecord:
    return EngineRecord("e1", socket.gethostname(), pid, "1", "*", NOW, NOW, 0, HERE._replace(born=born, **home))


def test_a_process_that_runs_has_not_died(process) -> None:
    assert not host.has_died(engine(process.pid, host.born(process.pid)), HERE)


def test_a_number_that_nobody_has_is_a_dead_process() -> None:
    assert host.has_died(engine(DEAD_PID, "1"), HERE)


def test_a_number_that_was_given_again_is_a_dead_process(process) -> None:
    assert host.has_died(engine(process.pid, str(int(host.born(process.pid)) - 1)), HERE)


def test_a_process_that_has_ended_and_that_nobody_has_looked_at_is_dead(process) -> None:
    born = host.born(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (host.has_died(engine(process.pid, born), HERE), host.born(process.pid)) == (True, "")


@pytest.mark.parametrize("elsewhere", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_who_lives_elsewhere_is_not_judged_by_a_number(elsewhere: dict[str, str]) -> None:
    assert not host.has_died(engine(DEAD_PID, "1", **elsewhere), HERE)


async def test_a_group_is_ended_with_all_that_is_in_it(process) -> None:
    child = child_of(process)
    assert await host.end_groups(host.worker_groups([process.pid])) is True
    assert (host.born(process.pid), host.born(child)) == ("", "")


async def test_a_group_is_ended_also_when_its_leader_is_dead_already(process) -> None:
    child, groups = child_of(process), host.worker_groups([process.pid])
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert await host.end_groups(groups) is True
    assert await _is_gone(child)


async def test_a_group_whose_number_was_given_again_is_left_alone(process) -> None:
    assert await host.end_groups([WorkerGroup(process.pid, "1")]) is True
    assert process.poll() is None


async def test_groups_that_are_gone_are_no_work() -> None:
    assert await host.end_groups([WorkerGroup(DEAD_PID, "1")]) is True


def test_processes_that_are_not_there_lead_no_groups() -> None:
    assert host.worker_groups([0, DEAD_PID]) == ()


async def _is_gone(pid: int) -> bool:
    for _ in range(500):
        if not host.born(pid):
            return True
        await asyncio.sleep(0.01)
    return False
