"""CLI. `sidequest COMMAND …`: finds the command, runs it, turns what it raises into an exit code.

Exit codes: 0 done, 1 failed, 2 wrong use. An error is one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import sidequest
from sidequest.cli import bench, engine, engines, jobs, migrate, queues
from sidequest.cli.arguments import Parser
from sidequest.cli.failures import DONE, FAILED, INTERRUPTED, WRONG_USE, Failed, WrongUse, one_line
from sidequest.cli.output import drop_output
from sidequest.errors import ConfigError, PayloadError, SidequestError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Raises SystemExit where argparse does: --help, wrong use."""
    _print_what_cannot_be_encoded()
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return DONE  # whoever read has seen enough
    except OSError as error:
        drop_output()
        return _say(f"cannot write the output: {error}", FAILED)
    return code


def parser() -> Parser:
    top = Parser(prog="sidequest", description="Background jobs in the database that you already run.")
    top.add_argument("--version", action="version", version=f"sidequest {sidequest.__version__}")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for module in (engine, engines, migrate, jobs, queues, bench):
        module.add(commands)
    return top


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (WrongUse, PayloadError) as error:
        return _say(error, WRONG_USE)
    except (Failed, ConfigError, SidequestError) as error:
        return _say(error, FAILED)
    except ValueError as error:  # a value that the API or the database refused
        return _say(error, WRONG_USE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _say(message: object, code: int) -> int:
    print(f"sidequest: {one_line(message)}", file=sys.stderr)
    return code


def _print_what_cannot_be_encoded() -> None:
    """A job's name in another alphabet must not break a listing on an ASCII terminal."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
