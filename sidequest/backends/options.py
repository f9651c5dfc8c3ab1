"""THE STORE. Options of a URL: those that mean the same for every server, and how a wrong value is refused.

Each function raises ConfigError that names the option, what it was and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

from sidequest.errors import ConfigError
from sidequest.jobs import checks

Number = TypeVar("Number", int, float)

LIMITS = ("command_timeout", "connect_timeout", "pool_size")


class Limits(NamedTuple):
    """What bounds the use of a server."""

    pool_size: int
    """The most connections at once."""
    connect_timeout: float
    command_timeout: float
    """Seconds after which a statement counts as lost, and the server as frozen."""


def limits(options: Mapping[str, str], role: str, engine_pool: int) -> Limits:
    """What the options of the names `LIMITS` say. An engine needs `engine_pool` connections, whatever its concurrency."""
    pool_size = _number(options, "pool_size", 10, 1, 1000, int, "a whole number")
    return Limits(
        pool_size=engine_pool if role == "engine" else pool_size,
        connect_timeout=seconds(options, "connect_timeout", 10.0, 0.01, 600),
        command_timeout=seconds(options, "command_timeout", 30.0, 0.01, 3600),
    )


def seconds(options: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    return _number(options, name, default, least, most, float, "a number of seconds")


def one_of(options: Mapping[str, str], name: str, words: Collection[str], default: str) -> str:
    value = options.get(name, default)
    if value not in words:
        raise ConfigError(f"url: {name} must be one of {', '.join(words)}, not {value!r}{checks.nearest(value, words)}")
    return value


def _number(
    options: Mapping[str, str], name: str, default: Number, least: float, most: float, kind: Callable[[str], Number], what: str
) -> Number:
    text = options.get(name)
    if text is None:
        return default
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:  # also refuses nan
        raise ConfigError(f"url: {name} must be {what} between {least:g} and {most:g}, not {text!r}")
    return number
