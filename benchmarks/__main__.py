"""How fast Sidequest is on this machine: `python -m benchmarks` (or `nox -s bench`).

Absolute figures move with the machine and with what else runs there: read the ratios, each of which
is of neighbouring turns. `--json FILE` keeps everything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import drains, enqueues, idle, jobs, latency, starting, versus
from benchmarks.bridge import bridge
from benchmarks.databases import NAMES, Place, places
from benchmarks.figures import Collected, Figures
from benchmarks.machine import description
from benchmarks.observers import observer


class Workload(NamedTuple):
    name: str
    run: Callable[[str], Awaitable[Figures]]
    """Takes the URL of an empty database."""
    times: int


def workloads(count: int, rows: int, rounds: int) -> Sequence[Workload]:
    """Those that compare take their rounds themselves."""
    return (
        Workload("pipeline against the prototype", lambda url: versus.pipeline(url, rows, rounds), 1),
        Workload("one job against the prototype", lambda url: versus.one_at_a_time(url, min(rows, 20_000), rounds), 1),
        Workload("inserts against the prototype", lambda url: versus.inserts(url, rounds), 1),
        Workload("enqueues against the driver", lambda url: enqueues.enqueues(url, rounds), 1),
        Workload("idle engine", lambda url: idle.idle(url, rows), 1),
        Workload("latency, own engine", lambda url: latency.from_owner(url, jobs.async_started_at, 200), rounds),
        Workload("latency, another process", lambda url: latency.from_another_process(url, 200), rounds),
        Workload("latency, own engine, sync job", lambda url: latency.from_owner(url, jobs.started_at, 200), rounds),
        Workload("drain of sync no-ops", lambda url: drains.drain(url, jobs.sync_noop, count), rounds),
        Workload("drain of async no-ops", lambda url: drains.drain(url, jobs.async_noop, count), rounds),
        Workload("start-up", starting.start_up, rounds),
        Workload("recovery from a crash", starting.recovery, rounds),
    )


def without_database(count: int, rounds: int) -> Sequence[Workload]:
    return (
        Workload("bridge alone, sync", lambda _: bridge(jobs.sync_noop, count), rounds),
        Workload("start of workers", starting.workers, rounds),
        Workload("bridge alone, async", lambda _: bridge(jobs.async_noop, count), rounds),
    )


async def measure(where: Sequence[Place], plan: Sequence[Workload], rounds: int, collected: Collected) -> None:
    """Each round goes over all databases, so that an unquiet minute does not strike one of them alone."""
    for number in range(rounds):
        for workload in plan:
            for place in where:
                if number < workload.times:
                    with place.empty() as url:
                        collected.add(place.name, workload.name, await workload.run(url))


async def facts(where: Sequence[Place]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for place in where:
        with place.empty() as url:
            async with observer(url) as server:
                found[place.name] = await server.facts()
    return found


async def main(options: argparse.Namespace) -> None:
    collected, machine = Collected(), description()
    print(*(f"{name} {value}" for name, value in machine.items()), sep=", ")
    with places(options.databases, options.url) as where:
        servers = await facts(where)
        for name, settings in servers.items():
            print(f"{name}:", ", ".join(f"{setting} {value}" for setting, value in settings.items()))
        plan = [work for work in workloads(options.jobs, options.rows, options.rounds) if options.only in work.name]
        await measure(where, plan, options.rounds, collected)
    for work in without_database(options.jobs, options.rounds):
        if options.only in work.name:
            for _ in range(work.times):
                collected.add("no database", work.name, await work.run(""))
    collected.show()
    if options.json is not None:
        asked = {"jobs": options.jobs, "rows": options.rows, "rounds": options.rounds}
        found = {"machine": machine, "databases": servers, "asked": asked, "figures": collected.to_json()}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--databases", type=_names, help=f"start private servers: {', '.join(NAMES)}, or all (default sqlite)")
    parser.add_argument("--url", action="append", default=[], help="a server that runs; may be given more than once")
    parser.add_argument(
        "--rows", type=int, help="waiting jobs, and as many finished ones (default 100 000; with --peers 1 000 000)"
    )
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs per drain (default 20 000)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured (default 3)")
    parser.add_argument("--only", default="", help="run the workloads whose name contains this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    peers = parser.add_argument_group("side by side with other systems")
    peers.add_argument("--peers", nargs="?", const="all", help="Sidequest and these: names with commas between, or all")
    peers.add_argument("--modes", type=lambda text: text.split(","), help="default, tuned, …; all of each system if not given")
    peers.add_argument("--plot", type=Path, help="draw the medians to this SVG file")
    options = parser.parse_args()
    options.rows = options.rows or (100_000 if options.peers is None else 1_000_000)
    if options.databases is None and options.peers is None:
        options.databases = () if options.url else ("sqlite",)
    return options


def _names(text: str) -> tuple[str, ...]:
    names = NAMES if text == "all" else tuple(text.split(","))
    if unknown := set(names) - {*NAMES}:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}, and all")
    return names


if __name__ == "__main__":
    chosen = _options()
    if chosen.peers is None:
        asyncio.run(main(chosen))
    else:
        from benchmarks.peers import run  # needs more than the others do

        run.run(chosen)
