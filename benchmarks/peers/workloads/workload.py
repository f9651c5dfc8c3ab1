"""HARNESS. What a workload is."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from benchmarks.peers.cell import Cell
from benchmarks.peers.contestants import Contestant

Memory = MutableMapping[str, int]
"""What a contestant's first round found out for the later ones: how many jobs last long enough."""
Values = MutableMapping[str, float | None]
Measure = Callable[[Cell, Memory], Values]


@dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    higher_is_better: bool | None = None
    """None: neither, it only explains the others."""


@dataclass(frozen=True)
class Workload:
    key: str
    """As `--only` names it."""
    says: str
    figures: Sequence[Figure]
    """The first is the one that counts."""
    measure: Measure
    fits: Callable[[Contestant], bool]
    """Whether this contestant can do it at all."""
    once: bool = False
    """It takes long, and chance has little to do with it: measured in the first round only."""


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]
