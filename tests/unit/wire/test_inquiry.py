"""Asking an engine of this host: who answers, what is refused, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidequest.wire import inquiry, wake_socket
from sidequest.wire.inquiry import LONGEST_QUESTION, MOST_AT_ONCE, InquirySocket, ask
from sidequest.wire.wake_socket import LocalEngines, LookFor, WakeSocket

SHOP = "sqlite|/srv/shop.db|sidequest_"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", f"{folder}/nowhere")
        yield Path(folder)


class Engine:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.silent = False
        self.speak = asyncio.Event()
        self.socket = InquirySocket(SHOP, "engine-1")

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(question)
        if self.silent:
            await self.speak.wait()
        return {"stack": "here\n" * 20_000}


@pytest.fixture
async def engine(runtime: Path) -> AsyncIterator[Engine]:
    made = Engine()
    serving = asyncio.create_task(made.socket.serve(made.answer))
    yield made
    serving.cancel()
    await asyncio.wait([serving])
    made.socket.close()


async def test_a_question_is_answered(engine: Engine) -> None:
    answers = await asyncio.gather(*(ask(SHOP, "engine-1", {"stack": n}) for n in range(3)))
    assert answers == [{"stack": "here\n" * 20_000}] * 3
    assert sorted(question["stack"] for question in engine.asked) == [0, 1, 2]


async def test_an_engine_that_is_not_here_answers_nothing(engine: Engine) -> None:
    assert await ask(SHOP, "engine-2", {"stack": 1}) is None
    assert await ask("another database", "engine-1", {"stack": 1}) is None


async def test_an_engine_that_gives_no_answer_in_time_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "ANSWER_WAIT", 0.1)
    engine.silent = True
    assert await ask(SHOP, "engine-1", {"stack": 1}) is None
    engine.silent = False
    assert await ask(SHOP, "engine-1", {"stack": 1}) is not None


@pytest.mark.parametrize("data", [b"no json\n", b"\n", b"\xff\xff\n", b"x" * (LONGEST_QUESTION + 1), b'{"stack":'])
async def test_what_is_no_question_is_hung_up_on(engine: Engine, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        await loop.sock_connect(caller, str(engine.socket.path))
        await loop.sock_sendall(caller, data)
        caller.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(caller, 100) == b""
    assert engine.asked == []
    assert await ask(SHOP, "engine-1", {"stack": 1}) is not None


async def test_too_many_askers_are_turned_away_and_the_next_one_is_not(engine: Engine) -> None:
    engine.silent = True
    asking = [asyncio.create_task(ask(SHOP, "engine-1", {"stack": n})) for n in range(3 * MOST_AT_ONCE)]
    while sum(task.done() for task in asking) < 2 * MOST_AT_ONCE:  # noqa: ASYNC110 - they end in their own time
        await asyncio.sleep(0)
    assert {task.result() is None for task in asking if task.done()} == {True}
    assert len(engine.asked) == MOST_AT_ONCE
    engine.silent = False
    engine.speak.set()
    assert sum(answer is not None for answer in await asyncio.gather(*asking)) == MOST_AT_ONCE
    assert await ask(SHOP, "engine-1", {"stack": 1}) is not None


def test_only_its_user_can_reach_it(runtime: Path) -> None:
    made = InquirySocket(SHOP, "engine-1")
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    made.close()
    assert not made.path.exists()


def test_it_does_not_get_the_calls_that_wake_engines_and_is_swept_when_it_is_dead(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_socket, "STALE_AFTER", -1.0)
    dead, living = InquirySocket(SHOP, "engine-1"), InquirySocket(SHOP, "engine-2")
    wakes = WakeSocket(SHOP, "engine-2")
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert wakes.heard() == {LookFor.WORK}
    dead._socket.close()
    wake_socket.sweep(living.path.parent)
    assert (dead.path.exists(), living.path.exists(), wakes.path.exists()) == (False, True, True)
    for each in (living, wakes):
        each.close()
