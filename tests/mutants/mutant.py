"""What a mutant is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


class Rotten(Exception):
    """The code has moved on and the mutant has not; the message says how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One fault: in `file`, `before` (which stands there exactly once) becomes `after`."""

    name: str
    """What goes wrong, in words."""
    file: str
    """Below the package's directory."""
    before: str
    after: str
    seen_by: str
    """The tests that notice, one or several with blanks between: `test_fence.py::test_name` or all of `test_fence.py`.

    They are those of the conformance suite, unless they begin with `tests/`.
    """
    databases: Collection[str] = ()
    """Where the fault makes a difference, if not on all databases of its table."""

    def __str__(self) -> str:
        return f"{self.name} ({self.file})"

    @property
    def tests(self) -> Sequence[str]:
        return [test if test.startswith("tests/") else f"tests/conformance/{test}" for test in self.seen_by.split()]

    def is_for(self, database: str) -> bool:
        return not self.databases or database in self.databases

    def planted_in(self, text: str) -> str:
        """The file's text with the fault in it. Raises Rotten."""
        if (found := text.count(self.before)) != 1:
            raise Rotten(f"this stands there {found} times, not once: {self.before!r}")
        planted = text.replace(self.before, self.after)
        if planted == text:
            raise Rotten("it changes nothing")
        if Path(self.file).suffix == ".py":
            try:
                compile(planted, self.file, "exec")
            except SyntaxError as error:
                raise Rotten(f"what it makes is no Python: {error}") from error
        return planted
