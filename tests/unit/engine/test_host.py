"""The other engines of this host: real processes, because that is what is judged."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from sidequest.backends.base import EngineRecord
from sidequest.engine import host
from sidequest.engine.process_groups import born
from tests.unit.engine.fakes import DEAD_PID, NOW

HERE = host.home()
pytestmark = pytest.mark.skipif(not all(HERE), reason="the kernel does not tell where processes live")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def engine(pid: int, since: str, **home: str) -> EngineRecord:
    return EngineRecord("e1", socket.gethostname(), pid, "1", "*", NOW, NOW, 0, HERE._replace(born=since, **home))


def test_a_process_that_runs_has_not_died(process) -> None:
    assert not host.has_died(engine(process.pid, born(process.pid)), HERE)


def test_a_number_that_nobody_has_is_a_dead_process() -> None:
    assert host.has_died(engine(DEAD_PID, "1"), HERE)


def test_a_number_that_was_given_again_is_a_dead_process(process) -> None:
    assert host.has_died(engine(process.pid, str(int(born(process.pid)) - 1)), HERE)


def test_a_process_that_has_ended_and_that_nobody_has_looked_at_is_dead(process) -> None:
    since = born(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (host.has_died(engine(process.pid, since), HERE), born(process.pid)) == (True, "")


@pytest.mark.parametrize("elsewhere", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_who_lives_elsewhere_is_not_judged_by_a_number(elsewhere: dict[str, str]) -> None:
    assert not host.has_died(engine(DEAD_PID, "1", **elsewhere), HERE)
