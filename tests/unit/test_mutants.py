"""The mutants of `nox -s mutants` can still be planted: whoever changes the code sees at once which of them have rotted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants import chaos, mongo, mysql, postgres, sql, sqlite
from tests.mutants.mutant import Mutant

PACKAGE = Path(__file__).parents[2] / "sidequest"


TABLES = {
    "chaos": chaos.MUTANTS,
    "sql": sql.MUTANTS,
    "sqlite": sqlite.MUTANTS,
    "postgres": postgres.MUTANTS,
    "mysql": mysql.MUTANTS,
    "mongo": mongo.MUTANTS,
}


@pytest.mark.parametrize("mutants", TABLES.values(), ids=TABLES)
def test_every_mutant_changes_what_the_code_says(mutants: Sequence[Mutant]) -> None:
    assert len(mutants) >= 10
    for mutant in mutants:
        mutant.planted_in((PACKAGE / mutant.file).read_text("utf-8"))
