"""PURE CENTRE. Refuses bad values, naming the argument, what was wrong and what would be right.

Every public entry point and every setting goes through these, so that a value is judged the same
way wherever it is given, and before anything is written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from math import isfinite

Seconds = float | timedelta
"""A duration: a number of seconds, or a timedelta."""

LONGEST = timedelta(days=36_500)
NAME = re.compile(r"[A-Za-z0-9_.:\-]+")
JOB_ID_LIMIT = 2**63 - 1
INT32 = 2**31 - 1


def integer(argument: str, value: object, low: int, high: int) -> int:
    """`value` if it is an int (no bool) between `low` and `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, not {_shown(value)}")
    if not low <= value <= high:
        raise ValueError(f"{argument} must be between {low} and {high}, not {value}")
    return value


def number(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, not {_shown(value)}")
    if not _finite(value):
        raise ValueError(f"{argument} must be a finite number, not {str(value)[:60]}")
    return value


def job_id(argument: str, value: object) -> int:
    return integer(argument, value, 1, JOB_ID_LIMIT)


def flag(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, not {_shown(value)}")
    return value


def duration(argument: str, value: object, *, zero: bool = True) -> timedelta:
    """A number of seconds or a timedelta, as a timedelta; never negative, at most a century."""
    if isinstance(value, timedelta):
        span = value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number of seconds or a timedelta, not {_shown(value)}")
    elif not _finite(value) or abs(value) > LONGEST.total_seconds():
        raise ValueError(f"{argument} must be a number of seconds up to a century, not {str(value)[:60]}")
    else:
        span = timedelta(seconds=value)
    if span < timedelta(0) or (not span and not zero) or span > LONGEST:
        least = "0" if zero else "more than 0"
        raise ValueError(f"{argument} must be {least} seconds up to a century, not {span.total_seconds():g}")
    return span


def instant(argument: str, value: object) -> datetime:
    """An aware datetime; a naive one could mean any of 38 offsets, so it is refused."""
    if not isinstance(value, datetime):
        raise TypeError(f"{argument} must be a datetime, not {_shown(value)}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{argument} must carry a time zone, for example datetime.now(timezone.utc), not {value!r}")
    if not 1970 <= value.year <= 9000:
        raise ValueError(f"{argument} must lie between the years 1970 and 9000, not {value!r}")
    return value


def name(argument: str, value: object, longest: int = 100) -> str:
    """A queue's, job's or tag's name: letters, digits and `_ . : -`."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {_shown(value)}")
    if not value or len(value) > longest or not NAME.fullmatch(value):
        raise ValueError(f"{argument} must be 1 to {longest} letters, digits or any of _ . : - , not {value[:120]!r}")
    return value


def text(argument: str, value: object, longest: int, *, empty: bool = True) -> str:
    """A string that every database can hold: UTF-8, no NUL, at most `longest` characters."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {_shown(value)}")
    if not value and not empty:
        raise ValueError(f"{argument} must not be empty")
    if len(value) > longest:
        raise ValueError(f"{argument} must be at most {longest} characters long, not {len(value)}")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{argument} must not contain NUL characters or lone surrogates")
    return value


def names(argument: str, value: object, most: int = 50, longest: int = 100) -> tuple[str, ...]:
    """A sequence of distinct names, in the order given."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be a sequence of strings, not {_shown(value)}")
    items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    if len(items) > most:
        raise ValueError(f"{argument} must hold at most {most} strings, not {len(items)}")
    return tuple(dict.fromkeys(name(f"{argument}[{n}]", item, longest) for n, item in enumerate(items)))


def choice(argument: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {_shown(value)}")
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, not {value!r}{nearest(value, choices)}")
    return value


def known(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse a keyword that does not exist, with the nearest one that does."""
    allowed = sorted(allowed)
    for word in given:
        if word not in allowed:
            hint = nearest(str(word), allowed) or f"; there are {', '.join(allowed)}"
            raise TypeError(f"{word!r} is not {what}{hint}")


def nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _finite(value: float) -> bool:
    return isfinite(value) if isinstance(value, float) else abs(value) < 2**1000


def _shown(value: object) -> str:
    return f"{type(value).__name__} ({repr(value)[:60]})" if value is not None else "None"
