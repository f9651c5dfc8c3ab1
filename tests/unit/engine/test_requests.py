"""What running jobs ask of their engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sidequest.backends.watch import EndWatch
from sidequest.config import Settings
from sidequest.engine.lane import Lane
from sidequest.engine.requests import Requests
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from sidequest.wire import records
from sidequest.wire.frames import Kind, read_json
from tests.unit.engine.fakes import FakeLink, FakeStore, stored
from tests.unit.engine.workshop import Workshop


class Office(FakeStore):
    """A store that takes jobs in, and the engine's side of a running job's client."""

    def __init__(self) -> None:
        super().__init__()
        self.inserted: list[NewJob] = []
        self.enqueued = 0
        self.canceled: list[int] = []
        self.requests = Requests(Settings(), self.backend, EndWatch(self.backend), self._is_enqueued, self.canceled.append)
        self.link = FakeLink(1)

    def _is_enqueued(self) -> None:
        self.enqueued += 1

    async def insert(self, jobs: Sequence[NewJob], defaults: QueueRecord) -> Sequence[int]:
        await self._answer("insert")
        self.inserted += jobs
        return [10 + n for n in range(len(jobs))]

    async def ask(self, do: str, argument: Any) -> dict[str, Any]:
        lane = Lane(Workshop(1).lanes, self.link)
        await self.requests.answer(lane, {"n": 7, "do": do, "with": argument})
        [(kind, payload)] = self.link.frames
        assert kind is Kind.REPLY
        reply: dict[str, Any] = read_json(payload)
        return reply


async def test_a_running_job_enqueues_others() -> None:
    office = Office()
    jobs = [NewJob("shop:send"), NewJob("shop:pay", '{"args":[1]}')]
    reply = await office.ask("insert", [records.new_job_to_json(job) for job in jobs])
    assert (reply, office.inserted, office.enqueued) == ({"n": 7, "answer": [10, 11]}, jobs, 1)


async def test_a_running_job_looks_at_another() -> None:
    office = Office()
    office.records[3] = stored(3)
    reply = await office.ask("find", 3)
    assert records.record_from_json(reply["answer"]) == stored(3)


async def test_a_running_job_cancels_another() -> None:
    office = Office()
    office.records[3] = stored(3, State.RUNNING)
    assert (await office.ask("cancel", 3), office.canceled) == ({"n": 7, "answer": "requested"}, [3])


async def test_a_job_that_does_not_exist_is_told_by_its_id() -> None:
    assert await Office().ask("find", 3) == {"n": 7, "error": "JobNotFound", "message": "job 3 does not exist", "id": 3}


async def test_a_database_that_is_away_is_told() -> None:
    office = Office()
    office.away = True
    assert await office.ask("insert", []) == {
        "n": 7, "error": "BackendUnavailable", "message": "the database is away", "id": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("do", "argument"), [("steal", None), ("insert", 7), ("insert", [{"nonsense": 1}]), ("ended", 1), ("ended", [1, "soon"])]
)
async def test_a_strange_request_is_the_jobs_trouble_not_the_engines(do: str, argument: Any) -> None:
    office = Office()
    office.records[1] = stored(1)
    assert (await office.ask(do, argument))["error"] in {"ValueError", "TypeError", "KeyError"}
