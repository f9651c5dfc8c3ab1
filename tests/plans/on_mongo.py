"""MongoDB: its own profiler, which notes how each command was run."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tests.plans.place import Place
from tests.plans.plan import JOBS, PRIMARY, Access, Plan
from tests.plans.stock import Row, write_in_blocks

Document = Mapping[str, Any]
PROFILE_BYTES = 64_000_000
LEAD_IN = {"IXSCAN", "COUNT_SCAN", "DISTINCT_SCAN", "IDHACK", "COLLSCAN"}


class MongoPlace(Place):
    unit: ClassVar[str] = "reads"
    # Two more indexes made the end of a job a quarter dearer.
    indexes_instants: ClassVar[bool] = False

    @cached_property
    def database(self) -> Any:
        from pymongo import MongoClient

        url = self.backend.url.target
        client: MongoClient[Document] = MongoClient(url, tz_aware=True)
        return client[urlsplit(url).path.strip("/")]

    async def close(self) -> None:
        self.database.client.close()
        await super().close()

    async def fill(self) -> None:
        from pymongo import WriteConcern

        prefix = self.backend.url.prefix
        jobs = self.database.get_collection(f"{prefix}jobs", write_concern=WriteConcern(w=1))
        documents = (_document(number, row) for number, row in enumerate(self.stock.jobs(), 1))
        await write_in_blocks(documents, 10_000, lambda block: jobs.insert_many(block, ordered=False))
        self.database[f"{prefix}counters"].update_one({"_id": "jobs"}, {"$set": {"last": self.stock.total}})

    async def settle(self) -> None:
        """It keeps no statistics: it tries plans out."""

    async def analyze(self) -> None:
        self.database.command({"planCacheClear": f"{self.backend.url.prefix}jobs"})

    async def forget(self) -> None:
        self.database[f"{self.backend.url.prefix}jobs"].delete_many({})

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[list[Plan], None]:
        plans: list[Plan] = []
        self.database.drop_collection("system.profile")
        self.database.create_collection("system.profile", capped=True, size=PROFILE_BYTES)
        self.database.command({"profile": 2})
        try:
            yield plans
        finally:
            self.database.command({"profile": 0})
        noted = self.database["system.profile"].find({"ns": {"$regex": rf"\.{self.backend.url.prefix}"}}).sort("$natural", 1)
        plans += [self._plan(entry) for entry in noted]

    def _plan(self, entry: Document) -> Plan:
        keys, documents = entry.get("keysExamined", 0), entry.get("docsExamined", 0)
        table = entry["ns"].partition(".")[2]
        ran = entry["execStats"] if "execStats" in entry else self._explained(entry["command"])
        accesses = [self._access(table, stage, keys) for table, stage in _ways_in(ran, table)]
        sorts = any(stage.get("stage") == "SORT" or "$sort" in stage for name, stage in _stages(ran, table) if self._jobs(name))
        said = {name: value for name, value in entry["command"].items() if name not in {"lsid", "$clusterTime"}}
        return Plan(json.dumps(said, default=str), accesses, sorts, keys + documents, json.dumps(ran, default=str))

    def _explained(self, command: Document) -> object:
        """The profiler does not tell how a pipeline was run, beyond its first stage."""
        if "aggregate" not in command:
            return {}
        again = {name: command[name] for name in ("aggregate", "pipeline", "cursor")}
        found = self.database.command({"explain": again, "verbosity": "executionStats"})
        return found["stages"] if "stages" in found else found["executionStats"]["executionStages"]

    def _access(self, table: str, stage: Document, keys: int) -> Access:
        """`keys`: how many entries the whole command looked at, for stages that do not tell."""
        name, by_id = stage.get("indexName"), stage["stage"] == "IDHACK"
        index = PRIMARY if by_id or name == "_id_" else name
        rows = stage.get("keysExamined", stage.get("docsExamined", keys))
        return Access(table.removeprefix(self.backend.url.prefix), index, by_id or _bounded(stage), rows)

    def _jobs(self, table: str) -> bool:
        return table == f"{self.backend.url.prefix}{JOBS}"


def _ways_in(ran: object, table: str) -> Iterator[tuple[str, Document]]:
    return ((table, stage) for table, stage in _stages(ran, table) if stage.get("stage") in LEAD_IN)


def _stages(node: object, table: str) -> Iterator[tuple[str, Document]]:
    """The stages of what was run, each with the collection that it is about; not those of plans that were only considered."""
    if isinstance(node, list):
        for value in node:
            yield from _stages(value, table)
    if isinstance(node, Mapping):
        yield table, node
        if "$cursor" in node:
            yield from _stages(node["$cursor"]["executionStats"]["executionStages"], table)
        elif "$unionWith" in node:
            yield from _stages(node["$unionWith"]["pipeline"], node["$unionWith"]["coll"])
        else:
            for name in ("inputStage", "inputStages"):
                yield from _stages(node.get(name), table)


def _bounded(stage: Document) -> bool:
    """Whether the first field of the index has bounds."""
    first = next(iter(stage.get("indexBounds", {}).values()), ["[MinKey, MaxKey]"])
    return not any("MinKey" in bound and "MaxKey" in bound for bound in first)


def _document(number: int, row: Row) -> Document:
    """As the backend writes them: without the fields that have no value."""
    found = {name: value for name, value in zip(Row._fields, row, strict=True) if value is not None}
    if row.tags is not None:
        found["tags"] = json.loads(row.tags)
    return {"_id": number, **found}
