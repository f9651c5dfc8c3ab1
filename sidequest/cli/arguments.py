"""CLI. What arguments may be: judged by the checks of the API, refused before anything is opened."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar

from sidequest.cli.failures import WRONG_USE, one_line
from sidequest.clock import utc_now
from sidequest.jobs import checks

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
T = TypeVar("T")
INTEGER = re.compile(r"-?[0-9]{1,100}")  # not what else int() takes: spaces, underscores, digits of other scripts
AGO = re.compile(r"([0-9]{1,9})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Parser(argparse.ArgumentParser):
    """As argparse's, but an error is one line, and says nothing that must stay secret."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"sidequest: {one_line(message)} (see `{self.prog} --help`)\n")


def add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the database; else SIDEQUEST_URL, else sqlite:///sidequest.db")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_common(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    add_json(parser)


def command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
    """A command that does something when it is given."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def group(commands: Commands, name: str, help: str) -> Commands:
    """A command that is one of several words to follow."""
    parser = commands.add_parser(name, help=help, description=help)
    return parser.add_subparsers(metavar="COMMAND", dest=f"{name}_command", required=True)


def judged(judge: Callable[[str], T]) -> Callable[[str], T]:
    """A `type` for argparse: what the check refuses is wrong use, in the check's own words."""

    def convert(text: str) -> T:
        try:
            return judge(text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _integer(what: str, text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError(f"{what} must be an integer, not {text!r}")
    return int(text)


def integer(what: str, low: int, high: int) -> Callable[[str], int]:
    return judged(lambda text: checks.integer(what, _integer(what, text), low, high))


def name(what: str, longest: int = 100) -> Callable[[str], str]:
    return judged(lambda text: checks.name(what, text, longest))


@judged
def job_id(text: str) -> int:
    return checks.job_id("id", _integer("id", text))


@judged
def words(text: str) -> str:
    return checks.text("text", text, 1_000, empty=False)


def seconds(what: str) -> Callable[[str], timedelta]:
    return judged(lambda text: checks.duration(what, _number(what, text)))


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number of seconds, not {text!r}") from None


def instant(what: str, now: Callable[[], datetime] = utc_now) -> Callable[[str], datetime]:
    """ISO 8601 with an offset, or `15m` for a quarter of an hour ago."""

    def judge(text: str) -> datetime:
        ago = AGO.fullmatch(text)
        try:
            moment = now() - timedelta(**{UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            hint = "an ISO 8601 time such as 2026-11-23T09:00:00+00:00, or an age such as 90s, 15m, 2h, 3d"
            raise ValueError(f"{what} must be {hint}, not {text!r}") from None
        if moment.tzinfo is None:
            raise ValueError(f"{what} must carry an offset, as in {text}{'' if 'T' in text else 'T00:00:00'}Z")
        return checks.instant(what, moment)

    return judged(judge)


Arguments = tuple[list[Any], dict[str, Any]]


@judged
def job_arguments(text: str) -> Arguments:
    """`["positional", 1]` or `{"keyword": 1}` as JSON."""
    value = _read_json(text)
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    raise ValueError(f"ARGUMENTS must be a JSON object (keyword arguments) or array (positional ones), not {text[:60]!r}")


def _read_json(text: str) -> list[Any] | dict[str, Any] | str | float | None:
    try:
        return json.loads(text, parse_constant=_refuse_constant)  # type: ignore[no-any-return]
    except RecursionError:
        raise ValueError("ARGUMENTS must not be nested that deep") from None
    except ValueError as error:
        raise ValueError(f"ARGUMENTS must be JSON: {error}") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
