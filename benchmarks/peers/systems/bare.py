"""No job queue at all: the drivers and the prototypes' statements, as the measure of what a database can do."""

from __future__ import annotations

from benchmarks.peers.contestants import Mode, System

SYSTEM = System(
    name="bare",
    databases=("postgres", "sqlite", "mariadb", "mysql", "mongodb"),
    kinds=("noop", "pipeline"),
    modes={
        "driver": Mode(
            "W1: inserts of one row each into an equally wide table; W2: in the prototype's own chunks; W3: claims and ends "
            "of 500 beside each other, with 50 000 waiting and as many finished rows",
            [],
            only=("W1", "W2", "W3 async", "W3 sync"),
        )
    },
    about="Autocommit, each driver's and server's default durability. Callers share one connection of SQLite, which has "
    "one writer, and the client of MongoDB, which has a pool; on the other servers each has its own.",
)
