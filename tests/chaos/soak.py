"""The soak: many hosts, many jobs, and everything that can happen to processes and databases, at random.

    python -m tests.chaos.soak --database postgres --seconds 60 --engines 8 --jobs 50000

Each host is an app with an engine and workers. Actors kill apps, engines, workers and whole hosts, stop
and restart apps as a deploy does, freeze engines for less than a lease's life, and kill, restart and
freeze the database server. Then they rest, what is left of the jobs is worked off, all hosts are
stopped, and the checker looks: every job ended, no two runs overlapped, no row is held, no process and no
file is left. The last line is the result as JSON; the exit code is 0 when all promises were kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import uuid4

from sidequest import Sidequest
from sidequest.config import DatabaseURL
from sidequest.errors import SidequestError
from sidequest.wire.wake_socket import places
from tests.chaos import chaos_jobs as jobs
from tests.chaos.conftest import EVERYWHERE, all_records, unfinished
from tests.chaos.hosts import Host, send
from tests.chaos.truth import Report, TruthLog, check
from tests.integration.waiting import MARK, marked_processes
from tests.servers.plugin import KINDS
from tests.servers.process import Reaper
from tests.servers.server import Server

SETTINGS = {
    "heartbeat_interval": 1.0, "lease_life": 8.0, "rescue_interval": 1.0, "shutdown_timeout": 5.0, "kill_grace": 1.0,
    "max_workers": 2, "max_concurrent_jobs": 50, "migrate": False, "undelayed": True, "log_level": "WARNING",
}  # fmt: skip
BATCH = 100
DEADLINE = 240.0
"""Seconds that the rest of the jobs may take when nothing happens any more."""


@dataclass
class Soak:
    """One soak, from the first host to the last look."""

    url: str
    server: Server | None
    folder: Path
    chance: Random
    options: argparse.Namespace
    mark: str
    hosts: list[Host] = field(default_factory=list[Host])
    enqueued: list[int] = field(default_factory=list[int])
    blows: list[float] = field(default_factory=list[float])
    acts: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    """Enqueues that were told that the database is away; whether they were committed is not known."""
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    produced: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> tuple[Report, Mapping[str, object]]:
        os.environ[MARK] = f"{self.mark}.client."
        truth = TruthLog(self.folder / "truth")
        began = time.monotonic()
        async with Sidequest(self.url, engine="off") as sq:
            for n in range(self.options.engines):
                self.hosts.append(Host(f"host{n}", self.url, self.mark, self.folder, truth.path, **SETTINGS))
                self.hosts[-1].start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._produce(sq))
                tasks.create_task(self._trouble())
                tasks.create_task(self._keep_up())
            troubled = time.monotonic() - began
            late = await self._finish(sq)
            finished = time.monotonic() - began
            slow_stops = await self._stop_all()
            records = await all_records(sq)
            engines = await sq._store.list_engines()
            await asyncio.sleep(1.0)
            again = {record.id: record for record in await all_records(sq)}
        report = check(self.enqueued, records, truth, jobs.EXPECTED, blows=self.blows, may_charge=True)
        report.problems += late + slow_stops
        report.problems += [f"job {record.id} changed after its end" for record in records if again.get(record.id) != record]
        left, sockets = await self._left_behind()
        report.problems += [f"process {pid} is left: {command}" for pid, command in left.items()]
        report.problems += [f"engine {engine.id} is still registered" for engine in engines]
        report.problems += [f"file {socket} is left" for socket in sockets]
        return report, {
            "database": self.options.database, "engines": self.options.engines, "seconds_of_trouble": round(troubled, 1),
            "seconds": round(finished, 1), "acts": dict(self.acts), "enqueues_refused": self.refused, **report.numbers(),
            "processes_left": len(left), "files_left": len(sockets), "engines_left": len(engines),
        }  # fmt: skip

    # Producing

    async def _produce(self, sq: Sidequest) -> None:
        """All the jobs, evenly over the first four fifths of the time."""
        pause = self.options.seconds * 0.8 / max(1, self.options.jobs / BATCH)
        for _ in range(0, self.options.jobs, BATCH):
            began = time.monotonic()
            await self._enqueue(sq, [self._some_job() for _ in range(BATCH)])
            await asyncio.sleep(max(0.0, pause - (time.monotonic() - began)))
        self.produced.set()

    async def _enqueue(self, sq: Sidequest, calls: Sequence[object]) -> None:
        while True:
            try:
                self.enqueued += [handle.id for handle in await sq.enqueue_many(calls)]
            except SidequestError:
                self.refused += 1
                await asyncio.sleep(0.2)
            else:
                return

    def _some_job(self) -> object:
        match self.chance.random():
            case x if x < 0.45:
                return jobs.glance.call()
            case x if x < 0.80:
                return jobs.touch.call()
            case x if x < 0.90:
                return jobs.nap.call(self.chance.uniform(0.05, 0.5))
            case x if x < 0.95:
                return jobs.flaky.call()
            case x if x < 0.98:
                return jobs.fails.call()
            case x if x < 0.995:
                return jobs.work.options(max_attempts=20).call(self.chance.uniform(0.01, 0.1))
            case x if x < 0.998:
                return jobs.nap.call(3.0)
            case _:
                return jobs.crashes.call()

    # Trouble

    async def _trouble(self) -> None:
        end = time.monotonic() + self.options.seconds
        next_on_database = time.monotonic() + self.options.seconds * 0.25
        while time.monotonic() < end:
            await asyncio.sleep(self.chance.uniform(0.2, 1.0))
            if self.server is not None and time.monotonic() > next_on_database:
                next_on_database = time.monotonic() + self.options.seconds * 0.25
                await self._hit_database(self.server)
            else:
                await self._hit_host(self.chance.choice(self.hosts))
        self.calm.set()

    async def _hit_host(self, host: Host) -> None:
        act, done = self.chance.choice(
            [
                ("kill engine", self._kill_one(lambda: host.engines)),
                ("kill worker", self._kill_one(lambda: host.workers)),
                ("kill app", self._kill_one(lambda: host.app)),
                ("kill host", self._kill_host(host)),
                ("stop app", self._stop_app(host)),
                ("freeze engine", self._freeze_one(lambda: host.engines)),
                ("freeze worker", self._freeze_one(lambda: host.workers)),
            ]
            if not self.options.acts
            else [(act, self._act(act, host)) for act in self.options.acts.split(",")]
        )
        if await done():
            self.acts[act] += 1

    def _act(self, act: str, host: Host) -> Callable[[], Awaitable[bool]]:
        who, _, whom = act.partition(" ")
        pids = {"engine": lambda: host.engines, "worker": lambda: host.workers, "app": lambda: host.app}
        if act == "kill host":
            return self._kill_host(host)
        if act == "stop app":
            return self._stop_app(host)
        return self._kill_one(pids[whom]) if who == "kill" else self._freeze_one(pids[whom])

    def _kill_one(self, of: Callable[[], Sequence[int]]) -> Callable[[], Awaitable[bool]]:
        async def act() -> bool:
            pids = of()
            self.blows.append(time.monotonic())
            return bool(pids) and send(self.chance.choice(pids), signal.SIGKILL)

        return act

    def _freeze_one(self, of: Callable[[], Sequence[int]]) -> Callable[[], Awaitable[bool]]:
        """For less than a lease's life: after that its jobs would rightly run elsewhere."""

        async def act() -> bool:
            pids = of()
            if not pids or not send(pid := self.chance.choice(pids), signal.SIGSTOP):
                return False
            await asyncio.sleep(self.chance.uniform(0.5, 2.0))
            send(pid, signal.SIGCONT)
            return True

        return act

    def _kill_host(self, host: Host) -> Callable[[], Awaitable[bool]]:
        async def act() -> bool:
            self.blows.append(time.monotonic())
            await asyncio.to_thread(host.die)
            return True

        return act

    def _stop_app(self, host: Host) -> Callable[[], Awaitable[bool]]:
        async def act() -> bool:
            there = bool(host.app)
            host.terminate()
            return there

        return act

    async def _hit_database(self, server: Server) -> None:
        act = self.chance.choice(["restart database", "kill database", "freeze database"])
        self.acts[act] += 1
        if act == "freeze database":
            server.freeze()
            await asyncio.sleep(self.chance.uniform(1.0, 3.0))
            server.thaw()
            return
        await asyncio.to_thread(server.kill if act == "kill database" else server.stop)
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        await asyncio.to_thread(server.start)

    async def _keep_up(self) -> None:
        """Start again the hosts whose app has gone, as whoever runs them does."""
        while not (self.calm.is_set() and self.produced.is_set()):
            for host in self.hosts:
                if host.exit_code is not None and not host.engines:
                    host.start()
            await asyncio.sleep(0.5)

    # The end

    async def _finish(self, sq: Sidequest) -> list[str]:
        """Wait until all jobs have ended; what is wrong when they do not."""
        calm_since = time.monotonic()
        deadline = calm_since + DEADLINE
        rest = dead = -1
        while time.monotonic() < deadline:
            for host in self.hosts:
                if host.exit_code is not None and not host.engines:
                    host.start()
            with suppress(SidequestError):
                rest = await unfinished(sq)
                dead = len(await sq._store.list_engines()) - len(self.hosts)
                # dead engines are forgotten after a lease's life, by those who live: who starts has not counted them yet
                if not rest and dead <= 0 and time.monotonic() > calm_since + SETTINGS["lease_life"]:
                    return []
            await asyncio.sleep(0.2)
        return [
            f"{rest} jobs have not ended {DEADLINE:g} s after the trouble was over, or {dead} dead engines are not forgotten"
        ]

    async def _stop_all(self) -> list[str]:
        for host in self.hosts:
            host.terminate()
        deadline = time.monotonic() + SETTINGS["shutdown_timeout"] + 10
        while time.monotonic() < deadline and any(host.exit_code is None for host in self.hosts):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        slow = [f"{host.name} has not stopped:\n{host.words()}" for host in self.hosts if host.exit_code is None]
        for host in self.hosts:
            if host.exit_code is None:
                host.die()
        return slow

    async def _left_behind(self) -> tuple[Mapping[int, str], Sequence[str]]:
        """Processes of ours that do not end by themselves within ten seconds, and sockets in the runtime directories."""
        deadline = time.monotonic() + 10
        while (left := marked_processes(self.mark)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        return left, sockets_of(self.url)


def sockets_of(url: str) -> list[str]:
    """The wake-up sockets of this database's engines that the next engine would not remove.

    One that was killed within a second of its birth is too young for the engine that comes right after it.
    """
    from sidequest.wire import wake_socket

    for place in filter(Path.is_dir, places()):
        wake_socket.sweep(place)
    prefix = wake_socket._prefix(DatabaseURL.parse(url).identity)
    return [str(path) for place in places() if place.is_dir() for path in place.iterdir() if path.name.startswith(prefix)]


def main() -> int:
    options = arguments()
    reaper = Reaper()
    folder = Path(tempfile.mkdtemp(prefix="sidequest-soak-"))
    server: Server | None = None
    mark = uuid4().hex
    try:
        url = f"sqlite:///{folder}/jobs.db"
        if options.database != "sqlite":
            [kind] = [kind for kind in KINDS if kind.name == options.database]
            server = kind(reaper)
            server.open()
            url = server.create_database()
        soak = Soak(url, server, folder, Random(options.seed), options, mark)
        report, numbers = asyncio.run(soak.run())
        say(report, numbers, folder)
        return 1 if report.problems else 0
    finally:
        for pid in marked_processes(mark):
            send(pid, signal.SIGKILL)
        reaper.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def say(report: Report, numbers: Mapping[str, object], folder: Path) -> None:
    for name, value in numbers.items():
        print(f"{name:22} {value}")
    for problem in report.problems[:40]:
        print("PROBLEM:", problem)
    if report.problems:
        print(f"the truth log and the hosts' logs are in {folder} (with --keep)")
    print("soak:", json.dumps(numbers), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description="Everything at once, for a while.")
    parser.add_argument("--database", choices=EVERYWHERE, default="postgres")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long there is trouble; default: %(default)g")
    parser.add_argument("--engines", type=int, default=8, help="hosts with an engine each; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=50_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what happens when; default: always another")
    parser.add_argument("--acts", default="", help="only these, with commas between: 'kill engine,freeze worker'")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    options = parser.parse_args()
    print("seed", options.seed)
    return options


if __name__ == "__main__":
    sys.exit(main())
