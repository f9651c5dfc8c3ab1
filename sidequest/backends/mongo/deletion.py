"""THE STORE, on MongoDB: deleting jobs: chosen ones, old ones, a queue's waiting ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sidequest.backends.mongo.documents import BY_ID, HELD_STATES, Document
from sidequest.backends.mongo.session import MongoDatabase

OUT_OF_ORDER = timedelta(seconds=10)
"""By how much a job with a higher id may have come earlier: the life of a block of ids, and a margin for clocks."""


async def delete(database: MongoDatabase, chunks: Sequence[Sequence[int]], *, as_one: bool) -> frozenset[int]:
    """As `Backend.delete`, in one transaction or not, with the ids in pieces that a command can hold."""
    async with database.transaction(wanted=as_one) as session:
        return frozenset([id for ids in chunks for id in await _delete_free(database, ids, session)])


async def _delete_free(database: MongoDatabase, ids: Sequence[int], session: Any) -> Sequence[int]:
    free = {"state": {"$nin": HELD_STATES}}
    found = await _present(database, ids, free, session)
    if not found:
        return ()
    deleted = await database.jobs.delete_many({"_id": {"$in": found}, **free}, session=session, hint=BY_ID)
    if deleted.deleted_count == len(found):
        return found
    # Only without a transaction: somebody was faster, and what is still there is held by now.
    left = {*await _present(database, found, {}, session)}
    return [id for id in found if id not in left]


async def _present(database: MongoDatabase, ids: Sequence[int], condition: Document, session: Any) -> Sequence[int]:
    found = database.jobs.find({"_id": {"$in": ids}, **condition}, {"_id": True}, session=session).hint(BY_ID)
    return [document["_id"] for document in await found.to_list(None)]


async def delete_finished(
    database: MongoDatabase, completed_before: datetime, failed_before: datetime, after: int, window: int
) -> tuple[int, int | None]:
    """As `Backend.delete_finished`."""
    fields = {"inserted_at": True, "state": True, "finished_at": True}
    jobs = database.jobs.find({"_id": {"$gt": after}}, fields).sort("_id").limit(window).batch_size(window + 1)
    seen: Sequence[Document] = await jobs.to_list(None)
    cutoffs = {"completed": completed_before, "canceled": completed_before, "failed": failed_before}
    old = [job["_id"] for job in seen if job["state"] in cutoffs and _ended_before(job, cutoffs[job["state"]])]
    deleted = await _delete_old(database, old, completed_before, failed_before) if old else 0
    if len(seen) < window:
        return deleted, None
    last: int = seen[-1]["_id"]
    newest = max(completed_before, failed_before)
    if any(job["inserted_at"] < newest for job in seen) or await _older_after(database, last, newest):
        return deleted, last
    return deleted, None


def _ended_before(job: Document, instant: datetime) -> bool:
    return "finished_at" in job and job["finished_at"] < instant


async def _delete_old(database: MongoDatabase, ids: Sequence[int], completed_before: datetime, failed_before: datetime) -> int:
    """Unless they have been given another life in the meantime."""
    old = [
        {"state": {"$in": ["completed", "canceled"]}, "finished_at": {"$lt": completed_before}},
        {"state": "failed", "finished_at": {"$lt": failed_before}},
    ]
    deleted = await database.jobs.delete_many({"_id": {"$in": ids}, "$or": old}, hint=BY_ID)
    count: int = deleted.deleted_count
    return count


async def _older_after(database: MongoDatabase, id: int, instant: datetime) -> bool:
    """Whether a job with a higher id came before the instant. Ids rise with time, but for `OUT_OF_ORDER`."""
    decisive = {"$or": [{"inserted_at": {"$lt": instant}}, {"inserted_at": {"$gte": instant + OUT_OF_ORDER}}]}
    found = await database.jobs.find_one({"_id": {"$gt": id}, **decisive}, {"inserted_at": True}, sort=BY_ID, hint=BY_ID)
    return found is not None and found["inserted_at"] < instant


async def waiting_in(database: MongoDatabase, queue: str) -> Sequence[int]:
    """The waiting jobs of the queue. One that becomes due meanwhile may come twice, and is not left out."""
    found: list[int] = []
    for ready in (False, True):
        jobs = database.jobs.find({"ready": ready, "queue": queue}, {"_id": True})
        found += [document["_id"] for document in await jobs.to_list(None)]
    return found


async def delete_waiting(database: MongoDatabase, ids: Sequence[int]) -> int:
    """Delete those of the jobs that still wait; how many."""
    deleted = await database.jobs.delete_many({"_id": {"$in": ids}, "state": "waiting"}, hint=BY_ID)
    count: int = deleted.deleted_count
    return count
