"""Failpoints: inert unless named, exact about the hit, and loud about what cannot be meant."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import sidequest
from sidequest import failpoints
from sidequest.errors import BackendUnavailable, ConfigError
from sidequest.failpoints import POINTS, VARIABLE, Failpoints

PACKAGE = Path(sidequest.__file__).parent
DIES = "from sidequest import failpoints; failpoints.hit('worker.before_run'); print('survived')"


def run(code: str, points: str) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**os.environ, VARIABLE: points, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=30
    )


def test_nothing_happens_without_the_variable() -> None:
    assert failpoints._named is None
    failpoints.hit("no point at all")  # not even looked at


def test_a_point_that_is_not_named_does_nothing() -> None:
    Failpoints("end.before_write=raise:OSError").hit("end.after_write")


def test_an_action_happens_at_its_hit_alone() -> None:
    points = Failpoints("worker.before_run=raise:OSError@2, worker.after_run=sleep:0")
    points.hit("worker.before_run")
    points.hit("worker.after_run")
    with pytest.raises(OSError, match=r"worker\.before_run"):
        points.hit("worker.before_run")
    points.hit("worker.before_run")


def test_an_action_without_a_hit_happens_each_time() -> None:
    points = Failpoints("claim.after_commit=raise:BackendUnavailable")
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            points.hit("claim.after_commit")


async def test_a_sleep_in_a_coroutine_lets_others_go_on() -> None:
    points = Failpoints("claim.before_commit=sleep:30")
    sleeping = asyncio.create_task(points.reach("claim.before_commit"))
    await asyncio.sleep(0)
    assert not sleeping.done()
    sleeping.cancel()


def test_a_sleep_elsewhere_takes_its_time() -> None:
    began = time.monotonic()
    Failpoints("worker.after_run=sleep:0.05").hit("worker.after_run")
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(("action", "code"), [("exit:9", 9), ("kill", -signal.SIGKILL)])
def test_a_process_can_be_made_to_die(action: str, code: int) -> None:
    done = run(DIES, f"worker.before_run={action}")
    assert (done.returncode, done.stdout) == (code, "")


def test_a_process_can_be_made_to_stand_still() -> None:
    environment = {**os.environ, VARIABLE: "worker.before_run=stop", "PYTHONPATH": str(PACKAGE.parent)}
    process = subprocess.Popen([sys.executable, "-c", DIES], env=environment, stdout=subprocess.PIPE, text=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "survived\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("claim.after_comit=kill", "did you mean 'claim.after_commit'"),
        ("nowhere=kill", "there is no point 'nowhere'; there are enqueue.before_send"),
        ("claim.after_commit", "not of the form"),
        ("claim.after_commit=explode", "the actions are"),
        ("claim.after_commit=exit:256", "0 to 255"),
        ("claim.after_commit=exit", "the actions are"),
        ("claim.after_commit=kill:9", "the actions are"),
        ("claim.after_commit=sleep:soon", "the actions are"),
        ("claim.after_commit=raise:KeyboardInterrupt", "the actions are"),
        ("claim.after_commit=raise:Nonsense", "the actions are"),
        ("claim.after_commit=kill@0", "counted from 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Failpoints(text)


def test_a_wrong_variable_stops_the_process_at_once() -> None:
    done = run("import sidequest.worker.serve", "nowhere=kill")
    assert done.returncode != 0
    assert "SIDEQUEST_FAILPOINTS: there is no point 'nowhere'" in done.stderr


def test_every_point_stands_in_the_code_and_every_point_in_the_code_is_known() -> None:
    used: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        used.update(re.findall(r'failpoints\.(?:hit|reach)\("([a-z_.]+)"\)', file.read_text("utf-8")))
    outbox = (PACKAGE / "engine" / "outbox.py").read_text("utf-8")
    for what in re.findall(r'self\._write\("([a-z]+)"', outbox):
        used.update((f"{what}.before_write", f"{what}.after_write"))
    assert used == {*POINTS}
