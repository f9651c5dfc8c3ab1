"""MySQL and MariaDB: EXPLAIN beforehand, and the session's own counters of what was read."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from sidequest.backends.sql.session import Values
from tests.plans.place import SqlPlace
from tests.plans.plan import JOBS, PRIMARY, Access, Plan
from tests.plans.stock import Row, write_in_blocks

KEY = re.compile(r"^ *((?:UNIQUE )?KEY (`\w+`) .*?),?$", re.MULTILINE)
COUNTERS = "SHOW SESSION STATUS LIKE 'Handler_read%'"


class MysqlPlace(SqlPlace):
    unit: ClassVar[str] = "reads"
    looking: ClassVar[Sequence[str]] = ("ANALYZE TABLE {prefix}jobs",)
    forgetting: ClassVar[Sequence[str]] = ("ALTER TABLE {prefix}jobs STATS_AUTO_RECALC = 0", "DELETE FROM {prefix}jobs")

    async def fill(self) -> None:
        import pymysql

        at = urlsplit(self.backend.url.target)
        connection = pymysql.connect(
            host=at.hostname, port=at.port or 3306, user=unquote(at.username or ""), password=unquote(at.password or ""),
            database=at.path.strip("/"), charset="utf8mb4",
        )  # fmt: skip
        insert = f"INSERT INTO {self.backend.jobs} ({', '.join(Row._fields)}) VALUES "
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(f"SHOW CREATE TABLE {self.backend.jobs}")
            keys = KEY.findall(cursor.fetchone()[1])  # made at the end, they are sorted and not searched for each row
            cursor.execute(f"ALTER TABLE {self.backend.jobs} {', '.join(f'DROP KEY {name}' for _, name in keys)}")
            rows = (f"({', '.join(map(_literal, row))})" for row in self.stock.jobs())
            await write_in_blocks(rows, 5_000, lambda block: cursor.execute(insert + ", ".join(block)))
            connection.commit()
            cursor.execute(f"ALTER TABLE {self.backend.jobs} {', '.join(f'ADD {key}' for key, _ in keys)}")

    async def settle(self) -> None:
        await self.analyze()

    @asynccontextmanager
    async def observed(self, session: Any, statement: str, values: Values) -> AsyncGenerator[Callable[[], Plan], None]:
        lines = [_line(row) for row in await session.fetch(f"EXPLAIN FORMAT = TRADITIONAL {statement}", values)]
        empty = await self._reads(session)
        before = await self._reads(session)
        accesses: list[Access] = []
        reads = 0

        def plan() -> Plan:
            text = "\n".join("  ".join(str(cell) for cell in line) for line in lines)
            sorts = any("filesort" in extra for table, *_, extra in lines if self._table(table) == JOBS)
            return Plan(statement, accesses, sorts, reads, text)

        yield plan
        reads = await self._reads(session) - before - (before - empty)
        accesses += [self._access(table, type, key, reads) for table, type, key, _ in lines if table and table[0] != "<"]

    async def _reads(self, session: Any) -> int:
        """How many rows and index entries this session has read in its life; to ask is to read some more."""
        return sum(int(number) for _, number in await session.fetch(COUNTERS))

    def _access(self, table: str, type: str, key: str | None, reads: int) -> Access:
        index = PRIMARY if key == "PRIMARY" else key and key.removeprefix(f"{self.backend.jobs}_")
        return Access(self._table(table), index, type not in {"ALL", "index"}, reads)

    def _table(self, name: str | None) -> str | None:
        return name and name.removeprefix(self.backend.url.prefix)


def _line(row: Sequence[Any]) -> tuple[str | None, str, str | None, str]:
    """Table, access type, key and remarks of a line of EXPLAIN; MySQL has two columns more than MariaDB."""
    *_, extra = row
    table, type, key = (row[2], row[4], row[6]) if len(row) == 12 else (row[2], row[3], row[5])
    return table, type, key, extra or ""


def _literal(value: object) -> str:
    """As SQL has it; no text of ours holds a quote or a backslash."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, datetime):
        return f"'{value.replace(tzinfo=None)}'"
    return str(int(value))  # type: ignore[call-overload]
