"""HARNESS. What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.contestants import Contestant
from benchmarks.peers.workloads.workload import Figure, Values, Workload

OURS = "sidequest postgres tuned"
"""Whom the others are compared with, when there is one."""


@dataclass
class Results:
    """All values of all rounds: by workload, contestant and figure."""

    values: dict[str, dict[str, list[Values]]] = field(default_factory=dict[str, dict[str, list[Values]]])
    failures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, workload: Workload, contestant: Contestant, number: int, values: Values) -> None:
        rounds = self.values.setdefault(workload.key, {}).setdefault(contestant.name, [])
        rounds.append({"round": number, **values})

    def fail(self, workload: Workload, contestant: Contestant, number: int, why: str) -> None:
        self.failures.append({"workload": workload.key, "contestant": contestant.name, "round": number, "why": why})

    def skip(self, what: str, why: str) -> None:
        self.skipped[what] = why

    def to_json(self) -> dict[str, Any]:
        return {"figures": self.values, "failures": self.failures, "skipped": self.skipped}


@dataclass(frozen=True)
class Summary:
    """One figure of one contestant over all rounds."""

    median: float
    low: float
    high: float
    ratio: float | None
    """Of its value to ours, the median over the rounds that have both."""


def summary(rounds: Sequence[Values], ours: Sequence[Values], figure: str) -> Summary | None:
    values = [value for of_round in rounds if (value := of_round.get(figure)) is not None]
    if not values:
        return None
    base = {of_round["round"]: of_round.get(figure) for of_round in ours}
    ratios = [
        of_round[figure] / base[of_round["round"]]  # type: ignore[operator]
        for of_round in rounds
        if of_round.get(figure) is not None and base.get(of_round["round"])
    ]
    return Summary(median(values), min(values), max(values), median(ratios) if ratios else None)


def ours_in(contestants: Mapping[str, Sequence[Values]]) -> str | None:
    """Whose figures are the measure: ours, tuned if it took part, else the first of ours."""
    if OURS in contestants:
        return OURS
    return next((name for name in contestants if name.startswith("sidequest ")), None)


def show(results: Results, workloads: Sequence[Workload]) -> None:
    for workload in workloads:
        contestants = results.values.get(workload.key)
        if not contestants:
            continue
        base = ours_in(contestants)
        print(f"\n{workload.key}: {workload.says}" + (f"; × is the ratio to {base}" if base else ""))
        width = max(map(len, contestants))
        for name, rounds in contestants.items():
            cells = [
                _cell(figure, summary(rounds, contestants.get(base or "", ()), figure.name)) for figure in workload.figures
            ]
            cells.append(_of_bare(workload.figures[0], name, contestants))
            print(f"  {name:{width}}  " + "  ".join(cell for cell in cells if cell))
    for failure in results.failures:
        print(f"\nfailed: {failure['contestant']}, {failure['workload']}, round {failure['round']}: {failure['why']}")
    for what, why in results.skipped.items():
        print(f"\nskipped: {what}: {why}")


def _cell(figure: Figure, found: Summary | None) -> str:
    if found is None:
        return ""
    text = f"{figure.name} {number(found.median)}{' ' if figure.unit else ''}{figure.unit}"
    if figure.higher_is_better is None:
        return text
    if found.low != found.high:
        text += f" ({number(found.low)} to {number(found.high)})"
    return text + (f" ×{found.ratio:.2f}" if found.ratio is not None else "")


def _of_bare(figure: Figure, name: str, contestants: Mapping[str, Sequence[Values]]) -> str:
    """How much of what the same database's driver does without a queue, of ours."""
    system, database, _ = name.split()
    bare = contestants.get(f"bare {database} driver")
    if system != "sidequest" or bare is None:
        return ""
    found = summary(contestants[name], bare, figure.name)
    return f"= {100 * found.ratio:.0f} % of bare {database}" if found is not None and found.ratio is not None else ""


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
