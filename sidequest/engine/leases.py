"""ENGINE PROCESS. What this engine holds, compared with what the store says that it holds.

Two ways to differ. A *stray* is leased to us and unknown here: a claim whose answer was lost was
applied all the same; it is given back. A *lost* job runs here and is leased to somebody else, or
nobody: others believed us dead; it is stopped, and what comes of it is dropped.

Lost jobs are looked up by their ids, which costs little everywhere. Strays are looked for only when
there is a reason: on PostgreSQL that reads every job that this engine ever had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from random import Random

from sidequest import failpoints
from sidequest.backends.base import Backend
from sidequest.clock import monotonic
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Released
from sidequest.jobs.record import ClaimedJob, JobRecord
from sidequest.jobs.states import HELD

logger = logging.getLogger(__name__)
RECONCILE = 1_000
LOOK_UP = 200
"""Jobs that are read at a time: each may come with a MiB of arguments."""
NAMED = 10
"""Ids in one line of the log."""


class Leases:
    """Asked by the heartbeat after each beat: `check` does nothing when there is no doubt."""

    def __init__(
        self,
        store: Backend,
        holding: Callable[[], Sequence[ClaimedJob]],
        knows: Callable[[ClaimedJob], bool],
        lose: Callable[[Iterable[int]], None],
    ) -> None:
        """`holding`: what runs or waits here; `knows`: whether that claim is held, or its end on its way;
        `lose`: stop jobs that are no longer ours.
        """
        self._store = store
        self._holding = holding
        self._knows = knows
        self._lose = lose
        self._doubtful = False
        self.uncertain = False
        """Whether there may be strays: a claim's answer was lost, or came to an engine that we are no longer."""
        self._suspects: set[tuple[int, str]] = set()
        self._former: dict[str, float] = {}
        self._chance = Random()

    def claim_uncertain(self) -> None:
        """A claim's answer was lost: it may have been applied without anybody here knowing."""
        self.uncertain = True

    def doubt(self) -> None:
        """Some job of ours may be somebody else's."""
        self._doubtful = True

    def left(self, engine_id: str, until: float) -> None:
        """We are this engine no longer; a claim of its may still come in, `until` (monotonic)."""
        self._former[engine_id] = until
        self.uncertain = True

    async def check(self, engine_id: str) -> None:
        """Clear up what is in doubt; it stays in doubt when the store cannot be asked."""
        if self._doubtful:
            self._doubtful = False  # before: there may be new doubt while the store is asked
            try:
                await self.find_lost(engine_id)
            except BaseException:
                self._doubtful = True
                raise
        if self.uncertain:
            await self._find_strays(engine_id)

    async def find_lost(self, engine_id: str, given_up_by: str | None = None) -> int:
        """Stop the jobs here that are not leased to us any more; how many there are."""
        lost: list[ClaimedJob] = []
        owners: set[str] = set() if given_up_by is None else {given_up_by}
        holding = [*self._holding()]
        for some in (holding[n : n + LOOK_UP] for n in range(0, len(holding), LOOK_UP)):
            records = {record.id: record for record in await self._store.get_many(job.id for job in some)}
            for job in some:
                record = records.get(job.id)
                if not is_ours(job, record):
                    lost.append(job)
                    owners |= {record.engine} if record is not None and record.engine not in (None, engine_id) else set()
        if lost:
            ids = ", ".join(str(job.id) for job in lost[:NAMED]) + (", …" if len(lost) > NAMED else "")
            logger.warning(
                "engine %s has lost %d jobs to %s: they are stopped here, and what comes of them is dropped: %s",
                engine_id, len(lost), " and ".join(sorted(owners)) or "nobody in particular", ids,
            )  # fmt: skip
            self._lose([job.id for job in lost])
        return len(lost)

    async def _find_strays(self, engine_id: str) -> None:
        """Release the jobs that are leased to this engine and that it does not know.

        Only what was unknown at the last check as well: another claim's answer may be on its way.
        """
        self.uncertain = False
        suspects: set[tuple[int, str]] = set()
        try:
            for id in (engine_id, *self._former):
                suspects |= await self._strays_of(id)
        except BaseException:
            self.uncertain = True
            raise
        self._suspects = suspects
        now = monotonic()
        self._former = {id: until for id, until in self._former.items() if until > now}
        self.uncertain = self.uncertain or bool(suspects) or bool(self._former)

    async def _strays_of(self, engine_id: str) -> set[tuple[int, str]]:
        held = await self._store.held_by(engine_id, RECONCILE)
        unknown = {(job.id, job.lease): job for job in held if not self._knows(job)}
        strays = [job for key, job in unknown.items() if key in self._suspects]
        if strays:
            now = self._store.now()
            await failpoints.reach("release.before_write")
            await self._store.apply([transitions.finish(job, Released(), None, now, self._chance) for job in strays])
            await failpoints.reach("release.after_write")
            logger.warning("gave back %d jobs of a claim whose answer was lost", len(strays))
        self.uncertain = self.uncertain or len(held) == RECONCILE
        return unknown.keys() - {(job.id, job.lease) for job in strays}


def is_ours(job: ClaimedJob, record: JobRecord | None) -> bool:
    """Whether the row is still held under the lease of that claim."""
    return record is not None and record.lease == job.lease and record.state in HELD
