"""THE STORE. Parameters: statements say `:name`, drivers want their own sign in its place."""

from __future__ import annotations

import re
from functools import lru_cache

NAME = re.compile(r"(?<![:\w]):([a-z_]+)\b")
"""A parameter; not the type behind a PostgreSQL cast (`::bigint`). No literal of ours holds a colon before a letter."""


@lru_cache(1024)
def numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """With `$1`, `$2`, … (asyncpg), and the names in that order, each once."""
    names = tuple(dict.fromkeys(NAME.findall(statement)))
    numbers = {name: number for number, name in enumerate(names, 1)}
    return NAME.sub(lambda found: f"${numbers[found[1]]}", statement), names


@lru_cache(1024)
def positional(statement: str) -> tuple[str, tuple[str, ...]]:
    """With `%s` (aiomysql), and the names in the order in which they occur."""
    doubled = statement.replace("%", "%%")
    return NAME.sub("%s", doubled), tuple(NAME.findall(doubled))
