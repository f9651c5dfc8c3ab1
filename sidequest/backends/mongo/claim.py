"""THE STORE, on MongoDB: looking for jobs and claiming them, by one engine among many.

The candidates are read from the claim's index alone. One update then marks those that are still
ready, and what it marked is read back: so a job is never returned as it was before somebody else
had it, and it costs little to lose candidates to rivals. Who lost some looks again from the head of
the queue, where the next ones are by then: the order is kept however many claim at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from sidequest.backends.base import Look, QueueLook
from sidequest.backends.mongo.documents import (
    BY_ID,
    CLAIM_ORDER,
    NEEDLESS,
    Document,
    by_rank,
    claim_rank,
    claimed_job,
    queue_record,
)
from sidequest.backends.mongo.session import MongoDatabase, settle
from sidequest.jobs.record import ClaimedJob


async def look(database: MongoDatabase, now: datetime) -> Look:
    """As `Backend.look`, with one command: the queues with ready jobs, all queues, and the next due time."""
    ready: list[Document] = [  # one step in the index for each queue, however many jobs there are
        {"$match": {"ready": True}}, {"$group": {"_id": "$queue"}}, {"$project": {"_id": False, "ready": "$_id"}},
    ]  # fmt: skip
    due = [
        {"$match": {"ready": False}}, {"$sort": {"available_at": 1, "_id": 1}}, {"$limit": 1},
        {"$project": {"_id": False, "due": "$available_at"}},
    ]  # fmt: skip
    queues: Document = {"$unionWith": {"coll": database.queues.name, "pipeline": []}}
    pipeline: list[Document] = [*ready, queues, {"$unionWith": {"coll": database.jobs.name, "pipeline": due}}]
    found: Sequence[Document] = await (await settle(database.jobs.aggregate(pipeline))).to_list(None)
    waiting = {document["ready"] for document in found if "ready" in document}
    records = by_rank(queue_record(document) for document in found if "_id" in document)
    due_in = next((document["due"] - now for document in found if "due" in document), None)
    return Look([QueueLook(record, record.name in waiting) for record in records], due_in)


async def promote(database: MongoDatabase, limit: int, now: datetime) -> int:
    """As `Backend.promote`."""
    due = {"ready": False, "available_at": {"$lte": now}}
    first = database.jobs.find(due, {"_id": True}).sort([("available_at", 1), ("_id", 1)]).limit(limit)
    ids = [document["_id"] for document in await first.batch_size(limit + 1).to_list(None)]
    if not ids:
        return 0
    promoted = await database.jobs.update_many({"_id": {"$in": ids}, **due}, {"$set": {"ready": True}}, hint=BY_ID)
    count: int = promoted.matched_count
    return count


async def claim(
    database: MongoDatabase, engine: str, lease: str, rooms: Mapping[str, int], now: datetime
) -> Sequence[ClaimedJob]:
    """As `Backend.claim`; all rooms are at least one. The lease must be new."""
    mark: Document = {
        "$set": {"state": "claimed", "engine": engine, "lease": lease, "claimed_at": now},
        "$unset": {"ready": True, "started_at": True, "progress": True},
        "$inc": {"attempt": 1},
    }
    if [*rooms.values()] == [1]:
        (queue,) = rooms
        return [claimed_job(document) for document in await _claim_first(database, {"ready": True, "queue": queue}, mark)]
    claimed: dict[str, list[Document]] = {queue: [] for queue in rooms}
    wanted = rooms
    while wanted:
        candidates = await _candidates(database, wanted)
        for document in await _mark(database, [id for ids in candidates.values() for id in ids], mark):
            claimed[document["queue"]].append(document)
        missing = {queue: rooms[queue] - len(claimed[queue]) for queue in wanted}
        # Where there were fewer than wanted and all of them were won, there are no more.
        wanted = {queue: room for queue, room in missing.items() if room and wanted[queue] - room < len(candidates[queue])}
    return [claimed_job(document) for found in claimed.values() for document in sorted(found, key=claim_rank)]


async def _candidates(database: MongoDatabase, rooms: Mapping[str, int]) -> Mapping[str, Sequence[int]]:
    """The ids of the first jobs of each queue, in order."""
    found = await asyncio.gather(*(_first(database, queue, room) for queue, room in rooms.items()))
    return dict(zip(rooms, found, strict=True))


async def _first(database: MongoDatabase, queue: str, room: int) -> Sequence[int]:
    ready = database.jobs.find({"ready": True, "queue": queue}, {"_id": True}).sort(CLAIM_ORDER)
    # A batch larger than the limit: then the first answer is known to be the last one.
    return [document["_id"] for document in await ready.limit(room).batch_size(room + 1).to_list(None)]


async def _mark(database: MongoDatabase, ids: Sequence[int], mark: Document) -> Sequence[Document]:
    """Mark those of the jobs that are still ready; these, in no order."""
    if not ids:
        return ()
    if len(ids) == 1:
        return await _claim_first(database, {"_id": ids[0], "ready": True}, mark)
    marked = await database.jobs.update_many({"_id": {"$in": ids}, "ready": True}, mark, hint=BY_ID)
    if not marked.matched_count:
        return ()
    ours = {"_id": {"$in": ids}, "lease": mark["$set"]["lease"], "state": "claimed"}
    found: list[Document] = await database.claimed.find(ours, NEEDLESS).hint(BY_ID).batch_size(len(ids) + 1).to_list(None)
    return found


async def _claim_first(database: MongoDatabase, which: Document, mark: Document) -> Sequence[Document]:
    """The first of these jobs, marked.

    Not by the driver's own method: with that the server keeps a copy of the document, for a retry
    of the driver's, and takes half as long again. A claim whose answer is lost is found by its engine.
    """
    answer = await database.command({
        "findAndModify": database.jobs.name, "query": which, "sort": dict(CLAIM_ORDER), "update": mark,
        "new": True, "fields": NEEDLESS,
    })  # fmt: skip
    document: Document | None = answer["value"]
    return () if document is None else (document,)
