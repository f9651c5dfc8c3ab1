"""Who asks an engine where its jobs are: also after it got another id, and when descriptors ran out."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidequest.engine import inquiries
from sidequest.engine.inquiries import Inquiries
from sidequest.wire.inquiry import InquirySocket, ask

SHOP = "sqlite|/shop.db"


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(inquiries, "CHECK_INTERVAL", 0.01)
        monkeypatch.setattr(inquiries, "ATTEMPT_WAIT", 0.01)
        yield Path(folder)


@pytest.fixture
def anyio_backend() -> str:
    """Real sockets answer in real time."""
    return "asyncio"


class Engine:
    def __init__(self) -> None:
        self.id = "engine-1"
        self.running = asyncio.create_task(Inquiries(lambda: self.id, SHOP, dict).run())

    async def answers(self, engine_id: str) -> bool:
        """Within a second."""
        for _ in range(100):
            if await ask(SHOP, engine_id, {"stack": 1}) is not None:
                return True
            await asyncio.sleep(0.01)
        return False

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])


async def test_it_is_found_under_its_new_id_and_no_more_under_the_old_one() -> None:
    engine = Engine()
    assert await engine.answers("engine-1")
    engine.id = "engine-2"
    assert await engine.answers("engine-2")
    assert await ask(SHOP, "engine-1", {"stack": 1}) is None
    await engine.stop()


async def test_it_is_found_again_when_somebody_has_removed_its_socket(runtime: Path) -> None:
    engine = Engine()
    assert await engine.answers("engine-1")
    for socket in runtime.glob("sidequest/*"):
        socket.unlink()
    assert await engine.answers("engine-1")
    await engine.stop()


async def test_no_more_descriptors_are_no_end_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = InquirySocket.serve, [OSError(24, "Too many open files")]

    async def serve(self: InquirySocket, answer: object) -> None:
        if failures:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", [failures.pop()])
        await real(self, answer)  # type: ignore[arg-type]

    monkeypatch.setattr(InquirySocket, "serve", serve)
    engine = Engine()
    assert await engine.answers("engine-1")
    assert not engine.running.done()
    await engine.stop()
