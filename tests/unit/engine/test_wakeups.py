"""Hearing from other processes: of this host through a socket, of others through the database."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidequest.engine.wakeups import CHECK_INTERVAL, LONGEST_WAIT, SHORTEST_WAIT, Wakeups
from sidequest.errors import BackendUnavailable
from sidequest.wire.wake_socket import LISTED_FOR, LocalEngines, LookFor
from tests.unit.engine.fakes import FakeStore
from tests.unit.engine.virtual_time import settle


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", f"{folder}/nowhere")
        yield Path(folder)


class Post(FakeStore):
    """An engine's ears, and the database that they hear through."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.can_tell = False
        self.listens: list[float] = []
        self.speak: Callable[[], None] = lambda: None
        self.broken = asyncio.Event()
        self.others = LocalEngines(self.url.identity)
        self.wakeups = Wakeups(
            "engine-1", self.backend, lambda: self.heard.append("work"), lambda: self.heard.append("cancels")
        )

    async def listen(self, heard: Callable[[], None]) -> None:
        self.listens.append(asyncio.get_running_loop().time())
        if not self.can_tell:
            return
        if self.away:
            raise BackendUnavailable("the database is away")
        heard()
        self.speak = heard
        await self.broken.wait()
        raise BackendUnavailable("the connection was lost")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.wakeups.run())
        await asyncio.sleep(2 * LISTED_FOR)
        self.heard.clear()
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    @property
    def files(self) -> list[str]:
        return [path.name for place in Path(tempfile.gettempdir()).parent.iterdir() for path in place.iterdir()]


# This host


async def test_a_call_of_another_process_is_passed_on() -> None:
    post = Post()
    async with post.open():
        for call, word in ((LookFor.WORK, "work"), (LookFor.CANCELS, "cancels")):
            post.others.wake(call)
            await settle()
            assert post.heard.pop() == word
        assert post.heard == []


async def test_a_burst_of_calls_is_passed_on_as_one() -> None:
    post = Post()
    async with post.open():
        for _ in range(5):
            post.others.wake(LookFor.WORK)
        await settle()
        assert post.heard == ["work"]


async def test_whoever_looked_for_engines_just_before_this_one_is_made_up_for() -> None:
    post = Post()
    post.others.wake(LookFor.WORK)
    running = asyncio.create_task(post.wakeups.run())
    await settle()
    post.others.wake(LookFor.WORK)
    await settle()
    assert post.heard == []
    await asyncio.sleep(LISTED_FOR)
    assert post.heard == ["work"]
    running.cancel()
    await asyncio.wait([running])


async def test_a_socket_whose_file_was_removed_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    async with post.open():
        [file] = Path(tempfile.gettempdir()).parent.glob("*/*")
        file.unlink()
        await asyncio.sleep(1.1 * CHECK_INTERVAL)
        assert post.heard == ["work"], "what was enqueued meanwhile"
        post.others.wake(LookFor.WORK)
        await settle()
        assert (post.heard, caplog.text) == (["work", "work"], "")


async def test_nothing_is_left_at_the_end() -> None:
    post = Post()
    async with post.open():
        assert len(post.files) == 1
    assert post.files == []


async def test_without_a_place_for_a_socket_this_is_said_once(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    (runtime / "sidequest").symlink_to("/tmp")
    post = Post()
    async with post.open():
        await asyncio.sleep(3_600)
    assert caplog.text.count("found by polling") == 1
    assert f"{runtime}/sidequest: it is not a directory" in caplog.text


async def test_a_place_that_comes_later_is_used(runtime: Path) -> None:
    (runtime / "sidequest").touch()
    post = Post()
    async with post.open():
        (runtime / "sidequest").unlink()
        await asyncio.sleep(1.1 * CHECK_INTERVAL)
        post.heard.clear()
        post.others.wake(LookFor.WORK)
        await settle()
        assert post.heard == ["work"]


# Other hosts


async def test_a_database_that_cannot_tell_is_asked_once() -> None:
    post = Post()
    async with post.open():
        await asyncio.sleep(3_600)
        assert (len(post.listens), post.heard.count("work")) == (1, 0)


async def test_an_announcement_is_passed_on() -> None:
    post = Post()
    post.can_tell = True
    async with post.open():
        post.speak()
        assert post.heard == ["work"]


async def test_after_a_lost_connection_it_looks_at_once_and_listens_again(caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    post.can_tell = True
    async with post.open():
        post.broken.set()
        await settle()
        post.broken.clear()
        before = list(post.heard)
        await asyncio.sleep(1.01 * SHORTEST_WAIT)
        assert (before, post.heard) == ([], ["work"]), "what was announced meanwhile is lost"
        post.speak()
        assert post.heard == ["work", "work"]
    assert "jobs enqueued on other hosts are found by polling until the database tells again: the connection" in caplog.text


async def test_a_database_that_is_away_is_tried_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    post.can_tell = post.away = True
    async with post.open():
        await asyncio.sleep(600)
        pauses = [round(after - before) for before, after in zip(post.listens, post.listens[1:], strict=False)]
        assert (pauses[:6], set(pauses[6:])) == ([1, 2, 4, 8, 16, 30], {LONGEST_WAIT})
        assert caplog.text.count("the database is away") == 1


async def test_a_connection_that_was_made_counts_as_a_new_beginning() -> None:
    post = Post()
    post.can_tell = post.away = True
    async with post.open():
        await asyncio.sleep(600)
        post.away = False
        await asyncio.sleep(1.1 * LONGEST_WAIT)
        post.broken.set()
        await settle()
        post.broken.clear()
        tries = len(post.listens)
        await asyncio.sleep(1.1 * SHORTEST_WAIT)
        assert len(post.listens) == tries + 1
