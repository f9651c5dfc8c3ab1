"""What a database tells about a statement that it ran, in words that fit all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

JOBS = "jobs"
PRIMARY = "primary"


class Access(NamedTuple):
    """One way by which a statement went into a table."""

    table: str
    """Without the prefix."""
    index: str | None
    """Its name without the prefixes, `primary` for the order of ids; None: whole table, in no order."""
    bounded: bool
    """Whether a condition says where in the index to begin or to end; else only a LIMIT ends it."""
    rows: int | None
    """Rows and index entries looked at; None where the database does not tell."""


class Plan(NamedTuple):
    """How one statement was run."""

    statement: str
    accesses: Sequence[Access]
    sorts: bool
    """Whether jobs were put in order by anything but an index."""
    cost: int
    """Work done, in the database's own unit: `Place.unit`."""
    text: str
    """The database's own words."""

    @property
    def to_jobs(self) -> Sequence[Access]:
        return [access for access in self.accesses if access.table == JOBS]

    def __str__(self) -> str:
        accesses = "\n".join(str(access) for access in self.accesses)
        return f"{self.statement}\n\n{self.text}\n\n{accesses}\ncost {self.cost}{', sorts jobs' if self.sorts else ''}"


class Seen(NamedTuple):
    """What the same call took in the small database and in the large one."""

    answer: object
    """The large one's."""
    plans: Sequence[Plan]
    """The large one's."""
    small_cost: int

    @property
    def cost(self) -> int:
        return sum(plan.cost for plan in self.plans)

    @property
    def indexes(self) -> frozenset[str | None]:
        """The ways by which it came to jobs."""
        return frozenset(access.index for plan in self.plans for access in plan.to_jobs)

    @property
    def unbounded(self) -> frozenset[str | None]:
        """Those of them that were gone through from one end on, past whatever was there."""
        return frozenset(access.index for plan in self.plans for access in plan.to_jobs if not access.bounded)

    @property
    def sorts(self) -> bool:
        return any(plan.sorts for plan in self.plans)

    @property
    def most_rows(self) -> int:
        """The most jobs or entries that were looked at in one go; zero where the database does not tell."""
        return max((access.rows or 0 for plan in self.plans for access in plan.to_jobs), default=0)

    def rows(self, index: str | None) -> int:
        """The most jobs or entries that were looked at in one go by this index; zero where the database does not tell."""
        return max((access.rows or 0 for plan in self.plans for access in plan.to_jobs if access.index == index), default=0)

    def __str__(self) -> str:
        plans = "\n\n".join(str(plan) for plan in self.plans)
        return f"cost {self.small_cost} in the small database, {self.cost} in the large one\n\n{plans}"
