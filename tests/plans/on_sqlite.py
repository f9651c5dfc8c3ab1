"""SQLite: EXPLAIN QUERY PLAN beforehand, and how many steps its virtual machine takes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, ClassVar

from sidequest.backends.instants import EPOCH, MICROSECOND
from sidequest.backends.sql.session import Values
from tests.plans.place import SqlPlace
from tests.plans.plan import PRIMARY, Access, Plan
from tests.plans.stock import Row, write_in_blocks

STEPS = 10
"""Virtual machine steps between two reports: each one is a call of Python's."""
ACCESS = re.compile(r"^(?P<how>SEARCH|SCAN) (?P<table>\w+)(?: USING (?:COVERING )?INDEX (?P<index>\w+))?")
INSTANTS = [place for place, name in enumerate(Row._fields) if name.endswith("_at")]
OF_FEW = {"held"}
"""Indexes with so few entries, by their own condition, that they are bounded from end to end."""
ALIAS = "j"
"""What statements call the jobs' table."""


class SqlitePlace(SqlPlace):
    unit: ClassVar[str] = "steps"
    looking: ClassVar[Sequence[str]] = ("ANALYZE",)
    forgetting: ClassVar[Sequence[str]] = ("DELETE FROM {prefix}jobs",)

    async def fill(self) -> None:
        columns = ", ".join(Row._fields)
        statement = f"INSERT INTO {self.backend.jobs} ({columns}) VALUES ({', '.join('?' * len(Row._fields))})"
        path = self.backend.url.target
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
            connection.execute("PRAGMA synchronous = off")
            connection.execute("PRAGMA cache_size = -500000")  # KiB, so that the indexes grow in memory
            connection.execute("BEGIN IMMEDIATE")
            definitions = self._drop_indexes(connection)

            def write(block: Sequence[Sequence[object]]) -> None:
                # The cursor must end here: another thread that let go of it would reset the next block's statement.
                connection.executemany(statement, block)

            await write_in_blocks(map(_cells, self.stock.jobs()), 10_000, write)
            for definition in definitions:
                connection.execute(definition)
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _drop_indexes(self, connection: sqlite3.Connection) -> Sequence[str]:
        """Drop those that need not be there during the fill; their definitions."""
        wanted = "FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
        found = connection.execute(f"SELECT name, sql {wanted}", [self.backend.jobs]).fetchall()
        for name, _ in found:
            connection.execute(f"DROP INDEX {name}")
        return [definition for _, definition in found]

    async def settle(self) -> None:
        """It never looks at its tables by itself."""

    @asynccontextmanager
    async def observed(self, session: Any, statement: str, values: Values) -> AsyncGenerator[Callable[[], Plan], None]:
        lines = await session.fetch(f"EXPLAIN QUERY PLAN {statement}", values)
        reports = 0

        def report() -> int:
            nonlocal reports
            reports += 1
            return 0

        def plan() -> Plan:
            accesses = [found for line in lines if (found := self._access(line[3])) is not None]
            text = "\n".join(detail for *_, detail in lines)
            return Plan(statement, accesses, self._sorts(lines), reports * STEPS, text)

        connection = session._connection
        await connection.set_progress_handler(report, STEPS)
        try:
            yield plan
        finally:
            await connection.set_progress_handler(None, STEPS)

    def _access(self, detail: str) -> Access | None:
        found = ACCESS.match(detail)
        if found is None or found["table"] == "json_each":
            return None
        index = PRIMARY if found["index"] is None else found["index"].removeprefix(f"{self.backend.jobs}_")
        return Access(self._table(found["table"]), index, found["how"] == "SEARCH" or index in OF_FEW, None)

    def _table(self, name: str) -> str:
        return "jobs" if name == ALIAS else name.removeprefix(self.backend.url.prefix)

    def _sorts(self, lines: list[tuple[int, int, int, str]]) -> bool:
        """Whether a sort stands beside an access to jobs: both belong to the same SELECT then."""
        sorting = {parent for _, parent, _, detail in lines if "TEMP B-TREE" in detail}
        going = {parent for _, parent, _, detail in lines if (found := self._access(detail)) and found.table == "jobs"}
        return bool(sorting & going)


def _cells(row: Row) -> list[object]:
    """With instants as SQLite has them."""
    cells: list[Any] = list(row)
    for place in INSTANTS:
        if cells[place] is not None:
            cells[place] = (cells[place] - EPOCH) // MICROSECOND
    return cells
