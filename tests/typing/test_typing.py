"""The typed surface is a promise: both type checkers accept and refuse what they must."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ACCEPTED, REFUSED = HERE / "accepted.py", HERE / "refused.py"
MARK = re.compile(r"# (E\d+) ")
MYPY_ERROR = re.compile(r"(?P<path>[^:]+):(?P<line>\d+): error: (?P<message>.*)")

pytestmark = pytest.mark.timeout(300)

Complaints = Mapping[Path, Mapping[int, str]]
"""File → line → what a checker says there."""


def run(*command: str) -> str:
    """The output of a checker, which ends non-zero because refused.py is wrong on purpose."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def mypy() -> Complaints:
    found: dict[Path, dict[int, str]] = defaultdict(dict)
    output = run("mypy", "--config-file", "pyproject.toml", "--no-error-summary", "--no-pretty", str(ACCEPTED), str(REFUSED))
    for line in output.splitlines():
        if error := MYPY_ERROR.match(line):
            found[(ROOT / error["path"]).resolve()][int(error["line"])] = error["message"]
    return found


def pyright() -> Complaints:
    found: dict[Path, dict[int, str]] = defaultdict(dict)
    output = run("pyright", "--pythonpath", sys.executable, "--outputjson", str(ACCEPTED), str(REFUSED))
    for one in json.loads(output)["generalDiagnostics"]:
        if one["severity"] == "error":
            found[Path(one["file"]).resolve()][one["range"]["start"]["line"] + 1] = one["message"]
    return found


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def complaints(request: pytest.FixtureRequest) -> Complaints:
    """What each checker, in its strict mode, says about both files."""
    checked: Complaints = request.param()
    return checked


def test_everything_accepted_is_accepted(complaints: Complaints) -> None:
    assert complaints.get(ACCEPTED, {}) == {}


def test_every_marked_line_is_refused_and_no_other(complaints: Complaints) -> None:
    lines = dict(enumerate(REFUSED.read_text(encoding="utf-8").splitlines(), 1))
    marked = {number: mark[1] for number, line in lines.items() if (mark := MARK.search(line))}
    refused = complaints.get(REFUSED, {})
    assert {mark for number, mark in marked.items() if number not in refused} == set()
    assert {number: message for number, message in refused.items() if number not in marked} == {}


def test_the_marks_are_numbered_without_a_gap() -> None:
    marks = MARK.findall(REFUSED.read_text(encoding="utf-8"))
    assert marks == [f"E{n}" for n in range(1, len(marks) + 1)]
