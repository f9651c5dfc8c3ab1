"""THE STORE, on MongoDB: questions that are answered by counting, each with one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sidequest.backends.base import Bucket, JobFilter
from sidequest.backends.instants import MILLISECOND
from sidequest.backends.mongo.documents import FINAL_STATES, HELD_STATES, Document, where
from sidequest.backends.mongo.session import MongoDatabase, settle
from sidequest.jobs.states import State

Pipeline = list[Document]


async def count(database: MongoDatabase, which: JobFilter) -> Mapping[State, int]:
    """As `Backend.count`."""
    if which == JobFilter(which.states):
        # One by one, each from the index; grouping would read every job.
        pipelines = [_counted(state) for state in which.states or State]
    else:
        pipelines = [[{"$match": where(which)}, {"$group": {"_id": "$state", "count": {"$sum": 1}}}]]
    found = {State(group["_id"]): group["count"] for group in await _answers(database, pipelines)}
    return dict.fromkeys(State, 0) | found


def _counted(state: State) -> Pipeline:
    return [{"$match": {"state": state.value}}, {"$count": "count"}, {"$set": {"_id": state.value}}]


async def count_held(database: MongoDatabase) -> Mapping[str, int]:
    """As `Backend.count_held`."""
    held: Pipeline = [{"$match": {"state": {"$in": HELD_STATES}}}, {"$group": {"_id": "$engine", "count": {"$sum": 1}}}]
    return {group["_id"]: group["count"] for group in await _answers(database, [held])}


async def count_over_time(
    database: MongoDatabase, start: datetime, width: timedelta, buckets: int, queue: str | None
) -> Sequence[Bucket]:
    """As `Backend.count_over_time`."""
    stop = start + width * buckets

    def counted(field: str, what: object, condition: Document) -> Pipeline:
        number = {"$floor": {"$divide": [{"$subtract": [f"${field}", start]}, width / MILLISECOND]}}
        return [{"$match": condition}, {"$group": {"_id": {"number": number, "what": what}, "count": {"$sum": 1}}}]

    came: Document = {"inserted_at": {"$gte": start, "$lt": stop}}
    ended: Document = {"finished_at": {"$gte": start, "$lt": stop}, "state": {"$in": FINAL_STATES}}
    pipeline: Pipeline = [  # one walk over all jobs: an index for each instant would cost every job more than this is worth
        {"$match": where(JobFilter(queue=queue)) | {"$or": [came, ended]}},
        {
            "$facet": {
                "came": counted("inserted_at", {"$literal": "enqueued"}, came),
                "ended": counted("finished_at", "$state", ended),
            }
        },
    ]
    (facets,) = await _answers(database, [pipeline])
    groups = facets["came"] + facets["ended"]
    found = {(int(group["_id"]["number"]), group["_id"]["what"]): group["count"] for group in groups}
    kinds = ("enqueued", "completed", "failed", "canceled")
    return [Bucket(start + width * n, *(found.get((n, kind), 0) for kind in kinds)) for n in range(buckets)]


async def _answers(database: MongoDatabase, pipelines: Sequence[Pipeline]) -> Sequence[Document]:
    """What all of them give."""
    first, *more = pipelines
    others = [{"$unionWith": {"coll": database.jobs.name, "pipeline": pipeline}} for pipeline in more]
    found: Sequence[Document] = await (await settle(database.jobs.aggregate([*first, *others]))).to_list(None)
    return found
