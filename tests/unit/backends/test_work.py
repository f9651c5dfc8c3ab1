"""Work that must not tear: it ends, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sidequest.backends.work import Unswerving, to_the_end
from tests.unit.engine.virtual_time import settle

Way = Callable[[Coroutine[Any, Any, str]], Awaitable[str]]
pytestmark = pytest.mark.parametrize("whole", [to_the_end, Unswerving])


class Work:
    """Waits twice for something else, and notes how far it came."""

    def __init__(self) -> None:
        self.first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.second: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.seen: list[str] = []

    async def do(self) -> str:
        try:
            self.seen.append(await self.first)
            await asyncio.sleep(0)
            self.seen.append(await self.second)
        except BaseException as error:
            self.seen.append(repr(error))
            raise
        return "done"


def begin(whole: Way, work: Work) -> asyncio.Task[str]:
    async def caller() -> str:
        return await whole(work.do())

    return asyncio.create_task(caller())


async def test_its_answer_is_the_callers(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    work.first.set_result("one")
    await settle()
    assert work.seen == ["one"]
    work.second.set_result("two")
    assert await task == "done"


async def test_its_error_is_the_callers(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    work.first.set_exception(OSError("lost"))
    with pytest.raises(OSError, match="lost"):
        await task
    assert work.seen == ["OSError('lost')"]


async def test_what_it_does_before_it_waits_may_fail(whole: Way) -> None:
    async def fail() -> str:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await whole(fail())


@pytest.mark.parametrize("times", [1, 3])
async def test_who_is_cancelled_hears_of_it_when_the_work_has_ended(whole: Way, times: int) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    for _ in range(times):
        task.cancel("enough")
        await settle()
    assert not task.done()
    assert not work.first.cancelled()
    work.first.set_result("one")
    await settle()
    task.cancel("enough")
    await settle()
    work.second.set_result("two")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.seen == ["one", "two"]
    assert task.cancelled()


async def test_who_is_cancelled_before_its_first_step_does_nothing_of_it_or_all(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert work.seen == []


async def test_who_is_cancelled_while_it_fails_is_cancelled(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    task.cancel()
    await settle()
    work.first.set_exception(OSError("lost"))
    await asyncio.wait([task])
    assert task.cancelled()
    assert work.seen == ["OSError('lost')"]


async def test_who_is_cancelled_in_the_very_moment_in_which_it_is_answered_gets_the_rest_done(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    work.first.set_result("one")
    task.cancel()
    await settle()
    work.second.set_result("two")
    await asyncio.wait([task])
    assert task.cancelled()
    assert work.seen == ["one", "two"]


async def test_what_the_work_waits_for_may_be_cancelled_by_others(whole: Way) -> None:
    work = Work()
    task = begin(whole, work)
    await settle()
    work.first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.seen == ["CancelledError()"]


async def test_a_deadline_of_the_caller_comes_through_as_one(whole: Way) -> None:
    work = Work()

    async def caller() -> str:
        async with asyncio.timeout(0.01):
            return await whole(work.do())

    task = asyncio.create_task(caller())
    await asyncio.sleep(0.03)
    assert not task.done()
    work.first.set_result("one")
    work.second.set_result("two")
    with pytest.raises(TimeoutError):
        await task
    assert work.seen == ["one", "two"]


async def test_it_can_stand_inside_another_one(whole: Way) -> None:
    work = Work()

    async def around() -> str:
        return await whole(work.do())

    async def caller() -> str:
        return await Unswerving(around())

    task = asyncio.create_task(caller())
    await settle()
    task.cancel()
    await settle()
    work.first.set_result("one")
    work.second.set_result("two")
    await asyncio.wait([task])
    assert task.cancelled()
    assert work.seen == ["one", "two"]
