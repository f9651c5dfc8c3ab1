"""CLI. `sidequest queues …`: look at queues and change their settings; engines follow within a second."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import sidequest
from sidequest.cli import connection
from sidequest.cli.arguments import Commands, add_common, command, group, integer, name
from sidequest.cli.failures import DONE, Failed, WrongUse
from sidequest.cli.output import QUEUE_HEAD, counts_document, print_json, print_table, queue_document, queue_row
from sidequest.jobs import checks
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.states import State

Ask = Callable[["sidequest.Sidequest", argparse.Namespace], Awaitable[QueueRecord]]


def add(commands: Commands) -> None:
    words = group(commands, "queues", "look at queues and change their settings")
    add_common(command(words, "list", _list, "all queues, highest priority first"))
    _named(command(words, "show", _show, "one queue, and how many jobs it has in each state"))
    create = _named(command(words, "create", _one(_create), "create a queue"))
    _settings(create)
    create.add_argument("--paused", action="store_true", help="accept jobs and start none")
    _named(command(words, "pause", _one(_pause), "start no more of its jobs; running ones go on"))
    _named(command(words, "resume", _one(_resume), "start its jobs again"))
    _settings(_named(command(words, "set", _one(_set), "change its settings")))
    _named(command(words, "purge", _purge, "delete its waiting jobs"))


def _named(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("name", metavar="NAME", type=name("name"))
    add_common(parser)
    return parser


def _settings(parser: argparse.ArgumentParser) -> None:
    concurrency = integer("concurrency", 1, 100_000)
    parser.add_argument("--concurrency", type=concurrency, metavar="N", help="its jobs that one engine runs at once")
    priority = integer("priority", -checks.INT32, checks.INT32)
    parser.add_argument("--priority", type=priority, metavar="N", help="higher is served first")


def _list(args: argparse.Namespace) -> int:
    queues = asyncio.run(_all(args))
    if args.json:
        print_json({"queues": [queue_document(queue) for queue in queues]})
    else:
        print_table(QUEUE_HEAD, [queue_row(queue) for queue in queues])
    return DONE


async def _all(args: argparse.Namespace) -> list[QueueRecord]:
    async with connection.client(args) as sq:
        return list(await sq.queues.list())


def _show(args: argparse.Namespace) -> int:
    queue, counts = asyncio.run(_with_counts(args))
    jobs = counts_document(counts)
    if args.json:
        print_json({**queue_document(queue), "jobs": jobs})
    else:
        print_table((*QUEUE_HEAD, *map(str.upper, jobs)), [(*queue_row(queue), *map(str, jobs.values()))])
    return DONE


async def _with_counts(args: argparse.Namespace) -> tuple[QueueRecord, Mapping[State, int]]:
    async with connection.client(args) as sq:
        return await sq.queues.get(args.name), await sq.jobs.count(queue=args.name)


def _one(ask: Ask) -> Callable[[argparse.Namespace], int]:
    """A command that changes one queue, and shows it as it stands after that."""

    async def answer(args: argparse.Namespace) -> QueueRecord:
        async with connection.client(args) as sq:
            return await ask(sq, args)

    def run(args: argparse.Namespace) -> int:
        queue = asyncio.run(answer(args))
        if args.json:
            print_json(queue_document(queue))
        else:
            print_table(QUEUE_HEAD, [queue_row(queue)])
        return DONE

    return run


async def _create(sq: sidequest.Sidequest, args: argparse.Namespace) -> QueueRecord:
    try:
        return await sq.queues.create(args.name, **_given(args), paused=args.paused)
    except ValueError:  # the values are checked already
        raise Failed(f"queue {args.name} exists already; change it with: sidequest queues set") from None


async def _pause(sq: sidequest.Sidequest, args: argparse.Namespace) -> QueueRecord:
    return await sq.queues.pause(args.name)


async def _resume(sq: sidequest.Sidequest, args: argparse.Namespace) -> QueueRecord:
    return await sq.queues.resume(args.name)


async def _set(sq: sidequest.Sidequest, args: argparse.Namespace) -> QueueRecord:
    given = _given(args)
    if not given:
        raise WrongUse("nothing to change: give --concurrency or --priority")
    return await sq.queues.set(args.name, **given)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    settings = {"concurrency": args.concurrency, "priority": args.priority}
    return {setting: value for setting, value in settings.items() if value is not None}


def _purge(args: argparse.Namespace) -> int:
    deleted = asyncio.run(_deleted(args))
    if args.json:
        print_json({"queue": args.name, "deleted": deleted})
    else:
        print(f"deleted {deleted} waiting {'job' if deleted == 1 else 'jobs'} of {args.name}")
    return DONE


async def _deleted(args: argparse.Namespace) -> int:
    async with connection.client(args) as sq:
        return await sq.queues.purge(args.name)
