"""EVERY PROCESS. Places on a job's way where a test may make this process die, stand still or fail.

`SIDEQUEST_FAILPOINTS="claim.after_commit=exit:9@3,end.before_write=sleep:5"` names points, what
happens there, and at which hit of this process (every hit, if that is left out):

    exit:CODE       the process ends with that code, as if it had crashed
    kill            the process kills itself with SIGKILL
    stop            the process stands still (SIGSTOP) until somebody lets it go on
    sleep:SECONDS   this place takes that long; where it is a coroutine, the others go on
    raise:ERROR     this place fails with that error of Python or of Sidequest

Without the variable, and for points that it does not name, nothing happens and nothing is counted.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from sidequest import errors
from sidequest.errors import ConfigError

VARIABLE = "SIDEQUEST_FAILPOINTS"
ENTRY = re.compile(r"(?P<point>[^=]*)=(?P<action>[a-z]+)(?::(?P<argument>[^@]*))?(?:@(?P<hit>\d+))?")

POINTS: Mapping[str, str] = {
    # app
    "enqueue.before_send": "the app is about to insert jobs",
    "enqueue.after_commit": "the jobs are committed, and nobody was called for them",
    "migrate.before_step": "a step of the schema is about to begin",
    "migrate.before_commit": "a step is made, and not yet noted as applied",
    "migrate.after_step": "a step is applied, and the next one has not begun",
    "app.before_engine": "the tables fit, and the engine process is about to be given its orders",
    # engine
    "engine.before_open": "the engine has its orders, and is about to open the database",
    "engine.before_ready": "the engine is registered and its predecessor's jobs are released, and the app has not heard of it",
    "claim.before_commit": "jobs are about to be claimed",
    "claim.after_commit": "jobs are claimed, and nobody here knows of them",
    "start.before_send": "claimed jobs are about to be sent to a worker",
    "start.after_send": "they were sent",
    "running.before_write": "`running` is about to be written",
    "running.after_write": "`running` is written",
    "end.before_write": "ends are about to be written",
    "end.after_write": "ends are written, and nobody was told",
    "heartbeat.before_beat": "a heartbeat is about to be written",
    "release.before_write": "jobs of a claim whose answer was lost are about to be given back",
    "release.after_write": "they are given back",
    "rescue.before_write": "jobs of a dead engine are about to be given back",
    "rescue.after_write": "a batch of them is given back, and the dead engine is still registered",
    "cancel.before_halt": "cancel requests were read, and nobody was asked to stop",
    "shutdown.before_release": "the engine claims no more, and holds jobs that have not started",
    "shutdown.before_wait": "they are on their way back, and running jobs may end",
    "shutdown.before_halt": "running jobs have had their time, and are about to be stopped",
    "shutdown.before_flush": "no job runs, and the last ends may not be written",
    "shutdown.before_forget": "all is written, and the engine is still registered",
    # worker
    "worker.before_hello": "a worker has imported the job modules and has not said so",
    "worker.before_run": "a job is about to be called",
    "worker.after_run": "a job has ended, and its end was not sent",
    "worker.after_send": "its end was sent",
}
"""Every point, and where its process is then."""


class _Plan(NamedTuple):
    """What happens at a point."""

    action: str
    argument: str
    hit: int | None
    """The hit at which it happens, counted from 1; None: at each."""


class Failpoints:
    """The points that a text names. Raises ConfigError for one that cannot be meant."""

    def __init__(self, text: str) -> None:
        self._plans = dict(_read(entry.strip()) for entry in text.split(",") if entry.strip())
        self._hits: Counter[str] = Counter()

    def hit(self, point: str) -> None:
        """Do what is planned for this hit of the point. A sleep holds up the whole thread."""
        seconds = self._act(point)
        if seconds:
            time.sleep(seconds)

    async def reach(self, point: str) -> None:
        """The same in a coroutine: a sleep lets the others go on."""
        seconds = self._act(point)
        if seconds:
            await asyncio.sleep(seconds)

    def _act(self, point: str) -> float:
        """Seconds to sleep."""
        plan = self._plans.get(point)
        if plan is None:
            return 0.0
        self._hits[point] += 1
        if plan.hit not in (None, self._hits[point]):
            return 0.0
        match plan.action:
            case "exit":
                os._exit(int(plan.argument))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise _error(plan.argument)(f"failpoint {point}")
            case _:
                return float(plan.argument)
        return 0.0


def _read(entry: str) -> tuple[str, _Plan]:
    found = ENTRY.fullmatch(entry)
    if found is None:
        raise ConfigError(
            f"{VARIABLE}: {entry!r} is not of the form point=action:argument@hit, such as claim.after_commit=exit:9@3"
        )
    point, action, argument = found["point"], found["action"], found["argument"] or ""
    if point not in POINTS:
        near = get_close_matches(point, POINTS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(POINTS)}"
        raise ConfigError(f"{VARIABLE}: there is no point {point!r}{hint}")
    if not _fits(action, argument):
        raise ConfigError(
            f"{VARIABLE}: {entry!r}: the actions are exit:CODE (0 to 255), kill, stop, sleep:SECONDS, and raise:ERROR with an "
            "error of Python or of Sidequest"
        )
    hit = None if found["hit"] is None else int(found["hit"])
    if hit == 0:
        raise ConfigError(f"{VARIABLE}: {entry!r}: hits are counted from 1")
    return point, _Plan(action, argument, hit)


def _fits(action: str, argument: str) -> bool:
    match action:
        case "exit":
            return argument.isdecimal() and int(argument) < 256
        case "kill" | "stop":
            return not argument
        case "sleep":
            return re.fullmatch(r"\d+(\.\d+)?", argument) is not None
        case "raise":
            return _known_error(argument) is not None
        case _:
            return False


def _known_error(name: str) -> type[Exception] | None:
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _error(name: str) -> type[Exception]:
    found = _known_error(name)
    assert found is not None
    return found


def _nothing(point: str) -> None:
    """No point is named: there is nothing to do."""


async def _nothing_too(point: str) -> None:
    """Where it is awaited."""


_named = Failpoints(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
hit: Callable[[str], None] = _nothing if _named is None else _named.hit
"""Call it as `failpoints.hit("worker.before_run")`, in code that does not wait."""
reach: Callable[[str], Awaitable[None]] = _nothing_too if _named is None else _named.reach
"""Await it as `failpoints.reach("claim.after_commit")`, in coroutines."""
