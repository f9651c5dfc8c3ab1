"""THE STORE, on MongoDB: changes of jobs as updates, and how a batch of them is written.

In a transaction all updates of a batch are sent, and only if some fence did not hold is it begun
anew and looked first whose: nobody can change that before the commit without a conflict. Without
one, each change is an update by itself, and one that must not be made says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import bson
from pymongo import UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError

from sidequest.backends.mongo.documents import BY_ID, HELD_STATES, Document, stored, stored_due
from sidequest.backends.mongo.session import LARGEST_TRANSACTION, MongoDatabase
from sidequest.backends.shapes import Group, Shape
from sidequest.backends.work import Conflict
from sidequest.jobs.states import FINAL, State
from sidequest.jobs.transitions import Change

IMMUTABLE = 66
"""ImmutableField: what an update says that was made to insert what cannot be inserted."""


class Refused(Exception):
    """The fence of some changes did not hold; everything is to be undone."""


async def write(database: MongoDatabase, by_shape: Sequence[Group], now: datetime, *, as_one: bool) -> frozenset[int]:
    """Write the changes whose fence holds, in one transaction (`as_one`) or one by one; exactly the ids of the others."""
    if sum(len(members) for _, members in by_shape) == 1:
        return frozenset(await write_alone(database, by_shape[0], now))
    if not as_one or _letters(by_shape) > LARGEST_TRANSACTION:
        return frozenset(await _write_one_by_one(database, by_shape, now))
    try:
        async with database.transaction() as session:
            await _write_all(database, by_shape, now, session)
    except Refused:
        async with database.transaction() as session:
            return frozenset([id for group in by_shape for id in await _write_holding(database, group, now, session)])
    return frozenset()


async def write_alone(database: MongoDatabase, group: Group, now: datetime, session: Any = None) -> Iterable[int]:
    """Write a group of one change if its fence holds; its id if not."""
    (update,) = updates(group, now)
    return await _write_alone(database, update, session)


async def _write_alone(database: MongoDatabase, update: Update, session: Any = None) -> Iterable[int]:
    written = await database.jobs.update_one(update.fence, update.update, hint=BY_ID, session=session)
    return () if written.matched_count else [change.id for change in update.changes]


async def _write_all(database: MongoDatabase, by_shape: Sequence[Group], now: datetime, session: Any) -> None:
    """Write all of them, or raise Refused."""
    found = [update for group in by_shape for update in updates(group, now)]
    bulk = [
        (UpdateOne if len(update.changes) == 1 else UpdateMany)(update.fence, update.update, hint=BY_ID) for update in found
    ]
    written = await database.jobs.bulk_write(bulk, ordered=False, session=session)  # they are done in this order all the same
    if written.matched_count != sum(len(update.changes) for update in found):
        raise Refused


async def _write_holding(database: MongoDatabase, group: Group, now: datetime, session: Any) -> Iterable[int]:
    shape, members = group
    fence = {"_id": {"$in": [change.id for change in members]}, **_guard(shape)}
    found = await database.jobs.find(fence, {"lease": True}, session=session).hint(BY_ID).to_list(None)
    leases = {document["_id"]: document.get("lease") for document in found}
    holding = [change for change in members if change.id in leases and leases[change.id] == change.lease]
    if holding:
        try:
            await _write_all(database, [(shape, holding)], now, session)
        except Refused:
            raise Conflict(f"{database.where}: jobs changed in the midst of a transaction") from None
    written = {change.id for change in holding}
    return [change.id for change in members if change.id not in written]


async def _write_one_by_one(database: MongoDatabase, by_shape: Sequence[Group], now: datetime) -> Iterable[int]:
    """Each update would insert where its fence does not hold, and cannot: the error names the change."""
    found = [update for group in by_shape for update in updates(group, now, one_by_one=True)]
    bson.encode({"": [update.update for update in found]})  # what cannot be stored is found before anything is
    bulk: list[UpdateOne] = []
    for update in found:
        if isinstance(update.update, list):  # a pipeline has no `$setOnInsert`; but there are few of them
            return [id for each in found for id in await _write_alone(database, each)]
        uninsertable = {**update.update, "$setOnInsert": {"_id": None}}
        bulk.append(UpdateOne(update.fence, uninsertable, upsert=True, hint=BY_ID))
    try:
        await database.jobs.bulk_write(bulk, ordered=False)
    except BulkWriteError as error:
        failed: Sequence[Mapping[str, Any]] = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(each["code"] != IMMUTABLE for each in failed):
            raise
        refused = (found[int(each["index"])] for each in failed)
        return [update.changes[0].id for update in refused]
    return ()


def _letters(by_shape: Sequence[Group]) -> int:
    return sum(
        len(value)
        for _, members in by_shape
        for change in members
        for value in change.columns.values()
        if isinstance(value, str)
    )


async def save_progress(database: MongoDatabase, reports: Sequence[tuple[int, str, str]]) -> None:
    """As `Backend.save_progress`."""
    held = {"state": {"$in": HELD_STATES}}
    bulk = [
        UpdateOne({"_id": id, "lease": lease, **held}, {"$set": {"progress": text}}, hint=BY_ID) for id, lease, text in reports
    ]
    async with database.transaction() as session:
        await database.jobs.bulk_write(bulk, ordered=False, session=session)


# Updates


class Update(NamedTuple):
    """What makes several changes with the same values."""

    changes: Sequence[Change]
    fence: Document
    update: Document | list[Document]
    """Operators; or stages of a pipeline, where a value follows from the document itself."""


def updates(group: Group, now: datetime, *, one_by_one: bool = False) -> Sequence[Update]:
    """As few as make the group's changes where their fence holds, or one for each of them."""
    shape, members = group
    alike: dict[object, tuple[Document, list[Change]]] = {}
    for change in members:
        values = _values(change, now)
        key = change.id if one_by_one else (change.lease, *values.values())
        alike.setdefault(key, (values, []))[1].append(change)
    return [Update(changes, _fence(shape, changes), _update(shape, values, stored(now))) for values, changes in alike.values()]


