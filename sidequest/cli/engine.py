"""CLI. `sidequest engine MODULE…`: the engine alone, for hosts that run jobs and nothing else.

The first signal drains. The second one stops running jobs, which go back to waiting. The third one
kills: their jobs go back to waiting when another engine notices.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sidequest
from sidequest.cli import connection
from sidequest.cli.arguments import Commands, add_url, command, integer
from sidequest.cli.failures import DONE, FAILED, WrongUse
from sidequest.cli.output import drop_output
from sidequest.config import LOG_LEVELS

LAST_WORDS = {
    0: "the engine has stopped",
    1: "the engine has stopped",
    2: "the engine was stopped in a hurry; its jobs have gone back to waiting",
    3: "killed; its jobs go back to waiting when another engine notices",
}
"""What is said at the end, by how many signals there were."""


def add(commands: Commands) -> None:
    parser = command(commands, "engine", run, "run jobs until SIGTERM or SIGINT; a second signal stops running jobs")
    parser.add_argument("modules", metavar="MODULE", nargs="+", help="a module that defines jobs, such as shop.jobs")
    add_url(parser)
    parser.add_argument("--queues", help="the queues to serve: names, prefixes, exclusions, as in --queues=mail,img*,-img.slow")
    parser.add_argument("--max-workers", type=integer("max-workers", 1, 1_000), metavar="N", help="worker processes at most")
    parser.add_argument("--max-concurrent-jobs", type=integer("max-concurrent-jobs", 1, 100_000), metavar="N")
    parser.add_argument("--log-level", type=str.upper, choices=LOG_LEVELS)
    parser.add_argument("--no-migrate", action="store_true", help="do not create or update the tables")


def run(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(Path.cwd()))
    url = connection.url_of(args)
    sq = connection.make(url, engine="process", modules=args.modules, **_settings(args))
    for module in args.modules:
        refuse_unknown(module)
    logging.basicConfig(level=args.log_level or logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return asyncio.run(_Keeper(sq, args.modules).run())


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given: the rest is left to the environment and the defaults."""
    given = {
        "queues": None if args.queues is None else [part.strip() for part in args.queues.split(",") if part.strip()],
        "max_workers": args.max_workers,
        "max_concurrent_jobs": args.max_concurrent_jobs,
        "log_level": args.log_level,
        "migrate": False if args.no_migrate else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def refuse_unknown(module: str) -> None:
    """Raise WrongUse unless the module can be found. Imports the packages above it, not the module."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise WrongUse(f"MODULE: {module!r} is no module name such as shop.jobs")
    if module.endswith(".py") and Path(module).exists():
        raise WrongUse(f"MODULE: {module!r} is a file; name the module: {module.removesuffix('.py')}")
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        raise WrongUse(f"MODULE: {module} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # the packages above are the user's code: they may raise anything
        raise WrongUse(f"MODULE: {module} cannot be imported: {type(error).__name__}: {error}") from None
    if found is None:
        raise WrongUse(f"MODULE: there is no module {module!r} in {Path.cwd()} or on the Python path")


class _Keeper:
    """Starts the engine, waits for a signal, lets it drain; hurries it at a second signal, kills it at a third."""

    def __init__(self, sq: sidequest.Sidequest, modules: Sequence[str]) -> None:
        self._sq = sq
        self._modules = modules
        self._signaled = asyncio.Event()
        self._signals = 0

    async def run(self) -> int:
        self._listen()
        starting = asyncio.create_task(self._sq.start())
        await self._signal_or(starting)
        if starting.done():
            await starting
            await self._until_signal()
        await self._stop()
        await asyncio.wait([starting])
        _say(LAST_WORDS[min(self._signals, 3)])
        return FAILED if self._signals > 1 else DONE

    async def _until_signal(self) -> None:
        if self._signaled.is_set():
            return
        _say(f"engine {self._sq.engine_id} is ready (pid {self._sq.engine_pid}): {', '.join(self._modules)}")
        ending = asyncio.create_task(self._sq.wait())
        await self._signal_or(ending)
        if ending.done():
            await ending  # it ended by itself: raises why
        ending.cancel()

    async def _signal_or(self, task: asyncio.Task[Any]) -> None:
        """Return at the first signal, or when the task has ended."""
        signaled = asyncio.create_task(self._signaled.wait())
        await asyncio.wait([signaled, task], return_when=asyncio.FIRST_COMPLETED)
        signaled.cancel()

    async def _stop(self) -> None:
        stopping = asyncio.create_task(self._sq.stop())
        await asyncio.wait([stopping])
        if self._signals < 2:
            await stopping

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(number, self._signal)

    def _signal(self) -> None:
        self._signals += 1
        self._signaled.set()
        if self._signals == 2:
            self._sq.hurry()
        elif self._signals == 3:
            self._sq.kill()


def _say(line: str) -> None:
    """For the log; an engine whose log reader has gone works on."""
    try:
        print(f"sidequest: {line}", flush=True)
    except OSError:
        drop_output()
