"""Async jobs in a worker: which start at once, and which when another one ends."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from multiprocessing.sharedctypes import RawArray
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidequest import job
from sidequest.engine.lane import Held, Lane, LaneOwner
from sidequest.engine.worker_process import Link
from sidequest.jobs.client import Client
from sidequest.jobs.context import Reporter
from sidequest.wire.frames import Kind, Splitter, pack
from sidequest.wire.messages import MOST_BEHIND, End, Role, pack_next, pack_run, read_ids
from sidequest.worker import async_host
from sidequest.worker.async_host import AsyncHost
from sidequest.worker.channel import Channel
from sidequest.worker.client import WorkerClient
from sidequest.worker.ends import Ends
from sidequest.worker.loading import Loader
from sidequest.worker.reporting import FrameReporter
from sidequest.worker.serve import _Redirect, _serve_async
from tests.unit.engine.fakes import claimed

pytestmark = pytest.mark.anyio


class Floor:
    """Jobs that run until the test lets them end."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Event] = {}
        self.most = 0

    async def run(self, number: int) -> None:
        self.running[number] = asyncio.Event()
        self.most = max(self.most, len(self.running))
        await self.running[number].wait()
        del self.running[number]


floor = Floor()


@job(name="gated")
async def gated(number: int) -> None:
    await floor.run(number)


@pytest.fixture(autouse=True, scope="module")
def ends_do_not_linger() -> Iterator[None]:
    """`turn` is for what happens by itself; how long that takes differs from loop to loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(async_host, "LINGER", 0)
        yield


async def turn() -> None:
    """Let everything happen that can."""
    for _ in range(8):
        await asyncio.sleep(0)


class Worker:
    """A host with the frames that it has sent."""

    def __init__(self) -> None:
        global floor  # noqa: PLW0603 - the job finds it there
        floor = Floor()
        self.sent: deque[tuple[Kind, bytes]] = deque()
        send = self._send
        self._splitter = Splitter()
        self.host = AsyncHost(
            send, None, Ends(send, None), Loader([], None), cast("Client", object()), cast("Reporter", object())
        )  # fmt: skip

    def _send(self, frame: bytes) -> None:
        self.sent += self._splitter.feed(frame)

    def receive(self, frame: bytes) -> None:
        for kind, payload in Splitter().feed(frame):
            self.host.handle(kind, payload)

    async def end(self, number: int) -> None:
        floor.running[number].set()
        await turn()


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    yield made
    while floor.running:
        for gate in list(floor.running.values()):
            gate.set()
        await turn()


def job_of(id: int, queue: str = "mail") -> Any:
    return claimed(id, name="gated", queue=queue, args=f'{{"args":[{id}]}}')


async def test_a_job_that_comes_behind_others_starts_when_one_ends(worker: Worker) -> None:
    worker.receive(_run(1) + pack_next([job_of(2)], known=0))
    await turn()
    before = set(floor.running)
    await worker.end(1)
    assert (before, set(floor.running)) == ({1}, {2})


async def test_a_job_starts_at_once_behind_one_whose_end_is_on_its_way(worker: Worker) -> None:
    worker.receive(_run(1))
    await turn()
    await worker.end(1)
    worker.receive(pack_next([job_of(2)], known=0))
    await turn()
    assert set(floor.running) == {2}


async def test_a_slot_that_the_engine_has_taken_back_is_nobodys(worker: Worker) -> None:
    worker.receive(_run(1, 2))
    await turn()
    await worker.end(1)
    worker.receive(pack_next([job_of(3)], known=1))
    await turn()
    before = set(floor.running)
    await worker.end(2)
    assert (before, set(floor.running)) == ({2}, {3})


async def test_the_end_of_another_queues_job_starts_nothing(worker: Worker) -> None:
    worker.receive(_run(1) + pack_next([job_of(2, "other")], known=0))
    await turn()
    await worker.end(1)
    assert not floor.running


async def test_what_waits_comes_back_when_it_is_recalled(worker: Worker) -> None:
    worker.receive(_run(1) + pack_next([job_of(2), job_of(3)], known=0) + pack(Kind.RECALL))
    await turn()
    [returned] = [read_ids(payload) for kind, payload in worker.sent if kind is Kind.RETURNED]
    await worker.end(1)
    assert (returned, set(floor.running)) == ([2, 3], set())


async def test_what_came_along_with_the_role_comes_before_what_is_read_later(worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    frames = Channel(theirs)
    ours.sendall(pack(Kind.ROLE, Role.ASYNC.encode()) + _run(1))
    frames.receive_one()
    ours.sendall(_run(2))
    send = _Redirect(frames.send)
    serving = asyncio.create_task(
        _serve_async(
            frames, RawArray("q", 4), Ends(send, None), Loader([], None), cast("WorkerClient", object()),
            cast("FrameReporter", object()), send,
        )
    )  # fmt: skip
    async with asyncio.timeout(10):
        while len(floor.running) < 2:
            await turn()
        order = list(floor.running)
        for gate in list(floor.running.values()):
            gate.set()
        await turn()
        ours.sendall(pack(Kind.CLOSE))
        await serving
    ours.close()
    await asyncio.sleep(0.01)
    assert order == [1, 2]


def _run(*ids: int) -> bytes:
    return pack_run([job_of(id) for id in ids])


class Line:
    """What an engine knows of one worker, whose messages arrive when the test lets them."""

    pid = 1

    def __init__(self, slots: int) -> None:
        self.worker = Worker()
        self.used = 0
        self._slots = slots
        self._on_the_way: deque[bytes] = deque()
        self._given = 0
        self.lane = Lane(cast("LaneOwner", self), cast("Link", self), Role.ASYNC)

    def write(self, frame: bytes) -> None:
        self._on_the_way.append(frame)

    def lane_ends(self, lane: Lane, ends: list[End]) -> None:
        for end in ends:
            del lane.jobs[end.id]
        self.used -= lane.vacated("mail", len(ends))

    def give(self) -> None:
        behind = self.used >= self._slots
        if not behind or self.lane.waiting < MOST_BEHIND:
            self._given += 1
            self.used += not behind
            self.lane.put(Held(job_of(self._given)), Role.ASYNC, behind=behind)
            self.lane.flush()

    def arrive(self) -> None:
        if self._on_the_way:
            self.worker.receive(self._on_the_way.popleft())

    def end(self) -> None:
        if floor.running:
            next(iter(floor.running.values())).set()

    def hear(self) -> None:
        while self.worker.sent:
            self.lane._receive(*self.worker.sent.popleft())

    async def come_to_rest(self) -> None:
        for _ in range(4 * self._given + 4):
            for move in (self.arrive, self.end, self.hear):
                move()
                await turn()


@settings(max_examples=150, deadline=None)
@given(moves=st.lists(st.sampled_from(["give", "arrive", "end", "hear"]), max_size=120), slots=st.integers(1, 3))
async def test_engine_and_worker_agree_on_the_slots_however_their_messages_cross(moves: list[str], slots: int) -> None:
    """No more jobs run than there are slots, and none waits for ever."""
    line = Line(slots)
    for move in moves:
        getattr(line, move)()
        await turn()
        assert len(floor.running) <= slots
    await line.come_to_rest()
    assert (line.lane.jobs, line.used, line.lane.waiting, floor.running) == ({}, 0, 0, {})
