"""CLI. `sidequest migrate up|status|sql`: the tables in the database."""

from __future__ import annotations

import argparse
import asyncio

from sidequest.backends.base import MigrationStatus
from sidequest.cli import connection
from sidequest.cli.arguments import Commands, add_common, command, group
from sidequest.cli.failures import DONE
from sidequest.cli.output import print_json


def add(commands: Commands) -> None:
    words = group(commands, "migrate", "create or update Sidequest's tables, or look at them")
    add_common(command(words, "up", _up, "create the tables, or bring them up to date"))
    add_common(command(words, "status", _status, "which schema steps are applied, pending or made by a newer Sidequest"))
    add_common(command(words, "sql", _sql, "print all schema steps as SQL, to be applied by hand"))


def _up(args: argparse.Namespace) -> int:
    url = connection.url_of(args)
    steps = asyncio.run(_migrate(url))
    if args.json:
        print_json({"applied": steps})
    else:
        print("\n".join(f"applied {step}" for step in steps) or "the tables are up to date")
    return DONE


async def _migrate(url: str) -> list[str]:
    async with connection.opened(url) as store:
        return list(await store.migrate())


def _status(args: argparse.Namespace) -> int:
    url = connection.url_of(args)
    connection.refuse_missing(url)
    status = asyncio.run(_look(url))
    lists = {"applied": status.applied, "pending": status.pending, "newer": status.newer, "unknown": status.unknown}
    if args.json:
        print_json({word: list(steps) for word, steps in lists.items()})
    else:
        print("\n".join(f"{word:<8} {step}" for word, steps in lists.items() for step in steps))
    return DONE


async def _look(url: str) -> MigrationStatus:
    async with connection.opened(url) as store:
        return await store.migration_status()


def _sql(args: argparse.Namespace) -> int:
    text = connection.store(connection.url_of(args)).migration_sql()
    if args.json:
        print_json({"sql": text})
    else:
        print(text, end="")
    return DONE
