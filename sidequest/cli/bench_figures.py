"""CLI. The arithmetic of `sidequest bench`, and what its figures mean: pure, without clock or database."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]
"""What one measurement gave; the names say the units."""
TITLES: Mapping[str, str] = {
    "round-trip": "round trip to the server",
    "enqueue": "enqueue, 1 client",
    "enqueue-32": "enqueue, 32 clients",
    "enqueue-many": "enqueue_many, 1,000 jobs a call",
    "drain-async": "run async jobs that do nothing",
    "drain-sync": "run sync jobs that do nothing",
    "start-latency": "from enqueue to start, idle engine",
    "start-up": "start of the engine",
}
"""What can be measured, in order: its name, and what people read."""
HEAD = ("MEASURED", "MEDIAN", "99 %", "PER SECOND")

SLOW_COMMIT = 2.0
"""Milliseconds from which on a commit is what somebody who enqueues notices."""
FAR = 1.5
"""Milliseconds of a round trip that stays on one host or in one rack never takes."""
UNEVEN = 20
"""How many times longer than the median the slowest hundredth takes when something else is in the way."""
UNEVEN_FROM = 50.0
"""Milliseconds below which nobody cares."""
SYNCED: Mapping[str, Sequence[str]] = {
    "fsync": ("on",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
    "innodb_flush_log_at_trx_commit": ("1",),
    "synchronous": ("full", "extra"),
    "journal": ("true",),
}
"""The settings that make a commit wait for the disk, with the values that do."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that this share of them does not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("there is nothing to rank")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(seconds: Sequence[float]) -> Figures:
    """How long it took, in the middle and at worst."""
    return {
        "p50_ms": percentile(seconds, 0.5) * 1e3,
        "p99_ms": percentile(seconds, 0.99) * 1e3,
        "count": len(seconds),
    }


def rate(count: int, seconds: float) -> Figures:
    return {"per_second": count / seconds, "count": count, "seconds": seconds}


def row(title: str, figures: Figures) -> Sequence[str]:
    """A line of the table under `HEAD`."""
    if "ready_ms" in figures:
        return (title, _time(figures["ready_ms"]), "", f"first job after {_time(figures['first_job_ms'])}")
    median, worst, per_second = (figures.get(name) for name in ("p50_ms", "p99_ms", "per_second"))
    return (
        title,
        "" if median is None else _time(median),
        "" if worst is None else _time(worst),
        "" if per_second is None else f"{per_second:,.0f}",
    )


def rounded(figures: Figures) -> Figures:
    """As they are printed for programs: more digits would be noise."""
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in figures.items()}


def _time(ms: float) -> str:
    if ms < 10:
        return f"{ms:.2f} ms"
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1e3:.0f} s"


# What they mean


def remarks(measured: Mapping[str, Figures], facts: Mapping[str, str]) -> list[str]:
    """A sentence or two for each figure whose cause is known; the most important first."""
    found = (_unsafe(facts), _standalone(facts), _far(measured), _commits(measured, facts), _uneven(measured))
    return [remark for remark in found if remark is not None]


def _unsafe(facts: Mapping[str, str]) -> str | None:
    lax = [f"{name}={facts[name]}" for name, safe in SYNCED.items() if name in facts and facts[name].lower() not in safe]
    if not lax:
        return None
    return (
        f"A commit does not wait for the disk here ({', '.join(lax)}): fast, but a power cut may lose jobs that were enqueued."
    )


def _standalone(facts: Mapping[str, str]) -> str | None:
    if facts.get("replica_set") != "none":
        return None
    return (
        "This server is no replica set: without transactions each job is written by itself, "
        "and engines of other hosts find jobs by polling."
    )


def _far(measured: Mapping[str, Figures]) -> str | None:
    there_and_back = _median(measured, "round-trip")
    if there_and_back is None or there_and_back < FAR:
        return None
    return (
        f"A mere round trip to the server takes {_time(there_and_back)}: whatever is asked one at a time pays that first. "
        "Bring the app nearer to its database, or enqueue many jobs in one call."
    )


def _commits(measured: Mapping[str, Figures], facts: Mapping[str, str]) -> str | None:
    one = _median(measured, "enqueue")
    if one is None:
        return None
    commit = one - (_median(measured, "round-trip") or 0.0) - _work_ms(measured)
    if commit < SLOW_COMMIT or commit < one / 2:
        return None
    synced = [f"{name}={facts[name]}" for name in SYNCED if name in facts]
    why = "the disk's fsync" if _unsafe(facts) is None and synced else "the commit"
    many = [
        f"{title} reach {measured[name]['per_second']:,.0f} jobs/s"
        for name, title in (("enqueue-32", "32 clients at once"), ("enqueue-many", "calls of enqueue_many"))
        if name in measured
    ]
    shared = f"; those who share one are not held up by it ({', '.join(many)})" if many else ""
    return f"A commit takes {_time(commit)} here: {why} is what limits single enqueues{shared}."


def _work_ms(measured: Mapping[str, Figures]) -> float:
    """What a job costs beside the commit, as far as a batch tells."""
    per_second = measured.get("enqueue-many", {}).get("per_second")
    return 1e3 / per_second if per_second else 0.0


def _uneven(measured: Mapping[str, Figures]) -> str | None:
    for name, what in (("enqueue", "enqueues"), ("start-latency", "starts")):
        figures = measured.get(name)
        if figures is None or figures["count"] < 100:
            continue
        if figures["p99_ms"] > max(UNEVEN_FROM, UNEVEN * figures["p50_ms"]):
            return (
                f"One in a hundred {what} takes {_time(figures['p99_ms'])} instead of {_time(figures['p50_ms'])}: "
                "something else keeps this machine, the server or its disk busy now and then."
            )
    return None


def _median(measured: Mapping[str, Figures], name: str) -> float | None:
    return measured[name]["p50_ms"] if name in measured else None
