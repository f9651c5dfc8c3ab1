"""One trial: a copy of the package with a fault in it, the tests that must notice, and what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant, Rotten

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "sidequest"
ON = {"chaos": "sqlite"}
"""The database on which a table's tests run, where that is not its name."""
LONGEST_TEST = 60
LONGEST_RUN = 300
"""Seconds."""
PYTEST = "import os, sys, pytest; code = pytest.main(); sys.stdout.flush(); os._exit(code)"
"""Ends also when a test that failed has left a connection's thread behind."""
PLUGINS = ("-p", "anyio", "-p", "pytest_timeout", "-p", "no:cacheprovider")
"""All that the tests need: others that are installed may take longer to load than a test takes to run."""
FAILED = re.compile(r"^FAILED \S*?::(.+?)(?: - (.*))?$", re.MULTILINE)
NO_PROOF = re.compile(
    r"(NameError|AttributeError|TypeError|ImportError|ModuleNotFoundError)\b"
    r"|.*(syntax|no such column|unknown column|column .* does not exist|unknown operator)",
    re.IGNORECASE,
)
"""What a test fails with when the mutant is no working code, or no statement that its database understands."""


class Verdict(NamedTuple):
    database: str
    mutant: Mutant
    word: str
    """caught, SURVIVED, BROKEN (nothing is proved) or ROTTEN (it cannot be planted)."""
    proof: str
    """The test that failed and how, or why nothing was proved."""
    seconds: float

    def __str__(self) -> str:
        return f"{self.database:18} {self.word:8} {self.seconds:5.1f} s  {self.mutant}\n{'':37}{self.proof}"


def judge(package: Path, database: str, mutant: Mutant) -> Verdict:
    """See whether one of its tests fails with the mutant in a copy of the package, and by what the mutant does."""
    began = time.monotonic()
    with copy_of(package) as copy:
        try:
            file = copy / mutant.file
            file.write_text(mutant.planted_in(file.read_text("utf-8")), "utf-8")
            word, proof = _verdict(run_tests(copy, database, mutant.tests, "-x", "--tb=no", "-rf"))
        except (Rotten, FileNotFoundError) as why:
            word, proof = "ROTTEN", str(why)
        except subprocess.TimeoutExpired:
            word, proof = "BROKEN", f"the run did not end within {LONGEST_RUN} s"
    return Verdict(database, mutant, word, proof, time.monotonic() - began)


def _verdict(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    match done.returncode, FAILED.search(done.stdout):
        case 0, _:
            return "SURVIVED", "all of its tests pass"
        case 1, re.Match() as failed if not NO_PROOF.match(failed[2] or ""):
            return "caught", f"{failed[1]}: {failed[2] or 'failed'}"
        case _:
            return "BROKEN", f"no test failed because of what the mutant does:\n{done.stdout}{done.stderr}"


def run_tests(package: Path, database: str, tests: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests with the package that lies there."""
    command = [
        sys.executable, "-P", "-c", PYTEST, *PLUGINS, "-q", *options, f"--timeout={LONGEST_TEST}",
        "--databases", ON.get(database, database), *tests,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COLUMNS": "300",
    }
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=LONGEST_RUN)


@contextmanager
def copy_of(package: Path) -> Iterator[Path]:
    """A copy of the package until the block ends; compiled files come along, and fit because times of change do too."""
    with tempfile.TemporaryDirectory(prefix="sidequest-mutant-") as place:
        yield shutil.copytree(package, Path(place, PACKAGE))
