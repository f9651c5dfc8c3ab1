"""What a database can do when nothing stands between: the measurements that the design was chosen by."""

from __future__ import annotations

from benchmarks.prototypes.mongodb import MongoPrototype
from benchmarks.prototypes.mysql import MysqlPrototype
from benchmarks.prototypes.postgres import PostgresPrototype
from benchmarks.prototypes.sqlite import SqlitePrototype
from benchmarks.prototypes.store import Prototype
from sidequest.config import DatabaseURL

PROTOTYPES: dict[str, type[Prototype]] = {
    "sqlite": SqlitePrototype,
    "postgresql": PostgresPrototype,
    "mysql": MysqlPrototype,
    "mongodb": MongoPrototype,
}


def make_prototype(url: str) -> Prototype:
    """The prototype for the database of this URL, not yet opened."""
    return PROTOTYPES[DatabaseURL.parse(url).scheme](url)
