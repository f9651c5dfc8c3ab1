"""PostgreSQL: EXPLAIN ANALYZE of each statement, undone before the statement itself runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from sidequest.backends.sql.parameters import numbered
from sidequest.backends.sql.session import Values
from tests.plans.place import SqlPlace
from tests.plans.plan import JOBS, PRIMARY, Access, Plan
from tests.plans.stock import Row

Node = Mapping[str, Any]
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
CUSTOM_PLANS = 6
"""From then on PostgreSQL plans for all values at once, where that seemed no worse."""


class PostgresPlace(SqlPlace):
    unit: ClassVar[str] = "pages"
    looking: ClassVar[Sequence[str]] = ("VACUUM (ANALYZE) {prefix}jobs",)
    forgetting: ClassVar[Sequence[str]] = ("TRUNCATE {prefix}jobs",)
    # Then starts and ends are heap-only updates, worth 43 % (docs/design/decisions/0002-ready-column.md).
    ends_touch_indexes: ClassVar[bool] = False
    indexes_instants: ClassVar[bool] = False  # of an end; there is one of when they came

    async def fill(self) -> None:
        import asyncpg

        await self.execute(["ALTER TABLE {prefix}jobs SET (autovacuum_enabled = off)"])
        connection = await asyncpg.connect(self.backend.url.target)
        try:
            await connection.copy_records_to_table(
                f"{self.backend.url.prefix}jobs", records=self.stock.jobs(), columns=Row._fields
            )
        finally:
            await connection.close()

    async def settle(self) -> None:
        await self.execute(["ALTER TABLE {prefix}jobs RESET (autovacuum_enabled)", *self.looking])

    prepared_long_ago = False
    """Whether to look at the plans of statements that were run more than five times: they may no longer fit the values."""

    @asynccontextmanager
    async def observed(self, session: Any, statement: str, values: Values) -> AsyncGenerator[Callable[[], Plan], None]:
        explained = self._explained_again if self.prepared_long_ago else self._explained
        root: Node = json.loads(await explained(session, statement, values))[0]["Plan"]
        accesses = [access for node in _all(root) if (access := self._access(node)) is not None]
        sorts = any("Sort" in node["Node Type"] and self._about_jobs(node) for node in _all(root))
        pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"] + root["Temp Read Blocks"]
        plan = Plan(statement, accesses, sorts, pages, "\n".join(_lines(root)))
        yield lambda: plan

    async def _explained(self, session: Any, statement: str, values: Values) -> str:
        ((found,),) = await self._tried(session, f"{EXPLAIN} {statement}", values)
        return str(found)

    async def _explained_again(self, session: Any, statement: str, values: Values) -> str:
        text, names = numbered(statement)
        run = f"EXECUTE long_ago({', '.join(_literal(values[name]) for name in names)})" if names else "EXECUTE long_ago"
        await session.execute(f"PREPARE long_ago AS {text}")
        try:
            for _ in range(CUSTOM_PLANS):
                await session.fetch(f"EXPLAIN {run}")
            ((found,),) = await self._tried(session, f"{EXPLAIN} {run}", {})
            return str(found)
        finally:
            await session.execute("DEALLOCATE long_ago")

    async def _tried(self, session: Any, statement: str, values: Values) -> Any:
        """What the statement gives, without what it does."""
        if not session._connection.is_in_transaction():
            await session.begin()
            try:
                return await session.fetch(statement, values)
            finally:
                await session.rollback()
        await session.execute("SAVEPOINT tried")
        found = await session.fetch(statement, values)
        await session.execute("ROLLBACK TO SAVEPOINT tried")
        return found

    def _access(self, node: Node) -> Access | None:
        if "Relation Name" not in node:
            return None
        table = node["Relation Name"].removeprefix(self.backend.url.prefix)
        rows = node["Actual Loops"] * sum(node.get(name, 0) for name in READ)
        match node["Node Type"]:
            case "Index Scan" | "Index Only Scan":
                return Access(table, self._index(node), "Index Cond" in node, rows)
            case "Bitmap Heap Scan":
                entries = [inner for inner in _all(node) if inner["Node Type"] == "Bitmap Index Scan"]
                bounded = all("Index Cond" in entry for entry in entries)
                return Access(table, "+".join(self._index(entry) for entry in entries), bounded, rows)
            case "ModifyTable":
                return None
            case _:
                return Access(table, None, False, rows)

    def _index(self, node: Node) -> str:
        name = node["Index Name"].removeprefix(f"{self.backend.url.prefix}jobs_")
        return PRIMARY if name == "pkey" else name

    def _about_jobs(self, node: Node) -> bool:
        """Whether jobs go through this node, not only through a query inside of it."""
        if (access := self._access(node)) is not None and access.table == JOBS:
            return True
        return any(self._about_jobs(child) for child in node.get("Plans", ()) if child["Parent Relationship"] not in INSIDE)


INSIDE = ("InitPlan", "SubPlan")
READ = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")


def _literal(value: object) -> str:
    """As SQL has it, of the type that the statement wants."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        elements = (json.dumps(str(element), ensure_ascii=False) if element is not None else "NULL" for element in value)
        return _literal(f"{{{', '.join(elements)}}}")
    return "'{}'".format(str(value).replace("'", "''"))


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from _all(child)


def _lines(node: Node, depth: int = 0) -> Iterator[str]:
    words = (node["Node Type"], node.get("Relation Name"), node.get("Index Name"), node.get("Index Cond"), node.get("Filter"))
    rows = f"{node['Actual Rows']} × {node['Actual Loops']} rows, {node.get('Rows Removed by Filter', 0)} removed"
    yield f"{'  ' * depth}{' '.join(word for word in words if word)} ({rows})"
    for child in node.get("Plans", ()):
        yield from _lines(child, depth + 1)
