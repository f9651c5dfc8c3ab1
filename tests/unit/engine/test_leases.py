"""What an engine holds, compared with what the store says that it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from sidequest.engine.leases import LOOK_UP, RECONCILE, Leases
from sidequest.jobs.record import ClaimedJob
from sidequest.jobs.states import State
from tests.unit.engine.fakes import FakeStore, claimed, stored
from tests.unit.engine.virtual_time import monotonic


class Desk:
    """Leases of engine-1, and what they stopped."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.holding: list[ClaimedJob] = []
        self.lost: list[int] = []
        self.leases = Leases(self.store.backend, lambda: self.holding, lambda job: job in self.holding, self._lose)

    def _lose(self, ids: Iterable[int]) -> None:
        self.lost.extend(ids)

    async def check(self, times: int = 1) -> None:
        for _ in range(times):
            await self.leases.check("engine-1")

    @property
    def given_back(self) -> list[int]:
        return [change.id for changes in self.store.applied for change in changes]


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_without_doubt_nothing_is_asked(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1)]
    await desk.check(5)
    assert desk.store.calls == []


# Strays


async def test_after_an_uncertain_claim_the_leases_that_nobody_knows_are_given_back(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1), claimed(2), claimed(3)]
    desk.holding = [claimed(2)]
    desk.leases.claim_uncertain()
    await desk.check(2)
    assert desk.given_back == [1, 3]


async def test_a_lease_of_a_job_that_is_known_under_another_is_a_stray(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1, lease="late")]
    desk.holding = [claimed(1, lease="early")]
    desk.leases.claim_uncertain()
    await desk.check(2)
    assert desk.given_back == [1]


async def test_what_is_given_back_waits_again_with_its_attempt(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1, attempt=3)]
    desk.leases.claim_uncertain()
    await desk.check(2)
    [[change]] = desk.store.applied
    assert (change.lease, change.state, change.columns["attempt"]) == ("lease-1", State.WAITING, 2)


async def test_an_uncertain_claim_is_looked_into_once(desk: Desk) -> None:
    desk.leases.claim_uncertain()
    await desk.check(10)
    assert desk.store.calls.count("held_by") == 1


async def test_an_uncertain_claim_stays_uncertain_while_the_database_is_away(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1)]
    desk.leases.claim_uncertain()
    desk.store.away = True
    for _ in range(3):
        with pytest.raises(Exception, match="the database is away"):
            await desk.check()
    desk.store.away = False
    await desk.check(2)
    assert desk.given_back == [1]


async def test_a_job_whose_claim_is_answered_just_after_the_look_is_not_given_back(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(1)]
    desk.leases.claim_uncertain()
    await desk.check()
    desk.holding = [claimed(1)]
    await desk.check(5)
    assert desk.given_back == []


async def test_more_strays_than_fit_in_one_look_are_given_back_in_turn(desk: Desk) -> None:
    desk.store.held["engine-1"] = [claimed(id) for id in range(1, RECONCILE + 11)]
    desk.leases.claim_uncertain()
    await desk.check(6)
    assert len(desk.given_back) == RECONCILE + 10


async def test_what_came_in_late_for_a_former_id_is_given_back(desk: Desk) -> None:
    desk.leases.left("engine-0", monotonic() + 60)
    await desk.check()
    desk.store.held["engine-0"] = [claimed(1)]
    await desk.check(2)
    assert desk.given_back == [1]


async def test_a_former_id_is_looked_after_until_its_time_is_over(desk: Desk) -> None:
    desk.leases.left("engine-0", monotonic() - 1)
    await desk.check(3)
    assert desk.store.calls.count("held_by") == 2


# Lost jobs


@pytest.mark.parametrize(
    "record",
    [
        stored(1, lease="lease-2", engine="engine-2"),
        stored(1, State.WAITING, lease=None, engine=None),
        stored(1, State.COMPLETED, lease="lease-2", engine="engine-2"),
        None,
    ],
    ids=["taken", "given back", "ended elsewhere", "deleted"],
)
async def test_a_job_that_is_not_held_under_our_lease_is_lost(desk: Desk, record) -> None:
    desk.holding = [claimed(1), claimed(2)]
    desk.store.records = {2: stored(2)} | ({1: record} if record else {})
    desk.leases.doubt()
    await desk.check()
    assert desk.lost == [1]


async def test_who_has_them_now_is_told(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.holding = [claimed(1), claimed(2), claimed(3)]
    desk.store.records = {
        1: stored(1, lease="a", engine="engine-3"), 2: stored(2, lease="b", engine="engine-2"), 3: stored(3)
    }  # fmt: skip
    desk.leases.doubt()
    await desk.check()
    assert [record.message for record in caplog.records] == [
        "engine engine-1 has lost 2 jobs to engine-2 and engine-3: "
        "they are stopped here, and what comes of them is dropped: 1, 2"
    ]


async def test_many_jobs_are_compared_in_parts(desk: Desk) -> None:
    desk.holding = [claimed(id) for id in range(2 * LOOK_UP + 1)]
    desk.store.records = {id: stored(id) for id in range(2 * LOOK_UP)}
    desk.leases.doubt()
    await desk.check()
    assert (desk.lost, desk.store.calls.count("get_many")) == ([2 * LOOK_UP], 3)


async def test_doubt_is_looked_into_once(desk: Desk) -> None:
    desk.holding = [claimed(1)]
    desk.store.records = {1: stored(1)}
    desk.leases.doubt()
    await desk.check(5)
    assert (desk.lost, desk.store.calls) == ([], ["get_many"])


async def test_new_doubt_while_the_store_is_asked_is_not_forgotten(desk: Desk) -> None:
    desk.holding = [claimed(1)]
    desk.store.hold = asyncio.Event()
    desk.leases.doubt()
    checking = asyncio.create_task(desk.leases.check("engine-1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    desk.leases.doubt()
    desk.store.hold.set()
    await checking
    asked = desk.store.calls.count("get_many")
    await desk.leases.check("engine-1")
    assert desk.store.calls.count("get_many") == asked + 1
