"""How fast Sidequest is on this machine: `python -m benchmarks` (or `nox -s bench`).

Every workload runs several times, alternating with the others, and the medians are shown: absolute
figures move with the machine, so read the ratios. `--json FILE` keeps everything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import sidequest
from benchmarks import jobs, workloads
from benchmarks.workloads import Figures

Workload = Callable[[str], Awaitable[Figures]]


def all_workloads(count: int) -> dict[str, Workload]:
    return {
        "drain of sync no-ops": lambda url: workloads.drain(url, jobs.sync_noop, count),
        "drain of async no-ops": lambda url: workloads.drain(url, jobs.async_noop, count),
        "latency, sync": lambda url: workloads.latency(url, jobs.started_at, 200),
        "latency, async": lambda url: workloads.latency(url, jobs.async_started_at, 200),
        "start-up": workloads.start_up,
        "bridge alone, sync": lambda url: workloads.bridge(jobs.sync_noop, count),
        "bridge alone, async": lambda url: workloads.bridge(jobs.async_noop, count),
        "store alone": lambda url: workloads.store(url, count),
    }


async def measure(count: int, rounds: int, only: str) -> dict[str, dict[str, list[float]]]:
    """The figures of each workload, round by round."""
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, workload in all_workloads(count).items():
            if only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                for figure, value in (await workload(f"sqlite:///{folder}/bench.db")).items():
                    figures.setdefault(name, {}).setdefault(figure, []).append(value)
    return figures


def show(figures: dict[str, dict[str, list[float]]]) -> None:
    for name, values in figures.items():
        print(f"\n{name}")
        for figure, runs in values.items():
            print(f"  {figure:26}{median(runs):>12,.2f}   ({min(runs):,.2f} to {max(runs):,.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs per drain (default 20 000)")
    parser.add_argument("--rounds", type=int, default=3, help="times each workload runs (default 3)")
    parser.add_argument("--only", default="", help="run the workloads whose name contains this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    machine = {
        "sidequest": sidequest.__version__,
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "jobs": options.jobs,
        "rounds": options.rounds,
    }
    figures = asyncio.run(measure(options.jobs, options.rounds, options.only))
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    show(figures)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
