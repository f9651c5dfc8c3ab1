"""Many at once, and callers that are cancelled in the middle."""

from __future__ import annotations

import asyncio

from sidequest.backends.base import JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

JOBS = 10_000
CLAIMERS = 8


async def test_each_job_goes_to_one_claimer_and_each_gets_them_in_order(backend, insert, connect, claim):
    await insert(*(NewJob("shop:pay", priority=n % 7) for n in range(JOBS)))
    ranks = {job.id: (-job.priority, job.id) for job in await backend.list_jobs(JobFilter(), JOBS)}
    rivals = [await connect() for _ in range(CLAIMERS)]

    async def drain(number: int) -> list[int]:
        mine: list[int] = []
        while held := await claim(37 + number, engine=f"e{number}", lease=f"l{number}", by=rivals[number]):
            assert {job.lease for job in held} == {f"l{number}"}
            mine += [job.id for job in held]
        return mine

    claimed = await asyncio.gather(*(drain(number) for number in range(CLAIMERS)))
    for mine in claimed:
        assert mine == sorted(mine, key=ranks.__getitem__)
    assert sorted(id for mine in claimed for id in mine) == sorted(ranks)


async def test_claimers_finishers_and_producers_at_once_lose_and_repeat_nothing(backend, connect, claim, clock, chance):
    rivals = [await connect() for _ in range(4)]
    done: list[int] = []

    async def produce(number: int) -> list[int]:
        ids: list[int] = []
        for _ in range(20):
            ids += await rivals[number].insert([NewJob("shop:pay", queue=f"q{number}")] * 10, QueueRecord("*"))
        return ids

    async def work(number: int) -> None:
        while len(done) < 800:
            rooms = {f"q{queue}": 5 for queue in range(4)}
            held = await rivals[number].claim(f"e{number}", f"l{number}", rooms)
            ends = [transitions.finish(job, Completed("1"), clock.time, clock.time, chance) for job in held]
            assert await rivals[number].apply(ends) == frozenset()
            done.extend(job.id for job in held)

    async with asyncio.timeout(60):
        *produced, _, _, _, _ = await asyncio.gather(*map(produce, range(4)), *map(work, range(4)))
    ids = [id for made in produced for id in made]
    assert sorted(done) == sorted(ids)
    assert len(set(ids)) == 800
    assert (await backend.count(JobFilter()))[State.COMPLETED] == 800


async def test_batches_that_cross_each_other_are_both_written(insert, claim, connect):
    """Each locks first what the other wants next: a server with row locks breaks the deadlock, and one of them tries again."""
    await insert(*(NewJob("shop:pay") for _ in range(20)))
    held = await claim(20)
    rivals = [await connect() for _ in range(2)]
    for n in range(1, 4):
        there = [Change(job.id, "l1", (State.CLAIMED,), None, {"crashes": n}) for job in held[:10]]
        there += [Change(job.id, "l1", (State.CLAIMED,), None, {"snoozes": n}) for job in held[10:]]
        back = [Change(job.id, "l1", (State.CLAIMED,), None, {"interrupts": n}) for job in held[10:]]
        back += [Change(job.id, "l1", (State.CLAIMED,), None, {"priority": n}) for job in held[:10]]
        assert await asyncio.gather(rivals[0].apply(there), rivals[1].apply(back)) == [frozenset()] * 2
        jobs = await rivals[0].get_many(job.id for job in held)
        assert [(job.crashes, job.priority, job.snoozes, job.interrupts) for job in jobs] == (
            [(n, n, 0, 0)] * 10 + [(0, 0, n, n)] * 10
        )


async def test_racing_finishers_end_a_job_once(backend, insert, claim, connect, clock, chance):
    await insert(*(NewJob("shop:pay") for _ in range(200)))
    held = await claim(200)
    rivals = [await connect() for _ in range(4)]
    attempts = [
        rival.apply([transitions.finish(job, Completed(str(n)), None, clock.time, chance) for job in held])
        for n, rival in enumerate(rivals)
    ]
    refused = await asyncio.gather(*attempts)
    winners = {job.id: [str(n) for n, ids in enumerate(refused) if job.id not in ids] for job in held}
    assert {job.id: [job.result_json] for job in await backend.list_jobs(JobFilter(), 200)} == winners


