"""THE STORE, on MongoDB: the steps of the schema, applied one by one under a lock.

No transaction covers what a step does to collections and indexes. So each command of a step may be
repeated, a step counts when it is noted, and one that was broken off is applied again as a whole.
The lock is a document with an owner and an end: whoever dies with it is in nobody's way for long.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from pymongo.errors import DuplicateKeyError, OperationFailure

from sidequest import failpoints
from sidequest.backends import migrations
from sidequest.backends.base import MigrationStatus
from sidequest.backends.migrations import Step
from sidequest.backends.mongo.session import DRIVER_ERRORS, MongoDatabase, translated
from sidequest.backends.work import Conflict
from sidequest.clock import monotonic
from sidequest.errors import BackendUnavailable

DIALECT = "mongo"
NAMESPACE_EXISTS = 48
LOCK = "schema"
LOCK_LIFE = timedelta(minutes=1)
"""From one command to the next. Should one take longer, another process joins in, and does no harm."""
PAUSE = 0.05
"""Seconds between two tries to get the lock, give or take half."""
PATIENCE = 600.0
"""Seconds to wait for others who apply steps."""
MIGRATION_TIMEOUT = 3600.0
"""Seconds for a step, with the wait for the lock: an index on a big collection takes its time."""
NOTED = (
    'db.runCommand({"update": "{prefix}migrations", "updates": [{"q": {"_id": "{step}"}, '
    '"u": [{"$set": {"needs": "{needs}", "applied_at": "$$NOW"}}], "upsert": true}]});'
)


async def status(database: MongoDatabase) -> MigrationStatus:
    """What is applied and what is pending."""
    applied = {step["_id"]: step["needs"] for step in await database.steps.find().to_list(None)}
    return migrations.status(migrations.steps(DIALECT), applied)


async def apply_next(database: MongoDatabase, now: Callable[[], datetime]) -> str | None:
    """Apply the first step that is pending; its name, or None. Raises SchemaMismatch over a newer schema."""
    async with _locked(database, now) as stay:
        seen = await status(database)
        migrations.refuse_newer(seen, database.where)
        steps = [step for step in migrations.steps(DIALECT) if step.name in seen.pending]
        if not steps:
            return None
        await failpoints.reach("migrate.before_step")
        await _apply(database, steps[0], stay)
        await failpoints.reach("migrate.before_commit")
        await database.steps.insert_one({"_id": steps[0].name, "needs": steps[0].needs, "applied_at": now()})
        return steps[0].name


async def drop(database: MongoDatabase) -> None:
    """Remove all collections; the steps first, so that nobody believes in what is gone when this is broken off."""
    for collection in (
        database.steps, database.jobs, database.queues, database.engines, database.counters, database.signals, database.locks,
    ):  # fmt: skip
        await collection.drop()


def as_text(prefix: str) -> str:
    """All steps for mongosh."""
    parts: list[str] = []
    for step in migrations.steps(DIALECT):
        commands = [f"db.runCommand({statement});" for statement in step.statements(prefix)]
        noted = NOTED.replace("{step}", step.name).replace("{needs}", step.needs)
        parts += [f"// {step.name}", *commands, migrations.fill(noted, prefix)]
    return "\n\n".join(parts) + "\n"


async def _apply(database: MongoDatabase, step: Step, stay: Callable[[], Any]) -> None:
    try:
        for statement in step.statements(database.prefix):
            await stay()
            await _run(database, json.loads(statement))
    except DRIVER_ERRORS as error:
        meaning = translated(error, database.where)
        meaning.add_note(f"in schema step {step.name} of {database.where}")
        raise meaning from error


async def _run(database: MongoDatabase, command: dict[str, Any]) -> None:
    try:
        answer = await database.command(command)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS or "create" not in command:
            raise
    else:
        for failed in answer.get("writeErrors", ()):
            raise OperationFailure(failed["errmsg"], failed["code"], failed)


@asynccontextmanager
async def _locked(database: MongoDatabase, now: Callable[[], datetime]) -> AsyncGenerator[Callable[[], Any], None]:
    """Nobody else applies a step until the block ends, as long as what is given is called and awaited now and then."""
    owner, deadline = uuid4().hex, monotonic() + PATIENCE
    while not await _take(database, owner, now()):
        if monotonic() > deadline:
            raise BackendUnavailable(f"{database.where}: another process has not come to an end with its schema steps")
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))

    async def stay() -> None:
        until = {"$set": {"until": now() + LOCK_LIFE}}
        if not (await database.locks.update_one({"_id": LOCK, "owner": owner}, until)).matched_count:
            raise Conflict(f"{database.where}: another process has taken over the schema steps")

    try:
        yield stay
    finally:
        with suppress(*DRIVER_ERRORS):  # then it ends by itself
            await database.locks.delete_one({"_id": LOCK, "owner": owner})


async def _take(database: MongoDatabase, owner: str, now: datetime) -> bool:
    ours = {"$set": {"owner": owner, "until": now + LOCK_LIFE}}
    try:
        await database.locks.update_one({"_id": LOCK, "until": {"$lt": now}}, ours, upsert=True)
    except DuplicateKeyError:  # it is there, and not yet over
        return False
    return True
