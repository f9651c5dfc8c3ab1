"""Judges all mutants, on servers that are started once, or that the environment names as for the tests."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.mutants import chaos, mongo, mysql, postgres, sql, sqlite
from tests.mutants.mutant import Mutant
from tests.mutants.trial import PACKAGE, ROOT, Verdict, copy_of, judge, run_tests
from tests.servers.plugin import KINDS
from tests.servers.process import Reaper
from tests.servers.server import ServerFailed, Unavailable

TABLES: Mapping[str, Sequence[Mutant]] = {
    "sqlite": (*sql.MUTANTS, *sqlite.MUTANTS),
    "postgres": (*sql.MUTANTS, *postgres.MUTANTS),
    "mariadb": (*sql.MUTANTS, *mysql.MUTANTS),
    "mysql": mysql.MUTANTS,
    "mongodb": mongo.MUTANTS,
    "chaos": chaos.MUTANTS,
    "mongodb-standalone": [mutant for mutant in mongo.MUTANTS if mutant.databases],
}
"""The mutants of each database, and those of engines and workers (`chaos`).

What all SQL databases share is the same on both that speak MySQL's protocol.
"""


def main() -> int:
    options = arguments()
    began = time.monotonic()
    with (
        copy_of(ROOT / PACKAGE) as package,
        servers(options.mutants) as missing,
        ThreadPoolExecutor(options.parallel) as threads,
    ):
        there = {name: mutants for name, mutants in options.mutants.items() if name not in missing}
        passing = list(threads.map(lambda name: passes_unmutated(package, name, there[name]), there))
        sound = [name for name, passes in zip(there, passing, strict=True) if passes]
        work = [(name, mutant) for name in sound for mutant in there[name]]
        verdicts = list(threads.map(lambda one: judged(package, *one), work))
    expected = options.mutants if os.environ.get("CI") == "true" else there
    return report(verdicts, unjudged=[name for name in expected if name not in sound], seconds=time.monotonic() - began)


def arguments() -> argparse.Namespace:
    """The options; `mutants` are those to judge, by database."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="See whether the suites have teeth.")
    parser.add_argument("--databases", metavar="NAMES", default=",".join(TABLES), help=f"of {', '.join(TABLES)}; default: all")
    parser.add_argument("--only", metavar="WORD", default="", help="only mutants with this word in their name or file")
    parser.add_argument(
        "--parallel", metavar="N", type=int, default=os.cpu_count() or 1, help="runs at a time; default: %(default)s"
    )
    options = parser.parse_args()
    names = [name.strip() for name in options.databases.split(",")]
    if unknown := {*names} - {*TABLES}:
        parser.error(f"--databases: there is no {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    found = {name: [mutant for mutant in TABLES[name] if mutant.is_for(name) and options.only in str(mutant)] for name in names}
    options.mutants = {name: mutants for name, mutants in found.items() if mutants}
    if not options.mutants:
        parser.error(f"--only: no mutant of these databases has {options.only!r} in its name or file")
    return options


@contextmanager
def servers(names: Mapping[str, object]) -> Iterator[Mapping[str, str]]:
    """Runs the servers, named to all that we start; gives those that cannot be had, and why."""
    missing: dict[str, str] = {}
    reaper = Reaper()
    try:
        for kind in KINDS:
            if kind.name in names:
                server = kind(reaper)
                try:
                    server.open()
                except Unavailable as why:
                    print(why)
                    missing[kind.name] = str(why)
                except ServerFailed as why:
                    sys.exit(str(why))
                else:
                    os.environ[kind.variable] = server.url
        yield missing
    finally:
        reaper.close()


def passes_unmutated(package: Path, database: str, mutants: Sequence[Mutant]) -> bool:
    """Whether all tests that these mutants name are there, and pass on the package as it is."""
    done = run_tests(package, database, sorted({test for mutant in mutants for test in mutant.tests}))
    if done.returncode != 0:
        print(f"{database}: the tests fail on the package as it is:\n{done.stdout}{done.stderr}", flush=True)
    return done.returncode == 0


def judged(package: Path, database: str, mutant: Mutant) -> Verdict:
    verdict = judge(package, database, mutant)
    print(verdict, flush=True)
    return verdict


def report(verdicts: Sequence[Verdict], unjudged: Sequence[str], seconds: float) -> int:
    """Say once more what is wrong; the exit code."""
    bad = [verdict for verdict in verdicts if verdict.word != "caught"]
    for verdict in bad:
        print(f"{verdict.word}: {verdict.mutant}, on {verdict.database}")
    for database in unjudged:
        print(f"NOT JUDGED: {database}")
    print(f"{len(verdicts) - len(bad)} of {len(verdicts)} mutants caught in {seconds:.0f} s")
    return 1 if bad or unjudged else 0


if __name__ == "__main__":
    sys.exit(main())
