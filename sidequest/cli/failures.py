"""CLI. How a command fails: the exit code, and the one line that says why."""

from __future__ import annotations

import re

from sidequest.cli.output import printable

DONE = 0
FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

CREDENTIALS = re.compile(r"://[^/\s]*@")


class Failed(Exception):
    """The command could not do what was asked: exit code 1."""


class WrongUse(Exception):
    """The command was asked for what makes no sense; the message names the argument: exit code 2."""


def one_line(message: object) -> str:
    """The first line of a message, fit for a terminal, without a password that stood in a URL."""
    first = next((line for line in str(message).splitlines() if line.strip()), type(message).__name__)
    return printable(CREDENTIALS.sub("://***@", first))
