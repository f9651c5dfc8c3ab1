"""What an engine costs that has nothing to do: all its loops together, in virtual time."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence

import pytest

from sidequest.config import Settings
from sidequest.engine.engine import Engine, Orders
from tests.unit.engine.fakes import FakeLink, FakeStore, look

HOUR = 3_600


class NobodyHears:
    def jobs_ended(self, ids: Sequence[int]) -> None:
        pass

    def engine_renamed(self, engine_id: str) -> None:
        pass

    def workers_changed(self, pids: Sequence[int]) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")


async def test_an_idle_engine_asks_the_database_less_than_twice_a_second() -> None:
    store, links = FakeStore(), [FakeLink(1)]
    store.queues = [look("mail", ready=False), look("paused", ready=True, paused=True)]
    engine = Engine(Orders(Settings()), store.backend, lambda: links[0], NobodyHears())
    running = asyncio.create_task(engine.run(lambda: None))
    await asyncio.sleep(60)
    links[0].hello(**{"shop:send": True})
    store.calls.clear()
    await asyncio.sleep(HOUR)
    calls = Counter(store.calls)
    engine.stop()
    links[0].die(0)
    await running
    assert set(calls) <= {"look", "beat", "list_engines", "delete_finished"}
    assert calls.total() < 1.3 * HOUR
