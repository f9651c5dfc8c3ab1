"""CLI. `sidequest jobs …`: look at jobs, enqueue them, and move them by hand."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import sidequest
from sidequest.app.operations import MOST_LISTED
from sidequest.cli import connection
from sidequest.cli.arguments import (
    Commands,
    add_common,
    command,
    group,
    instant,
    integer,
    job_arguments,
    job_id,
    name,
    seconds,
    words,
)
from sidequest.cli.failures import DONE, FAILED, one_line
from sidequest.cli.output import JOB_HEAD, counts_document, job_document, job_lines, job_row, print_json, print_table, printable
from sidequest.clock import utc_now
from sidequest.errors import JobNotFound, JobStateError
from sidequest.jobs import checks
from sidequest.jobs.record import JobRecord
from sidequest.jobs.states import State

Move = Callable[["sidequest.Sidequest", int], Awaitable[str]]
"""Does something with one job; the word for what became of it."""


def add(commands: Commands) -> None:
    verbs = group(commands, "jobs", "look at jobs, enqueue them, and move them by hand")
    _add_list(verbs)
    show = command(verbs, "show", _show, "everything about one job")
    show.add_argument("id", metavar="ID", type=job_id)
    add_common(show)
    _add_move(verbs, "cancel", _cancel, "cancel jobs: at once if they wait, else their engines stop them within a second")
    _add_move(verbs, "retry", _retry, "run jobs that have ended once more")
    _add_move(verbs, "run", _run_now, "make waiting jobs due at once")
    _add_move(verbs, "delete", _delete, "delete jobs that no engine holds")
    snooze = command(verbs, "snooze", _snooze, "make a waiting job due later")
    snooze.add_argument("id", metavar="ID", type=job_id)
    snooze.add_argument("seconds", metavar="SECONDS", type=seconds("SECONDS"), help="from now on")
    add_common(snooze)
    stack = command(verbs, "stack", _stack, "where a running job is now; on the host of its engine")
    stack.add_argument("id", metavar="ID", type=job_id)
    add_common(stack)
    count = command(verbs, "count", _count, "how many jobs there are in each state")
    _add_filter(count)
    add_common(count)
    _add_enqueue(verbs)


def _add_list(verbs: Commands) -> None:
    parser = command(verbs, "list", _list, "the newest jobs first")
    states = [state.value for state in State]
    parser.add_argument("--state", action="append", choices=states, help="may be given several times")
    _add_filter(parser)
    parser.add_argument("--text", type=words, help="found literally in name, arguments or errors")
    limit = integer("limit", 1, MOST_LISTED)
    parser.add_argument("--limit", type=limit, default=50, metavar="N", help=f"at most this many (50; up to {MOST_LISTED})")
    parser.add_argument("--before", type=job_id, metavar="ID", help="only jobs with lower ids: the next page")
    add_common(parser)


def _add_filter(parser: argparse.ArgumentParser) -> None:
    when = "an ISO 8601 time with an offset, or an age such as 15m, 2h, 3d"
    parser.add_argument("--queue", type=name("queue"))
    parser.add_argument("--name", type=name("name", 200), help="the job's stored name, such as shop.jobs:send")
    parser.add_argument("--tag", type=name("tag"))
    parser.add_argument("--since", type=instant("since"), metavar="TIME", help=f"enqueued then or later: {when}")
    parser.add_argument("--until", type=instant("until"), metavar="TIME", help=f"enqueued before: {when}")


def _filter(args: argparse.Namespace) -> dict[str, Any]:
    return {word: getattr(args, word) for word in ("queue", "name", "tag", "since", "until")}


def _add_move(verbs: Commands, verb: str, move: Move, help: str) -> None:
    parser = command(verbs, verb, _moved(move), help)
    parser.add_argument("ids", metavar="ID", type=job_id, nargs="+")
    add_common(parser)


def _add_enqueue(verbs: Commands) -> None:
    parser = command(verbs, "enqueue", _enqueue, "enqueue a job by its stored name")
    parser.add_argument("name", metavar="NAME", type=name("NAME", 200), help="such as shop.jobs:send")
    given = '\'{"to": "a@b.c"}\' for keyword arguments, \'["a@b.c"]\' for positional ones'
    parser.add_argument("arguments", metavar="ARGUMENTS", type=job_arguments, nargs="?", default=([], {}), help=given)
    parser.add_argument("--queue", type=name("queue"))
    parser.add_argument("--delay", type=seconds("delay"), metavar="SECONDS", help="due this long from now")
    parser.add_argument("--priority", type=integer("priority", -checks.INT32, checks.INT32), metavar="N", help="higher first")
    parser.add_argument("--tag", type=name("tag"), action="append", dest="tags", help="may be given several times")
    add_common(parser)


# Looking


def _list(args: argparse.Namespace) -> int:
    records = asyncio.run(_found(args))
    if args.json:
        more = len(records) == args.limit
        print_json({"jobs": [job_document(record) for record in records], "next_before": records[-1].id if more else None})
    else:
        now = utc_now()
        print_table(JOB_HEAD, [job_row(record, now) for record in records])
    return DONE


async def _found(args: argparse.Namespace) -> Sequence[JobRecord]:
    async with connection.client(args) as sq:
        return await sq.jobs.list(state=args.state, text=args.text, limit=args.limit, before=args.before, **_filter(args))


def _show(args: argparse.Namespace) -> int:
    record = asyncio.run(_got(args))
    if args.json:
        print_json(job_document(record))
    else:
        print("\n".join(job_lines(record)))
    return DONE


async def _got(args: argparse.Namespace) -> JobRecord:
    async with connection.client(args) as sq:
        return await sq.jobs.get(args.id)


def _stack(args: argparse.Namespace) -> int:
    stack = asyncio.run(_stacked(args))
    if args.json:
        print_json({"id": args.id, "stack": stack})
    else:
        print("\n".join(printable(line) for line in stack.splitlines()))
    return DONE


async def _stacked(args: argparse.Namespace) -> str:
    async with connection.client(args) as sq:
        return await sq.jobs.stack(args.id)


def _count(args: argparse.Namespace) -> int:
    counts = counts_document(asyncio.run(_counts(args)))
    if args.json:
        print_json(counts)
    else:
        print_table(("STATE", "JOBS"), [(state, str(number)) for state, number in counts.items()])
    return DONE


async def _counts(args: argparse.Namespace) -> Mapping[State, int]:
    async with connection.client(args) as sq:
        return await sq.jobs.count(**_filter(args))


# Moving


async def _cancel(sq: sidequest.Sidequest, id: int) -> str:
    answer = await sq.jobs.cancel(id)
    if answer == "too_late":
        raise JobStateError(f"job {id} has ended already: too late to cancel it")
    return answer


async def _retry(sq: sidequest.Sidequest, id: int) -> str:
    return (await sq.jobs.retry(id)).state.value


async def _run_now(sq: sidequest.Sidequest, id: int) -> str:
    return (await sq.jobs.run_now(id)).state.value


async def _delete(sq: sidequest.Sidequest, id: int) -> str:
    await sq.jobs.delete(id)
    return "deleted"


def _snooze(args: argparse.Namespace) -> int:
    async def snooze(sq: sidequest.Sidequest, id: int) -> str:
        return (await sq.jobs.snooze(id, args.seconds)).state.value

    args.ids = [args.id]
    return _moved(snooze)(args)


def _moved(move: Move) -> Callable[[argparse.Namespace], int]:
    """A command that moves each of several jobs; one that cannot be moved does not hold up the others."""

    async def each(args: argparse.Namespace) -> Mapping[int, str | Exception]:
        answers: dict[int, str | Exception] = {}
        async with connection.client(args) as sq:
            for id in dict.fromkeys(args.ids):
                try:
                    answers[id] = await move(sq, id)
                except (JobNotFound, JobStateError) as error:
                    answers[id] = error
        return answers

    return lambda args: _report(asyncio.run(each(args)), as_json=args.json)


def _report(answers: Mapping[int, str | Exception], *, as_json: bool) -> int:
    refused = {id: one_line(answer) for id, answer in answers.items() if isinstance(answer, Exception)}
    if as_json:
        jobs = [
            {"id": id, "answer": None if id in refused else answer, "error": refused.get(id)} for id, answer in answers.items()
        ]
        print_json({"jobs": jobs})
    for id, answer in answers.items():
        if id in refused:
            print(f"sidequest: {refused[id]}", file=sys.stderr)
        elif not as_json:
            print(f"{id} {answer}")
    return FAILED if refused else DONE


# Enqueueing


def _enqueue(args: argparse.Namespace) -> int:
    positional, keywords = args.arguments
    call = sidequest.call_by_name(args.name, *positional, **keywords)
    options = {word: getattr(args, word) for word in ("queue", "delay", "priority", "tags")}
    given = {word: value for word, value in options.items() if value is not None}
    id = asyncio.run(_enqueued(connection.url_of(args), call, given))
    if args.json:
        print_json({"id": id, "name": args.name})
    else:
        print(id)
    return DONE


async def _enqueued(url: str, call: sidequest.JobCall[Any], options: Mapping[str, Any]) -> int:
    """The id. A file that does not exist is created; tables that are missing elsewhere are not."""
    async with connection.make(url, engine="off", migrate=connection.missing(url)) as sq:
        return (await sq.enqueue(call, **options)).id
