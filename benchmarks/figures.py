"""What is measured, by name: one value for each time it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

Figures = Mapping[str, Sequence[float]]
"""Times in seconds unless the name says otherwise."""


class Collected:
    """The figures of all workloads on all databases, in the order in which they came."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, database: str, workload: str, figures: Figures) -> None:
        mine = self._figures.setdefault(workload, {}).setdefault(database, {})
        for name, values in figures.items():
            mine.setdefault(name, []).extend(values)

    def show(self) -> None:
        for workload, databases in self._figures.items():
            for database, figures in databases.items():
                print(f"\n{workload}, {database}")
                for name, values in figures.items():
                    spread = f"({min(values):,.2f} to {max(values):,.2f}, {len(values)} times)" if len(values) > 1 else ""
                    print(f"  {name:32}{median(values):>12,.2f}   {spread}")

    def to_json(self) -> Mapping[str, Mapping[str, Figures]]:
        return self._figures
