"""The prototype on MongoDB: candidates read in full and then marked, ends as one bulk write in a transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count as counter
from typing import Any
from uuid import uuid4

from pymongo import AsyncMongoClient, InsertOne, UpdateOne

from benchmarks.prototypes.store import ARGS, NAME, QUEUES, RESULT, TABLE, Prototype, WaitingRow, waiting_rows

ORDER = [("priority", -1), ("available_at", 1), ("_id", 1)]
CLAIMED = ("queue", "task", "args", "priority", "attempt", "max_attempts", "timeout_ms", "meta")


class MongoPrototype(Prototype):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._ids = counter(time.time_ns())  # above those of whoever was here before

    async def connect(self) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.url)
        self._jobs = self._client.get_default_database()[TABLE]
        self._transactions = "setName" in await self._client.admin.command("hello")

    async def create(self) -> None:
        await self._jobs.create_index([("queue", 1), *ORDER], partialFilterExpression={"state": 0}, name="claim")
        await self._jobs.create_index("unique_key", unique=True, partialFilterExpression={"unique_key": {"$type": "string"}})

    async def fill(self, rows: int) -> None:
        for part in waiting_rows(rows):
            now = datetime.now(UTC)
            done = {"state": 4, "attempt": 1, "claimed_at": now, "started_at": now, "finished_at": now, "result": RESULT}
            await self._jobs.insert_many([self._document(row) | done for row in part], ordered=False)
        for part in waiting_rows(rows):
            await self._jobs.insert_many([self._document(row) for row in part], ordered=False)

    async def take_stock(self, table: str) -> None:
        """It needs none."""

    async def claim(self, queue: str, room: int) -> Sequence[Any]:
        token, now = uuid4().hex, datetime.now(UTC)
        candidates = self._jobs.find({"state": 0, "queue": queue, "available_at": {"$lte": now}}, CLAIMED)
        found = await candidates.sort(ORDER).limit(room).batch_size(room + 1).to_list()
        ids = [job["_id"] for job in found]
        marked = await self._jobs.update_many(
            {"_id": {"$in": ids}, "state": 0},
            {"$set": {"state": 1, "engine": token, "claimed_at": now}, "$inc": {"attempt": 1}},
        )
        if marked.modified_count < len(ids):
            won = {job["_id"] async for job in self._jobs.find({"_id": {"$in": ids}, "engine": token}, ("_id",))}
            found = [job for job in found if job["_id"] in won]
        for job in found:
            job["attempt"] += 1
            job["engine"] = token
        return found

    async def end(self, claimed: Sequence[Any]) -> int:
        now = datetime.now(UTC)
        done = {"$set": {"state": 4, "started_at": now, "finished_at": now, "result": RESULT, "error": None}}
        writes: list[InsertOne[dict[str, Any]] | UpdateOne] = [
            UpdateOne({"_id": job["_id"], "engine": job["engine"], "attempt": job["attempt"]}, done) for job in claimed
        ]
        if not self._transactions:
            return (await self._jobs.bulk_write(writes, ordered=False)).modified_count
        async with self._client.start_session() as session, await session.start_transaction():
            return (await self._jobs.bulk_write(writes, ordered=False, session=session)).modified_count

    async def insert(self, count: int) -> None:
        if count == 1:
            await self._jobs.insert_one(self._document(WaitingRow(QUEUES[0], 0)))
            return
        rows = [WaitingRow(QUEUES[0], 0)] * count
        await self._jobs.insert_many([self._document(row) for row in rows], ordered=False)

    async def close(self) -> None:
        await self._client.close()

    def _document(self, row: WaitingRow) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            "_id": next(self._ids), "queue": row.queue, "task": NAME, "args": ARGS, "state": 0, "priority": row.priority,
            "available_at": now, "attempt": 0, "max_attempts": 5, "timeout_ms": None, "unique_key": None, "meta": None,
            "tags": None, "engine": None, "lease_until": None, "inserted_at": now, "claimed_at": None, "started_at": None,
            "finished_at": None, "progress": None, "result": None, "error": None,
        }  # fmt: skip
