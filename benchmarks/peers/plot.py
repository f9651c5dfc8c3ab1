"""HARNESS. The medians as a picture: for each workload its main figure, the best on top, from the lowest to the highest round.

The axis is logarithmic, because the systems are up to a thousand times apart, so there are dots and no bars;
where zero is a result, as of jobs lost, it is linear.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.peers.plan import WORKLOADS
from benchmarks.peers.results import Summary, number, summary
from benchmarks.peers.workloads.workload import Figure, Workload

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

OURS, REFERENCE, OTHERS = "#c2410c", "#6b7280", "#1d4ed8"
ROW, HEAD, WIDTH = 0.24, 0.9, 8.0
"""Inches: of a contestant, of what each workload needs besides, of the whole."""
PLAIN = {"font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "sidequest"}


def draw(figures: Mapping[str, Mapping[str, Sequence[Any]]], workloads: Sequence[Workload], file: Path) -> None:
    """What was measured; workloads without figures, and contestants without one, are left out."""
    panels = [
        (workload, shown) for workload in workloads if (shown := _ranked(figures.get(workload.key, {}), workload.figures[0]))
    ]
    if not panels:
        return
    heights = [HEAD + ROW * len(shown) for _, shown in panels]
    with mpl.rc_context(PLAIN):
        picture, axes = plt.subplots(
            len(panels),
            1,
            figsize=(WIDTH, sum(heights)),
            gridspec_kw={"height_ratios": heights},
            squeeze=False,
            layout="constrained",
        )
        for (workload, shown), place in zip(panels, axes[:, 0], strict=True):
            _panel(place, workload, shown)
        picture.savefig(file, metadata={"Date": None})
        plt.close(picture)


def _ranked(contestants: Mapping[str, Sequence[Any]], figure: Figure) -> Sequence[tuple[str, Summary]]:
    """The best first."""
    found = {name: summary(rounds, (), figure.name) for name, rounds in contestants.items()}
    shown = [(name, one) for name, one in found.items() if one is not None]
    return sorted(shown, key=lambda item: item[1].median, reverse=bool(figure.higher_is_better))


def _panel(place: Any, workload: Workload, shown: Sequence[tuple[str, Summary]]) -> None:
    figure = workload.figures[0]
    better = "more is better" if figure.higher_is_better else "less is better"
    place.set_title(f"{workload.key}: {workload.says}", loc="left", fontweight="bold")
    place.set_xlabel(f"{figure.name}{', ' if figure.unit else ''}{figure.unit} ({better})", loc="left")
    if all(one.low > 0 for _, one in shown):
        place.set_xscale("log")
        place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        place.xaxis.set_minor_locator(NullLocator())
    for row, (name, one) in enumerate(shown):
        color = _color(name)
        place.plot([one.low, one.high], [row, row], color=color, linewidth=2, alpha=0.4, solid_capstyle="round")
        place.plot([one.median], [row], "o", color=color, markersize=5)
        place.annotate(
            number(one.median), (one.high, row), xytext=(6, 0), textcoords="offset points", va="center", color="#374151"
        )
    place.set_yticks(range(len(shown)), [name for name, _ in shown])
    for label, (name, _) in zip(place.get_yticklabels(), shown, strict=True):
        label.set_color(_color(name))
    place.set_ylim(len(shown) - 0.4, -0.6)
    place.margins(x=0.15)
    place.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    place.set_axisbelow(True)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(axis="y", length=0)


def _color(contestant: str) -> str:
    return {"sidequest": OURS, "bare": REFERENCE}.get(contestant.partition(" ")[0], OTHERS)


def main(results: str, file: str) -> None:
    """From the JSON of an earlier run: `python -m benchmarks.peers.plot out.json out.svg`."""
    draw(json.loads(Path(results).read_text())["figures"], WORKLOADS, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
