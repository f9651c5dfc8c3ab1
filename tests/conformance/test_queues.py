"""Queues: created once, changed column by column, listed by rank."""

from __future__ import annotations

import asyncio

from sidequest.jobs.queue import QueueRecord


async def test_a_created_queue_is_read_back(backend):
    queue = QueueRecord("mail", 3, -2, True)
    assert await backend.create_queue(queue) is True
    assert await backend.get_queue("mail") == queue
    assert await backend.get_queue("Mail") is None


async def test_an_existing_queue_is_not_created_again(backend):
    await backend.create_queue(QueueRecord("mail", 3))
    assert await backend.create_queue(QueueRecord("mail", 9, 9, True)) is False
    assert await backend.list_queues() == [QueueRecord("mail", 3)]


async def test_queues_are_listed_by_priority_then_name(backend):
    queues = [QueueRecord("b"), QueueRecord("a"), QueueRecord("z", priority=5), QueueRecord("c", priority=-1)]
    await backend.save_queues(queues)
    assert [queue.name for queue in await backend.list_queues()] == ["z", "a", "b", "c"]


async def test_names_are_in_the_order_of_their_codes(backend):
    """Whatever the language of the server."""
    names = ["Z", "_x", "a", "a-b", "a.b", "a:b", "aB", "a_b", "ab", "b", "9", "-", "10"]
    await backend.save_queues([QueueRecord(name) for name in names])
    assert [queue.name for queue in await backend.list_queues()] == sorted(names)
    assert [look.queue.name for look in (await backend.look()).queues] == sorted(names)


async def test_queues_are_told_apart_by_case_and_to_the_last_letter(backend):
    queues = [QueueRecord(name, n) for n, name in enumerate(("MAIL", "Mail", "mail", "mail2", "m" * 99, "m" * 100), 1)]
    for queue in queues:
        assert await backend.create_queue(queue)
    assert [await backend.get_queue(queue.name) for queue in queues] == queues
    assert await backend.update_queue("Mail", concurrency=77) == QueueRecord("Mail", 77)
    assert await backend.get_queue("mail") == QueueRecord("mail", 3)
    assert [await backend.get_queue(name) for name in ("mAIL", "mail ", "m" * 98, "mai_", "mail%")] == [None] * 5


async def test_only_what_is_given_changes(backend):
    await backend.create_queue(QueueRecord("mail", 3, 1, False))
    await backend.create_queue(QueueRecord("other", 3, 1, False))
    assert await backend.update_queue("mail", paused=True) == QueueRecord("mail", 3, 1, True)
    assert await backend.update_queue("mail", concurrency=8) == QueueRecord("mail", 8, 1, True)
    assert await backend.update_queue("mail", priority=0) == QueueRecord("mail", 8, 0, True)
    assert await backend.update_queue("mail", paused=False) == QueueRecord("mail", 8, 0, False)
    assert await backend.update_queue("mail") == QueueRecord("mail", 8, 0, False)
    assert await backend.get_queue("other") == QueueRecord("other", 3, 1, False)


async def test_an_unknown_queue_is_not_updated_into_being(backend):
    assert await backend.update_queue("mail", paused=True) is None
    assert await backend.update_queue("mail") is None
    assert await backend.list_queues() == []


async def test_changes_by_two_at_once_are_both_kept(backend, connect):
    other = await connect()
    await backend.create_queue(QueueRecord("mail"))
    for n in range(1, 20):
        await asyncio.gather(backend.update_queue("mail", concurrency=n), other.update_queue("mail", priority=n))
        assert await backend.get_queue("mail") == QueueRecord("mail", n, n)


async def test_saved_queues_are_created_or_overwritten(backend):
    await backend.create_queue(QueueRecord("mail", 3, 1, True))
    await backend.save_queues([QueueRecord("mail", 4, 2, False), QueueRecord("new", 5)])
    assert await backend.list_queues() == [QueueRecord("mail", 4, 2, False), QueueRecord("new", 5)]
    await backend.save_queues([])


async def test_a_paused_queue_accepts_jobs(backend, insert):
    await backend.create_queue(QueueRecord("mail", paused=True))
    await insert(queue="mail")
    assert (await backend.look()).queues[0] == (QueueRecord("mail", paused=True), True)
