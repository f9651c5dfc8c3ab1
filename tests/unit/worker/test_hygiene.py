"""What a job has left behind: found, told in words, and what was there before is not."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidequest.errors import JobStopped
from sidequest.event_loop import LoopFactory, loop_factory
from sidequest.worker import lone_loop
from sidequest.worker.hygiene import Hygiene
from sidequest.worker.lone_loop import LoneLoop


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    directory, mask, limits = Path.cwd(), os.umask(0o22), resource.getrlimit(resource.RLIMIT_CPU)
    os.umask(mask)
    handler = signal.getsignal(signal.SIGUSR1)
    yield
    os.chdir(directory)
    os.umask(mask)
    signal.signal(signal.SIGUSR1, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    resource.setrlimit(resource.RLIMIT_CPU, limits)


def test_a_process_that_is_as_it_was_has_no_findings() -> None:
    hygiene = Hygiene()
    assert hygiene.check() == hygiene.check() == []


def test_each_change_is_told_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOP", "1")
    hygiene = Hygiene()
    os.chdir(tmp_path)
    os.umask(0o007)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    resource.setrlimit(resource.RLIMIT_CPU, (10**6, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    monkeypatch.setenv("SHOP", "2")
    assert hygiene.check() == [
        f"the working directory is {tmp_path}",
        "the umask is 0007",
        "SIGUSR1 has another handler",
        "an interval timer was changed",
        "RLIMIT_CPU is 1000000",
        "the environment variable SHOP was changed",
    ]


def test_a_variable_that_came_with_an_import_is_the_modules_doing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sets_a_variable.py").write_text("import os\nos.environ['OF_A_LIBRARY'] = '1'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hygiene = Hygiene()
    monkeypatch.setitem(sys.modules, "sets_a_variable", None)
    monkeypatch.delitem(sys.modules, "sets_a_variable")
    __import__("sets_a_variable")
    assert hygiene.check() == []
    monkeypatch.setenv("OF_A_JOB", "1")
    assert hygiene.check() == ["the environment variable OF_A_JOB was changed"]
    monkeypatch.delenv("OF_A_LIBRARY")


def test_a_thread_that_still_runs_is_told_and_those_of_pools_and_daemons_are_not() -> None:
    hygiene = Hygiene()
    end = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int)
        threads = [threading.Thread(target=end.wait, name="leaked"), threading.Thread(target=end.wait, daemon=True)]
        for thread in threads:
            thread.start()
        found, of_others = hygiene.check(), hygiene.check(nothing_runs=False)
        end.set()
    for thread in threads:
        thread.join()
    assert (found, of_others, hygiene.check()) == (["the thread 'leaked' still runs"], [], [])


def test_a_child_that_still_runs_is_told_also_when_another_thread_started_it() -> None:
    earlier = subprocess.Popen(["sleep", "60"])
    hygiene = Hygiene()
    children: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: children.append(subprocess.Popen(["sleep", "60"])))
    thread.start()
    thread.join()
    found = hygiene.check()
    for child in (earlier, *children):
        child.kill()
    while "Z" not in Path(f"/proc/{children[0].pid}/stat").read_text():
        time.sleep(0.001)
    left = hygiene.check()  # one that has ended and was not waited for
    for child in (earlier, *children):
        child.wait()
    assert (found, left) == ([f"process {children[0].pid} still runs"], [])


def test_what_the_check_is_made_of_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    hygiene = Hygiene()
    monkeypatch.setattr(os, "umask", None)
    assert hygiene.check() == ["it cannot be looked at (TypeError)"]


# A loop for one job


async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


@pytest.fixture(params=["asyncio", "uvloop"])
def make_loop(request: pytest.FixtureRequest) -> LoopFactory:
    return loop_factory(request.param)


def test_a_task_that_does_not_end_is_told_and_let_go_of(monkeypatch: pytest.MonkeyPatch, make_loop: LoopFactory) -> None:
    monkeypatch.setattr(lone_loop, "TASK_WAIT", 0.05)
    tasks: list[asyncio.Task[None]] = []

    async def job() -> int:
        tasks.append(asyncio.create_task(stubborn(), name="stubborn"))
        await asyncio.sleep(0)
        return 7

    loop = LoneLoop(make_loop)
    assert (loop.run(job()), loop.left_running()) == (7, ["the task stubborn still runs"])
    loop.close()
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()


@pytest.mark.parametrize("blocks", [False, True])
def test_a_stop_breaks_in_while_a_job_waits_and_while_it_blocks(make_loop: LoopFactory, blocks: bool) -> None:
    async def job() -> str:
        threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
        try:
            await asyncio.sleep(0 if blocks else 60)
            time.sleep(60)
        except (asyncio.CancelledError, JobStopped) as error:
            return repr(error)
        return "went on"

    loop = LoneLoop(make_loop)
    signal.signal(signal.SIGUSR1, lambda signum, frame: loop.stop("enough"))
    kind = "JobStopped" if blocks else "CancelledError"
    assert (loop.run(job()), loop.left_running()) == (f"{kind}('enough')", [])
    loop.close()


def test_threads_that_have_done_their_work_are_nothing_left(make_loop: LoopFactory) -> None:
    async def job() -> str:
        return await asyncio.to_thread(str, 7)

    loop = LoneLoop(make_loop)
    assert (loop.run(job()), loop.left_running()) == ("7", [])
    loop.close()


def test_a_thread_that_still_works_is_told(make_loop: LoopFactory) -> None:
    end = threading.Event()

    async def job() -> None:
        asyncio.get_running_loop().run_in_executor(None, end.wait)
        await asyncio.sleep(0)

    loop = LoneLoop(make_loop)
    loop.run(job())
    found = loop.left_running()
    end.set()
    loop.close()
    assert found == ["the thread to_thread_0 still runs"]
