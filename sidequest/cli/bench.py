"""CLI. `sidequest bench`: how fast Sidequest is on this machine and this database.

What it does to the database is said before, and undone whatever happens: it works in tables of its own,
and the end of the run, a signal, an error, or the next run after a kill removes them. The first signal
stops it and removes them, the second one asks for patience, the third one leaves at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import textwrap
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import sidequest
from sidequest.cli import connection
from sidequest.cli.arguments import Commands, add_common, command, integer, seconds
from sidequest.cli.bench_figures import HEAD, TITLES, Figures, remarks, rounded, row
from sidequest.cli.bench_tables import Ground, ground, new_name, tables
from sidequest.cli.failures import DONE, Failed
from sidequest.cli.output import print_json, print_table, printable, terminal_width
from sidequest.clock import utc_now
from sidequest.config import DatabaseURL, Settings

JOBS = 20_000
SECONDS = 3.0
SHORTEST, LONGEST = 0.05, 60.0
JOB_BYTES = 1_000
"""What a job takes in a table with its indexes and its log, at most."""
LINE = 100
"""Letters in a line of what is said about the figures, where no terminal says how many there may be."""


def add(commands: Commands) -> None:
    parser = command(commands, "bench", run, "measure how fast Sidequest is on this machine and this database")
    add_common(parser)
    what = f"one of these only; may be repeated: {', '.join(TITLES)}"
    parser.add_argument("--only", action="append", choices=tuple(TITLES), metavar="NAME", help=what)
    parser.add_argument(
        "--jobs", type=integer("jobs", 1, 1_000_000), default=JOBS, metavar="N", help="in a measurement at most"
    )
    parser.add_argument("--seconds", type=_span, default=SECONDS, metavar="S", help="that a measurement takes, about")
    parser.add_argument("--yes", action="store_true", help="do not ask before it begins; without a terminal it never does")


def run(args: argparse.Namespace) -> int:
    url = connection.url_of(args)
    names = [name for name in TITLES if args.only is None or name in args.only]
    plan = Plan(url, ground(url), new_name(utc_now()), names, args.jobs, args.seconds)
    connection.make(url, engine="off")  # settings in the environment that are wrong are refused before anything is done
    for line in plan.lines():
        _say(line)
    if not args.yes:
        _ask()
    stoppable = _Stoppable()
    report = asyncio.run(stoppable.run(_bench(plan)))
    if report is None:
        return stoppable.exit_code
    if args.json:
        print_json(report.document())
    else:
        _print(report)
    return DONE


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done."""

    url: str
    where: Ground
    name: str
    names: Sequence[str]
    """Of the measurements."""
    jobs: int
    seconds: float

    def lines(self) -> list[str]:
        """The plan in words, before it begins."""
        megabytes = max(1, round(len(self.names) * self.jobs * JOB_BYTES / 1e6))
        database = DatabaseURL.parse(self.url).shown
        return [
            f"bench works in {database}, in {self.where.describe(self.name)}, and removes what it made",
            "your own tables and jobs are neither read nor changed",
            f"{len(self.names)} measurements of about {self.seconds:g} s and at most {self.jobs:,} jobs each keep the database "
            f"busy meanwhile, and take up to {megabytes:,} MB",
        ]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, and where."""

    plan: Plan
    facts: Mapping[str, str]
    measured: Mapping[str, Figures]
    removed: Sequence[str]
    """What runs that were killed had left."""

    def document(self) -> dict[str, Any]:
        url = DatabaseURL.parse(self.plan.url)
        return {
            **_versions(),
            "url": url.shown,
            "database": {"kind": url.scheme, **self.facts},
            "settings": _settings(self.plan.url),
            "asked": {"measurements": list(self.plan.names), "jobs": self.plan.jobs, "seconds": self.plan.seconds},
            "measured": {name: rounded(figures) for name, figures in self.measured.items()},
            "remarks": remarks(self.measured, self.facts),
            "removed": list(self.removed),
        }


def _versions() -> dict[str, Any]:
    return {
        "sidequest": sidequest.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _settings(url: str) -> dict[str, Any]:
    """Those that decide how fast it is."""
    settings = Settings.collect(url, {})
    return {
        "min_workers": settings.min_workers,
        "max_workers": settings.max_workers,
        "max_concurrent_jobs": settings.max_concurrent_jobs,
        "queue_concurrency": settings.queue_defaults.concurrency,
        "polling_interval": settings.polling_interval.total_seconds(),
    }


def _print(report: Report) -> None:
    document = report.document()
    kind, version, *facts = (f"{name}={value}" for name, value in document["database"].items())
    words = [
        f"sidequest {document['sidequest']}",
        f"Python {document['python']}",
        f"{document['cpus']} CPUs",
        document["platform"],
    ]
    print(printable(", ".join(words)))
    print(printable(f"{kind.partition('=')[2]} {version.partition('=')[2]}: {', '.join(facts)}"))
    print()
    print_table(HEAD, [row(TITLES[name], figures) for name, figures in report.measured.items()])
    for remark in document["remarks"]:
        print()
        print("\n".join(textwrap.wrap(printable(remark), terminal_width() or LINE)))


# The run


async def _bench(plan: Plan) -> Report:
    from sidequest.cli import bench_runs  # noqa: PLC0415 - its jobs must not be known to the other commands

    removed = await _remove_leftovers(plan.where)
    measured: dict[str, Figures] = {}
    async with tables(plan.where, plan.name) as store:
        site = bench_runs.Site(plan.where.url_of(plan.name), store, plan.jobs, plan.seconds)
        facts = await store.facts()
        for name in plan.names:
            _say(f"measuring: {TITLES[name]}")
            measured[name] = await bench_runs.RUNS[name](site)
    return Report(plan, facts, measured, removed)


async def _remove_leftovers(where: Ground) -> list[str]:
    """Remove what runs that were killed have left; their names."""
    removed: list[str] = []
    for name in await where.names():
        if await where.is_over(name):
            await where.remove(name)
            removed.append(name)
            _say(f"removed what a run that was killed had left: {where.describe(name)}")
        else:
            _say(f"another run is under way, or was killed a moment ago: {where.describe(name)} stays as it is")
    return removed


class _Stoppable:
    """Work that a signal cancels, and that then undoes what it has done."""

    def __init__(self) -> None:
        self._signals: list[int] = []

    @property
    def exit_code(self) -> int:
        """As a shell has it for what a signal has ended."""
        return 128 + self._signals[0]

    async def run(self, work: Coroutine[Any, Any, Report]) -> Report | None:
        """What the work gives; None when a signal has stopped it."""
        task = asyncio.create_task(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(number, self._signal, number, task)
        await asyncio.wait([task])
        if task.cancelled() and self._signals:
            _say("stopped; nothing is left in the database")
            return None
        return task.result()

    def _signal(self, number: int, task: asyncio.Task[Report]) -> None:
        self._signals.append(number)
        match len(self._signals):
            case 1:
                _say("stopping, and removing what was made")
                task.cancel()
            case 2:
                _say("still removing it; once more leaves it where it is, for the next run to remove")
            case _:
                self._leave()

    def _leave(self) -> NoReturn:
        os._exit(self.exit_code)


# Talking


def _ask() -> None:
    """Raise Failed unless somebody at a terminal agrees; without a terminal, nobody is asked."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty():
        return
    print("sidequest: go on? [Y/n] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("", "y", "yes") or not answer:
        raise Failed("nothing was done")


def _say(line: str) -> None:
    """To stderr, so that stdout has the figures and nothing else; nobody listening is no reason to fail."""
    with suppress(OSError):
        print(f"sidequest: {printable(line)}", file=sys.stderr, flush=True)


def _span(text: str) -> float:
    span = seconds("seconds")(text).total_seconds()
    if not SHORTEST <= span <= LONGEST:
        raise argparse.ArgumentTypeError(f"seconds must be between {SHORTEST:g} and {LONGEST:g}, not {text!r}")
    return span
