"""What is imported by whom: an engine needs one driver, a worker none, and the first to start needs next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

DRIVERS = {"aiosqlite", "sqlite3", "asyncpg", "aiomysql", "pymysql", "motor", "pymongo", "bson"}
NEEDED = {
    "sqlite:///x.db": {"aiosqlite", "sqlite3"},
    "postgresql://localhost/x": {"asyncpg"},
    "mysql://localhost/x": {"aiomysql", "pymysql"},
    "mongodb://localhost/x": {"pymongo", "bson"},
}


def after(program: str) -> set[str]:
    """The modules that a new interpreter has imported when it has run this."""
    told = subprocess.run([sys.executable, "-P", "-c", f"import sys; {program}; print(*sys.modules)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return {*told.stdout.split()}


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "sidequest"}


@pytest.mark.parametrize("url", NEEDED)
def test_an_engine_imports_the_driver_of_its_database_only(url: str) -> None:
    modules = after(
        "from sidequest.engine import app_pipe; from sidequest.backends import make_backend;"
        f"make_backend({url!r}, role='engine')"
    )
    assert modules & DRIVERS == NEEDED[url]
    assert not [name for name in modules if name.startswith(("sidequest.app", "sidequest.worker.serve"))]


def test_before_the_template_is_on_its_way_an_engine_imports_next_to_nothing() -> None:
    modules = after("import sidequest.engine.__main__")
    assert ours(modules) == {
        "sidequest", "sidequest.clock", "sidequest.engine", "sidequest.engine.__main__", "sidequest.engine.forkserver",
    }  # fmt: skip
    assert not modules & {"asyncio", "anyio", "logging"}


def test_the_template_has_all_that_a_worker_needs_and_nothing_of_a_client() -> None:
    modules = after("import sidequest.worker.template")
    assert {"sidequest.worker.sync_host", "sidequest.worker.async_host", "sidequest.worker.serve", "asyncio"} <= modules
    assert not modules & DRIVERS
    assert not [
        name for name in modules if name.startswith(("sidequest.backends", "sidequest.engine", "sidequest.app", "anyio"))
    ]


def test_the_template_bears_its_name_when_all_of_our_code_is_in_it() -> None:
    """The forkserver says nothing when it cannot import what it was told to: so the name shows that it could."""
    told = subprocess.run(
        [sys.executable, "-P", "-c", "import sidequest.worker.template; print(open('/proc/self/comm').read())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["sq-template"]
