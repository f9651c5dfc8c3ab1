"""HARNESS. The run: every workload with every contestant, in turns, round by round.

A round measures all contestants before the next one begins, and each round begins with another
contestant, so that an unquiet minute does not strike the same one every time.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import description
from benchmarks.peers import venvs
from benchmarks.peers.cell import Cell, CellFailed
from benchmarks.peers.contestants import Contestant, System
from benchmarks.peers.plan import WORKLOADS
from benchmarks.peers.results import Results, show
from benchmarks.peers.stores import Store, stores
from benchmarks.peers.workloads.w3_drain import TooShort
from benchmarks.peers.workloads.workload import Memory, Workload
from tests.servers.process import Reaper

OURS = ("sidequest", "bare")
"""Always there: ours, and the drivers without a queue; the others are compared with them."""
PEERS = ("pgqueuer", "procrastinate", "oban", "chancy", "saq", "taskiq", "dramatiq", "celery", "huey")
TRIES = 4
"""How often a drain may turn out too short before that is a failure."""


@dataclass
class Run:
    environments: Mapping[str, venvs.Environment]
    stores: Mapping[str, Store]
    results: Results
    rows: int
    """Finished rows of the workload that has a past."""
    memories: dict[tuple[str, str], Memory] = field(default_factory=dict[tuple[str, str], Memory])

    def measure_all(self, plan: Sequence[Workload], contestants: Sequence[Contestant], number: int) -> None:
        """A round."""
        for workload in plan:
            taking_part = [one for one in contestants if workload.fits(one) and one.takes_part(workload.key)]
            for contestant in _rotated(taking_part, number):
                if number == 0 or not workload.once:
                    self.measure(workload, contestant, number)

    def measure(self, workload: Workload, contestant: Contestant, number: int) -> None:
        """Once; what goes wrong is noted, and the run goes on."""
        began = time.monotonic()
        memory = self.memories.setdefault((workload.key, contestant.name), {"rows": self.rows})
        try:
            values = self._measure(workload, contestant, memory)
        except Exception as error:  # whatever a peer, its client or its database raises: the others are still to be measured
            why = str(error) if isinstance(error, CellFailed) else f"{type(error).__name__}: {error}"
            self.results.fail(workload, contestant, number, why)
            text = f"failed: {why}"
        else:
            self.results.add(workload, contestant, number, values)
            text = ", ".join(f"{name} {value:,.4g}" for name, value in values.items() if value is not None)
        print(f"round {number} {workload.key:9} {contestant.name:34} {text}  [{time.monotonic() - began:.0f} s]", flush=True)

    def _measure(self, workload: Workload, contestant: Contestant, memory: Memory) -> Any:
        for _ in range(TRIES):
            environment, store = self.environments[contestant.system.name], self.stores[contestant.database]
            with Cell(contestant, environment, store) as cell:
                try:
                    return workload.measure(cell, memory)
                except TooShort:
                    continue
        raise CellFailed(f"it is too fast to be measured: {memory.get('jobs')} jobs are over at once")


def run(options: Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as with Ctrl-C: everything is closed on the way out
    results = Results()
    systems = list(_systems(options))
    plan = [workload for workload in WORKLOADS if options.only.lower() in workload.key.lower()]
    environments = dict(_environments(systems, results))
    wanted = {database for system in systems for database in system.databases if database in _databases(system, options)}
    with closing(Reaper()) as watcher, stores(sorted(wanted), watcher, results.skip) as found:
        running = Run(environments, found, results, options.rows)
        contestants = [
            Contestant(system, database, mode)
            for system in systems
            for database in _databases(system, options)
            for mode in system.modes
            if system.name in environments and database in found and _wanted(system, mode, options)
        ]
        servers = {name: store.facts() for name, store in found.items()}
        try:
            for number in range(options.rounds):
                running.measure_all(plan, contestants, number)
                _write(options, results, systems, environments, servers)
        finally:  # a run that is interrupted says what it has
            _write(options, results, systems, environments, servers)
            show(results, plan)
            if options.plot is not None:
                from benchmarks.peers.plot import draw  # noqa: PLC0415 - takes a second to import

                draw(results.values, plan, options.plot)


def _systems(options: Namespace) -> Iterator[System]:
    names = PEERS if options.peers == "all" else tuple(options.peers.split(","))
    for name in dict.fromkeys((*OURS, *names)):
        if name not in (*OURS, *PEERS):
            raise SystemExit(f"--peers: there is no {name}; there are {', '.join(PEERS)}, and all")
        yield import_module(f"benchmarks.peers.systems.{name}").SYSTEM


def _databases(system: System, options: Namespace) -> Sequence[str]:
    """Of ours those that were asked for; of a peer all that it can."""
    if system.name not in OURS:
        return system.databases
    return [name for name in system.databases if name in (options.databases or ("postgres",))]


def _wanted(system: System, mode: str, options: Namespace) -> bool:
    """The drivers are there whatever modes were asked for: they have none of these names."""
    return not options.modes or mode in options.modes or "pipeline" in system.kinds


def _environments(systems: Sequence[System], results: Results) -> Iterator[tuple[str, venvs.Environment]]:
    for system in systems:
        try:
            yield system.name, venvs.environment(system)
        except venvs.Missing as error:
            results.skip(system.name, str(error))


def _rotated(contestants: Sequence[Contestant], number: int) -> Sequence[Contestant]:
    begin = number % len(contestants) if contestants else 0
    return [*contestants[begin:], *contestants[:begin]]


def _write(
    options: Namespace,
    results: Results,
    systems: Sequence[System],
    environments: Mapping[str, venvs.Environment],
    servers: Mapping[str, Any],
) -> None:
    """Also after each round, so that a run that is killed leaves something."""
    if options.json is None:
        return
    told = {
        system.name: {
            "versions": environments[system.name].versions(),
            "modes": {
                name: {"says": mode.says, "workers": mode.workers, "environment": mode.environment}
                for name, mode in system.modes.items()
            },
            "about": system.about,
        }
        for system in systems
        if system.name in environments
    }
    asked = {"peers": options.peers, "only": options.only, "rounds": options.rounds}
    found = {"machine": description(), "servers": servers, "systems": told, "asked": asked, **results.to_json()}
    Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
