"""Mutants: small planted faults, each of which a suite must catch: in the backends the conformance suite,
in what keeps jobs and processes in order the chaos suite.

    python -m tests.mutants                                    all of them, on all databases
    python -m tests.mutants --databases sqlite,postgres        on these databases only
    python -m tests.mutants --databases chaos                  those of engines and workers, on SQLite
    python -m tests.mutants --only fence                       those whose name or place has this word

A mutant is one exact replacement in a copy of the package. It counts as caught when one of the
tests that are said to see it fails by what it asserts or meets, while the same tests pass on the
package as it is. A mutant that survives is a promise that nobody checks: write the test.
"""
