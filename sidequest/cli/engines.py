"""CLI. `sidequest engines list`: the engines of this database, on all hosts."""

from __future__ import annotations

import argparse
import asyncio

import sidequest
from sidequest.cli import connection
from sidequest.cli.arguments import Commands, add_common, command, group
from sidequest.cli.failures import DONE
from sidequest.cli.output import ENGINE_HEAD, engine_document, engine_row, print_json, print_table


def add(commands: Commands) -> None:
    words = group(commands, "engines", "look at the engines of this database, on all hosts")
    add_common(command(words, "list", _list, "all engines, oldest first, and how many jobs each one holds"))


def _list(args: argparse.Namespace) -> int:
    engines = asyncio.run(_all(args))
    if args.json:
        print_json({"engines": [engine_document(engine) for engine in engines]})
    else:
        print_table(ENGINE_HEAD, [engine_row(engine) for engine in engines])
    return DONE


async def _all(args: argparse.Namespace) -> list[sidequest.EngineRecord]:
    async with connection.client(args) as sq:
        return list(await sq.engines.list())