def _values(change: Change, now: datetime) -> Document:
    """The change's columns as the document will have them."""
    values = {name: stored(value) if isinstance(value, datetime) else value for name, value in change.columns.items()}
    due = change.columns.get("available_at")
    if isinstance(due, datetime):
        values["available_at"] = stored_due(due, now)
    return values


def _fence(shape: Shape, changes: Sequence[Change]) -> Document:
    ids: Any = changes[0].id if len(changes) == 1 else {"$in": [change.id for change in changes]}
    return {"_id": ids, "lease": changes[0].lease, **_guard(shape)}


def _guard(shape: Shape) -> Document:
    """The part of the fence that all of these changes share."""
    state = {"$in": [state.value for state in shape.before]}
    return {"state": state, "cancel_requested_at": None} if shape.state is State.WAITING else {"state": state}


def _update(shape: Shape, columns: Document, now: datetime) -> Document | list[Document]:
    """What sets the columns, and what the state brings with it."""
    due = columns.get("available_at")
    if shape.state is None:
        if due is None:
            return _operators(columns)
        waits = {"$ne": [{"$type": "$ready"}, "missing"]}
        return _stages(columns, {"$cond": [waits, due <= now, "$$REMOVE"]})
    values = columns | {"state": shape.state.value}
    if shape.state in FINAL:
        values["unique_lock"] = None
    if shape.state is not State.WAITING:
        return _operators(values | {"ready": None})
    if due is None:
        return _stages(values, {"$lte": ["$available_at", now]})
    return _operators(values | {"ready": due <= now})


def _operators(values: Mapping[str, object]) -> Document:
    given = {name: value for name, value in values.items() if value is not None}
    gone = {name: True for name, value in values.items() if value is None}
    return {operator: fields for operator, fields in (("$set", given), ("$unset", gone)) if fields}


def _stages(values: Mapping[str, object], ready: object) -> list[Document]:
    """Text would be taken for a field's name there if it began with $."""
    given = {name: "$$REMOVE" if value is None else {"$literal": value} for name, value in values.items()}
    return [{"$set": {**given, "ready": ready}}]
