"""What is run on every change. `nox` alone runs all tests and the typing contract.

nox                    tests and typing, on the Python that nox runs on
nox -s lint            ruff, mypy, pyright, import rules
nox -s unit            no database, no process: seconds
nox -s tests-on        all tests, on every supported Python that is installed
nox -s tests -- -k x   arguments after -- go to pytest
nox -s tests -- --event-loop uvloop      engines, workers and tests on uvloop, not on asyncio's own loop
nox -s conformance -- --databases postgres,mysql
nox -s mutants -- --databases sqlite --only lease
nox -s mutants -- --databases chaos      those of engines and workers
nox -s chaos           processes killed, frozen and cut off, on every database: minutes; --chaos-scale 0.2 for fewer
nox -s soak            a minute of everything at once; -- --database mysql --seconds 600
nox -s bench           how fast it is; -- --peers beside others, -- --only W3 for one workload
nox -s plans           what the databases do for our statements when there are millions of jobs; --rows for fewer
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "typing"]
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
TESTS = ["tests/unit", "tests/conformance", "tests/integration"]
DRIVERS = "postgres,mysql,mongo"
PARALLEL = [f"--numprocesses={2 * (os.cpu_count() or 1)}", "--dist=loadgroup"]
"""Twice as many tests at once as there are CPUs, because many of them wait. `-- -n 0`: one after the other."""


def install(session: nox.Session, *groups: str) -> None:
    """Install the package as users get it, with the drivers of all databases, and the dependency groups."""
    session.install(f".[{DRIVERS}]", *nox.project.dependency_groups(PROJECT, *groups))


def run_pytest(session: nox.Session, *arguments: str) -> None:
    # not `python -m pytest`: that puts the checkout first on the path, where it hides the installed package
    chosen = any(argument.startswith("tests/") for argument in session.posargs)
    session.run("pytest", *(arguments if not chosen else ()), *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests on the Python that nox runs on."""
    install(session, "test", "servers")
    run_pytest(session, *PARALLEL, *TESTS)


@nox.session(name="tests-on", python=PYTHONS)
def tests_on(session: nox.Session) -> None:
    """All tests on every supported Python."""
    install(session, "test", "servers")
    run_pytest(session, *PARALLEL, *TESTS)


@nox.session
def unit(session: nox.Session) -> None:
    """The pure centre, and whatever needs no database and no process."""
    install(session, "test")
    run_pytest(session, "tests/unit")


@nox.session
def conformance(session: nox.Session) -> None:
    """What every backend promises."""
    install(session, "test", "servers")
    run_pytest(session, *PARALLEL, "tests/conformance")


@nox.session
def plans(session: nox.Session) -> None:
    """No plan is worse with millions of jobs: each database is filled with them, which takes minutes."""
    install(session, "test", "servers")
    run_pytest(session, "tests/plans")


@nox.session
def chaos(session: nox.Session) -> None:
    """Nothing is lost, nothing runs twice, nothing is left behind, whatever dies."""
    install(session, "test", "servers")
    run_pytest(session, "tests/chaos")


@nox.session
def soak(session: nox.Session) -> None:
    """Many engines, many jobs, and kills, stops, freezes and database restarts at random."""
    install(session, "test", "servers")
    session.run("python", "-m", "tests.chaos.soak", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Whether the suites have teeth: they must notice each fault that is planted in a backend, an engine or an app."""
    install(session, "test", "servers")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Real engine and worker processes."""
    install(session, "test", "servers")
    run_pytest(session, *PARALLEL, "tests/integration")


@nox.session
def typing(session: nox.Session) -> None:
    """What both type checkers must accept and refuse."""
    install(session, "types")
    run_pytest(session, "tests/typing")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and import rules."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pyright")
    session.run("lint-imports")


@nox.session
def bench(session: nox.Session) -> None:
    """How fast it is, on this machine; -- --peers: beside other systems, each in an environment of its own."""
    install(session, "bench", "servers")
    session.run("python", "-m", "benchmarks", *session.posargs)
