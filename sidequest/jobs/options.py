"""PURE CENTRE. The options of a job: what may be given where, checked once, the nearest wins.

Order: `.options(...)` or keyword arguments at enqueue › decorator or class attribute › the
`job_defaults` of the Sidequest that stores the job › the defaults of `NewJob`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, cast

from sidequest.jobs import checks, codec
from sidequest.jobs.backoff import STRATEGIES
from sidequest.jobs.checks import Seconds

BackoffFunction = Callable[[int, BaseException], Seconds | None]
"""`(attempt, error) → seconds or timedelta; None gives up`. Runs in the worker."""

Exceptions = type[BaseException] | Sequence[type[BaseException]]


class EnqueueOptions(TypedDict, total=False):
    """What `.options(...)` and `enqueue(call, ...)` take. Numbers are seconds."""

    queue: str
    """Default `"default"`."""
    priority: int
    """Higher first, within its queue. Default 0."""
    max_attempts: int
    """Counts the first run. Default 5."""
    timeout: Seconds | None
    """Longest run of one attempt; None (the default) for no limit."""
    kill_grace: Seconds | None
    """From the request to stop until the worker is killed; None for the engine's setting (5)."""
    backoff: Literal["exponential", "fixed"]
    retry_delay: Seconds
    """The base of the backoff. Default 1."""
    delay: Seconds
    """Due this long after being enqueued. Not together with `at`."""
    at: datetime
    """Due at this instant (aware). Not together with `delay`."""
    isolated: bool
    """Alone in its worker process while it runs, also if it is async."""
    tags: Sequence[str]
    meta: Mapping[str, Any]
    """Anything JSON-like to keep with the job; the job reads it as `ctx.meta`."""
    connection: object
    """The caller's own open transaction, of which the job becomes a part: an asyncpg, aiomysql or
    aiosqlite connection, a Motor session, an SQLAlchemy `AsyncSession` or `AsyncConnection`."""


class DefinitionOptions(TypedDict, total=False):
    """What `@job(...)` takes, and the class attributes of a `Job`. Numbers are seconds."""

    name: str
    """The stored name. Default `module:qualname`."""
    aliases: Sequence[str]
    """Earlier names, so that jobs stored under them still run."""
    queue: str
    priority: int
    max_attempts: int
    timeout: Seconds | None
    kill_grace: Seconds | None
    backoff: Literal["exponential", "fixed"] | BackoffFunction
    retry_delay: Seconds
    retry_on: Exceptions
    """Only these exceptions are retried; others fail at once. Default: all."""
    discard_on: Exceptions
    """These exceptions fail at once. Default: none."""
    delay: Seconds
    isolated: bool
    tags: Sequence[str]
    meta: Mapping[str, Any]


ENQUEUE_OPTIONS = frozenset(EnqueueOptions.__annotations__)
DEFINITION_OPTIONS = frozenset(DefinitionOptions.__annotations__)
DEFAULT_OPTIONS = ENQUEUE_OPTIONS - {"delay", "at", "meta", "tags", "connection"}
"""What `job_defaults` may set for all jobs of a Sidequest."""


def check_options(given: Mapping[str, Any], allowed: frozenset[str], what: str) -> dict[str, Any]:
    """The options in the form in which `NewJob` and the definition hold them.

    Raises TypeError or ValueError naming the option; an unknown one with the nearest name.
    """
    checks.known(what, given, allowed)
    if "delay" in given and "at" in given:
        raise ValueError("delay and at are two ways to say when: give one of them")
    return {option: _CHECKS[option](option, value) for option, value in given.items()}


def _priority(option: str, value: object) -> int:
    return checks.integer(option, value, -checks.INT32, checks.INT32)


def _max_attempts(option: str, value: object) -> int:
    return checks.integer(option, value, 1, 10_000)


def _queue(option: str, value: object) -> str:
    return checks.name(option, value)


def _stored_name(option: str, value: object) -> str:
    return checks.name(option, value, longest=200)


def _aliases(option: str, value: object) -> tuple[str, ...]:
    return checks.names(option, value, longest=200)


def _optional_span(option: str, value: object) -> timedelta | None:
    return None if value is None else checks.duration(option, value, zero=option != "timeout")


def _span(option: str, value: object) -> timedelta:
    return checks.duration(option, value)


def _backoff(option: str, value: object) -> str | BackoffFunction:
    if callable(value):
        try:
            inspect.signature(value).bind(1, Exception())
        except TypeError:
            raise TypeError(f"{option} must take (attempt, error); in a class write it with @staticmethod") from None
        except ValueError:
            pass  # a built-in that does not say what it takes
        return cast("BackoffFunction", value)
    return checks.choice(option, value, STRATEGIES[:2])


def _plain_backoff(option: str, value: object) -> str:
    if callable(value):
        raise TypeError("backoff: a function belongs to the decorator, @job(backoff=…): code is not stored with a job")
    return checks.choice(option, value, STRATEGIES[:2])


def _exceptions(option: str, value: object) -> tuple[type[BaseException], ...]:
    classes: tuple[object, ...] = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"{option} must be an exception class or a sequence of them, not {one!r}")
    return classes  # type: ignore[return-value]


def _meta(option: str, value: object) -> str:
    if not isinstance(value, Mapping):
        raise TypeError(f"{option} must be a mapping, not {type(value).__name__}")
    return codec.dump(dict(value), option)  # pyright: ignore[reportUnknownArgumentType]


def _connection(option: str, value: object) -> object:
    if isinstance(value, (str, bytes, int)):  # what it can be depends on the database: the backend judges
        raise TypeError(f"{option} must be your own open connection or session, not {type(value).__name__}")
    return value


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "name": _stored_name,
    "aliases": _aliases,
    "queue": _queue,
    "priority": _priority,
    "max_attempts": _max_attempts,
    "timeout": _optional_span,
    "kill_grace": _optional_span,
    "backoff": _backoff,
    "retry_delay": _span,
    "retry_on": _exceptions,
    "discard_on": _exceptions,
    "delay": _span,
    "at": checks.instant,
    "isolated": checks.flag,
    "tags": checks.names,
    "meta": _meta,
    "connection": _connection,
}


def check_enqueue_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one enqueue; a backoff function is refused, because a row cannot hold code."""
    if "backoff" in given:
        _plain_backoff("backoff", given["backoff"])
    return check_options(given, ENQUEUE_OPTIONS, "an option of enqueue")
