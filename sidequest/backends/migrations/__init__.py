"""THE STORE. The schema as numbered steps, one folder of SQL files per dialect.

A file is named for its step, holds statements that end with a semicolon at the end of a line, and
says `{prefix}` where the tables' prefix goes. A step that was released is never edited.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from sidequest.backends.base import MigrationStatus


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schema: all of its statements in one transaction."""

    name: str
    text: str

    def sql(self, prefix: str) -> str:
        return self.text.replace("{prefix}", prefix)

    def statements(self, prefix: str) -> Sequence[str]:
        """The statements one by one, without comments."""
        lines = [line for line in self.sql(prefix).splitlines() if not line.lstrip().startswith("--")]
        parts = "\n".join(lines).split(";\n")
        return [part.strip().removesuffix(";") for part in parts if part.strip()]


@cache
def steps(dialect: str) -> Sequence[Step]:
    """All steps of the dialect, in the order in which they are applied."""
    found = [entry for entry in files(__name__).joinpath(dialect).iterdir() if entry.name.endswith(".sql")]
    return [Step(entry.name.removesuffix(".sql"), entry.read_text("utf-8")) for entry in sorted(found, key=lambda e: e.name)]


def status(known: Sequence[Step], applied: Collection[str]) -> MigrationStatus:
    """What the applied names mean for code that knows these steps."""
    names = [step.name for step in known]
    return MigrationStatus(
        applied=tuple(name for name in names if name in applied),
        pending=tuple(name for name in names if name not in applied),
        unknown=tuple(sorted(set(applied) - set(names))),
    )