async def test_racing_inserts_create_a_queue_once(backend, connect):
    rivals = [await connect() for _ in range(6)]
    inserts = [rival.insert([NewJob("shop:pay", queue="mail")], QueueRecord("*", 3)) for rival in rivals for _ in range(5)]
    ids = [id for made in await asyncio.gather(*inserts) for id in made]
    assert len(set(ids)) == 30
    assert await backend.list_queues() == [QueueRecord("mail", 3)]


async def test_racing_creators_of_a_queue_have_one_winner(connect, backend):
    rivals = [await connect() for _ in range(6)]
    made = await asyncio.gather(*(rival.create_queue(QueueRecord("mail", n + 1)) for n, rival in enumerate(rivals)))
    assert sorted(made) == [False] * 5 + [True]
    assert await backend.get_queue("mail") == QueueRecord("mail", made.index(True) + 1)


async def test_many_tasks_may_share_one_backend(backend, insert, claim):
    await asyncio.gather(*(insert(NewJob("shop:a"), NewJob("shop:b")) for _ in range(50)))
    held = await asyncio.gather(*(claim(3, lease=f"l{n}") for n in range(40)))
    assert sorted(len(jobs) for jobs in held) == [0] * 6 + [1] + [3] * 33
    assert len({job.id for jobs in held for job in jobs}) == 100


async def cancelled_after(steps: int, work) -> None:
    """Start the work, cancel it after so many turns of the loop, and see it end."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_a_cancelled_insert_is_whole_or_nothing(backend):
    for steps in range(60):
        queue = f"q{steps}"
        await cancelled_after(steps, backend.insert([NewJob("shop:pay", queue=queue)] * 3, QueueRecord("*")))
        count = (await backend.count(JobFilter(queue=queue)))[State.WAITING]
        assert count in (0, 3)
        assert (await backend.get_queue(queue) is not None) == (count == 3)


async def test_a_cancelled_apply_is_whole_or_nothing(backend, insert, claim, clock, chance):
    for steps in range(60):
        await insert(*(NewJob("shop:pay") for _ in range(3)))
        held = await claim(3)
        ends = [transitions.finish(job, Completed("1"), None, clock.time, chance) for job in held]
        await cancelled_after(steps, backend.apply([*ends[:2], ends[2]._replace(columns={"crashes": 1})]))
        states = {job.state for job in await backend.get_many(job.id for job in held)}
        assert states in ({State.COMPLETED}, {State.CLAIMED})


async def test_a_cancelled_claim_leaves_only_jobs_that_its_engine_can_find(backend, insert, claim):
    await insert(*(NewJob("shop:pay", queue=queue) for queue in "ab" for _ in range(60)))
    for steps in range(60):
        await cancelled_after(steps, backend.claim("lost", "l9", {"a": 1, "b": 1}))
    lost = len(await backend.held_by("lost", 1000))
    assert lost % 2 == 0
    rest = len(await claim(1000, queue="a")) + len(await claim(1000, queue="b"))
    assert lost + rest == 120


async def test_a_caller_cancelled_twice_still_leaves_the_connection_in_order(backend, insert):
    task = asyncio.ensure_future(insert(NewJob("shop:a"), NewJob("shop:b")))
    for _ in range(8):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await backend.count(JobFilter()))[State.WAITING] in (0, 2)
    await insert()


async def test_closing_waits_for_the_write_in_flight(connect, backend, insert):
    other = await connect()
    write = asyncio.ensure_future(other.insert([NewJob("shop:pay")] * 500, QueueRecord("*")))
    for _ in range(5):
        await asyncio.sleep(0)
    await other.close()
    await write
    assert (await backend.count(JobFilter()))[State.WAITING] == 500
