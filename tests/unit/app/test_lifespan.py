"""One lifespan for the frameworks that enter it and for those that iterate it."""

from __future__ import annotations

import pytest

from sidequest.app.lifespan import Lifespan


class Host:
    def __init__(self, *, broken: bool = False) -> None:
        self.log: list[str] = []
        self.broken = broken
        self.lifespan = Lifespan(self.start, self.stop)

    async def start(self) -> None:
        self.log.append("start")
        if self.broken:
            raise RuntimeError("cannot start")

    async def stop(self) -> None:
        self.log.append("stop")


async def test_entering_starts_and_leaving_stops() -> None:
    host = Host()
    async with host.lifespan as state:
        host.log.append("serve")
    assert (state, host.log) == (None, ["start", "serve", "stop"])


async def test_an_error_in_the_app_stops_and_is_not_swallowed() -> None:
    host = Host()
    with pytest.raises(ValueError, match="in the app"):
        async with host.lifespan:
            raise ValueError("in the app")
    assert host.log == ["start", "stop"]


async def test_what_could_not_start_is_not_stopped_by_leaving() -> None:
    host = Host(broken=True)
    with pytest.raises(RuntimeError, match="cannot start"):
        async with host.lifespan:
            pass
    assert host.log == ["start"]


async def test_iterating_starts_up_to_the_first_item_and_stops_after_it() -> None:
    host = Host()
    iterator = aiter(host.lifespan)
    await anext(iterator)
    host.log.append("serve")
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert host.log == ["start", "serve", "stop"]


async def test_a_loop_over_it_has_one_item() -> None:
    host = Host()
    async for _ in host.lifespan:
        host.log.append("serve")
    assert host.log == ["start", "serve", "stop"]


async def test_what_could_not_start_is_not_stopped_by_iterating() -> None:
    host = Host(broken=True)
    with pytest.raises(RuntimeError, match="cannot start"):
        await anext(aiter(host.lifespan))
    assert host.log == ["start"]
