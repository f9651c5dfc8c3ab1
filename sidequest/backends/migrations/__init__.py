"""THE STORE. The schema as numbered steps, one folder of files per dialect, with the same names in each.

A file is named for its step and holds statements that end with a semicolon at the end of a line
(MongoDB: database commands as JSON, with `//` before comments). `{prefix}` stands for the tables'
prefix, `{schema}` for the schema and its dot, if there is one. A step that was released is never
edited.

A comment `needs: 0003` says that code which knows the steps up to 0003 still works on the tables
after this step; without it only code that knows the step itself does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from sidequest.backends.base import MigrationStatus
from sidequest.errors import SchemaMismatch

NEEDS = re.compile(r"^\W*needs: (\d{4})\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schema. Where the database can, all of its statements are one transaction."""

    name: str
    text: str

    @property
    def number(self) -> str:
        return self.name[:4]

    @property
    def needs(self) -> str:
        """The number of the step that code must know at least, to work with the tables after this one."""
        found = NEEDS.search(self.text)
        return found[1] if found else self.number

    def statements(self, prefix: str, schema: str = "") -> Sequence[str]:
        """The statements one by one, without comments."""
        text = fill(self.text, prefix, schema)
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("--", "//"))]
        parts = "\n".join(lines).split(";\n")
        return [part.strip().removesuffix(";") for part in parts if part.strip()]


@cache
def steps(dialect: str) -> Sequence[Step]:
    """All steps of the dialect, in the order in which they are applied."""
    found = [entry for entry in files(__name__).joinpath(dialect).iterdir() if entry.name[:4].isdigit()]
    return [Step(entry.name.partition(".")[0], entry.read_text("utf-8")) for entry in sorted(found, key=lambda e: e.name)]


def fill(text: str, prefix: str, schema: str = "") -> str:
    """The text with the tables' prefix and schema in it."""
    return text.replace("{prefix}", prefix).replace("{schema}", schema)


def status(known: Sequence[Step], applied: Mapping[str, str]) -> MigrationStatus:
    """What the applied steps (name → what it needs) mean for code that knows these steps."""
    names = [step.name for step in known]
    newest = known[-1].number
    strange = sorted(set(applied) - set(names))
    return MigrationStatus(
        applied=tuple(name for name in names if name in applied),
        pending=tuple(name for name in names if name not in applied),
        newer=tuple(name for name in strange if applied[name] <= newest),
        unknown=tuple(name for name in strange if applied[name] > newest),
    )


def refuse_newer(seen: MigrationStatus, where: str) -> None:
    """Raise SchemaMismatch if this code must not touch the tables any more; `where` is the URL as it may be shown."""
    if seen.unknown:
        raise SchemaMismatch(
            f"the tables in {where} were made by a newer Sidequest (step {', '.join(seen.unknown)}); "
            f"upgrade the sidequest package of this process: pip install --upgrade sidequest"
        )


def refuse_unfit(seen: MigrationStatus, where: str) -> None:
    """Raise SchemaMismatch, with the command to run, unless the tables are exactly ours."""
    refuse_newer(seen, where)
    if seen.pending:
        what = "are older than this Sidequest" if seen.applied else "do not exist yet"
        raise SchemaMismatch(f"the tables in {where} {what}; run: sidequest migrate up --url {where}")
