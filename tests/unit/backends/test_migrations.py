"""Schema steps as text: what they need, what code makes of steps that it does not know."""

from __future__ import annotations

import pytest

from sidequest.backends import migrations
from sidequest.backends.base import MigrationStatus
from sidequest.backends.migrations import Step

DIALECTS = ("sqlite", "postgres", "mysql", "mongo")


def test_each_dialect_has_the_same_steps() -> None:
    names = {dialect: [step.name for step in migrations.steps(dialect)] for dialect in DIALECTS}
    assert len(set(map(tuple, names.values()))) == 1, names
    assert names["sqlite"] == sorted(names["sqlite"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_step_says_what_the_release_before_needs(dialect: str) -> None:
    """Code of the version before a step keeps working on the tables after it."""
    for before, step in zip(migrations.steps(dialect), migrations.steps(dialect)[1:], strict=False):
        assert step.needs <= before.number


def test_a_step_needs_what_its_header_says_or_itself() -> None:
    assert Step("0004_x", "-- Adds a column.\n-- needs: 0003\nALTER …;").needs == "0003"
    assert Step("0004_x", "ALTER …;").needs == "0004"


def test_statements_come_one_by_one_with_names_filled_in_and_comments_left_out() -> None:
    step = Step("0001_x", "-- A; comment;\nCREATE TABLE {schema}{prefix}a (\n    -- inside;\n    b INT\n);\n\nSELECT 1;\n")
    assert step.statements("q_", "s.") == ["CREATE TABLE s.q_a (\n    b INT\n)", "SELECT 1"]


def test_steps_of_a_newer_release_are_judged_by_what_they_need() -> None:
    known = [Step("0001_a", ""), Step("0002_b", "")]
    applied = {"0001_a": "0001", "0003_c": "0002", "0004_d": "0003"}
    assert migrations.status(known, applied) == MigrationStatus(("0001_a",), ("0002_b",), ("0003_c",), ("0004_d",))
