"""THE STORE. What every backend promises; `tests/conformance` proves it for each of them.

Time is the database's. Every method either does all of what it says or nothing, and may be called
from several tasks at once. A statement that was sent is never cancelled half-way: when the caller
is cancelled, the method finishes its transaction first. Lost connections, locks and full disks
raise BackendUnavailable (the last BackendFull); conflicts with other writers are retried inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from sidequest.config import DatabaseURL
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import ClaimedJob, JobEnd, JobRecord, NewJob
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

Clock = Callable[[], datetime]


class QueueLook(NamedTuple):
    """A queue's settings, and whether it has a job that could be claimed now."""

    queue: QueueRecord
    ready: bool


class Look(NamedTuple):
    """What a dispatcher needs to know before it claims."""

    queues: Sequence[QueueLook]
    next_due_in: timedelta | None
    """Until the next job that is waiting for its time is due; zero or less: promote now."""


class Home(NamedTuple):
    """Where a process lives: two that name the same boot and namespace see each other's process numbers.

    Empty texts: it cannot be told, and nobody may judge by it.
    """

    boot: str = ""
    """The kernel's id of this run of the machine."""
    pid_namespace: str = ""
    """In which the process number means this process: a container has its own."""
    born: str = ""
    """When the process started, in the kernel's ticks: numbers are given again, this not with them."""


class WorkerGroup(NamedTuple):
    """A worker's process group: its leader's number, and when that started (as in `Home.born`)."""

    pid: int
    born: str


NOWHERE = Home()


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """An engine as it stands in the store."""

    id: str
    host: str
    pid: int
    version: str
    queues: str
    started_at: datetime
    heartbeat_at: datetime
    beat: int
    """Rises with every heartbeat: others watch it with their own monotonic clock."""
    home: Home = NOWHERE
    workers: tuple[WorkerGroup, ...] = ()
    """The worker groups that it had at its last beat."""
    given_up_by: str | None = None
    """The engine that found it dead: from then on it cannot beat, and what it holds is taken back."""
    running: int = 0
    """Jobs that it holds (claimed or running); `sq.engines.list()` counts them, a backend does not."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list or count; all given conditions must hold."""

    states: tuple[State, ...] = ()
    queue: str | None = None
    name: str | None = None
    tag: str | None = None
    text: str | None = None
    """Literal text found in name, arguments or errors, without regard to ASCII case."""
    since: datetime | None = None
    """Inserted at this instant or later."""
    until: datetime | None = None
    """Inserted before this instant."""


class Bucket(NamedTuple):
    """How many jobs came and ended in one stretch of time."""

    start: datetime
    enqueued: int
    completed: int
    failed: int
    canceled: int


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Which schema steps a database has."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    newer: tuple[str, ...]
    """Made by a newer Sidequest; this code works with them all the same."""
    unknown: tuple[str, ...]
    """Made by a newer Sidequest; this code must not touch the tables any more."""


class Backend(ABC):
    """A database that holds jobs. Made without I/O; `open` connects, `close` lets go.

    `role` tells for whom it works: the app's commits must survive a power cut, because an enqueue
    is a promise; the engine's may be redone.
    """

    dialect: ClassVar[str]

    def __init__(self, url: DatabaseURL, role: str = "app", *, pool: object | None = None, clock: Clock | None = None) -> None:
        """`pool` is the app's own way to this database, used in place of own connections and left open;
        `clock` stands in for the database's own (tests). Raises TypeError for a pool of another kind.
        """
        self.url = url
        self.role = role
        self.pool = pool
        self.clock = clock

    # Opening, and the schema

    @abstractmethod
    async def open(self) -> None:
        """Connect and check that the server can do what we need. Raises BackendUnavailable, ConfigError."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of all connections. May be called twice, and after a failed `open`."""

    @abstractmethod
    async def migrate(self) -> Sequence[str]:
        """Bring the schema up to date, under a lock; the names of the steps applied.

        However many processes call it at once, each step is applied once. A step that fails
        leaves nothing of itself behind and raises; SchemaMismatch when the schema is newer than
        this code.
        """

    @abstractmethod
    async def migration_status(self) -> MigrationStatus:
        """What is applied and what is pending. Writes nothing, also on an empty database."""

    @abstractmethod
    def migration_sql(self) -> str:
        """All steps as text, for people who apply schemas by hand."""

    @abstractmethod
    async def check_schema(self) -> None:
        """Raise SchemaMismatch, with the command to run, unless the schema is exactly ours."""

    @abstractmethod
    async def drop_tables(self) -> None:
        """Remove our tables (collections) with all that is in them, and nothing else; no error when there are none.

        For when nobody else works with them any more. One that was broken off can be done again, and so can `migrate`.
        """

    @abstractmethod
    async def table_names(self, beginning: str) -> Sequence[str]:
        """The names of all tables (collections), whoever made them, in the place of ours, that begin so; in order."""

    # The server

    @abstractmethod
    async def ping(self) -> None:
        """Ask the server for nothing: how long that takes is the way there and back."""

    @abstractmethod
    async def facts(self) -> Mapping[str, str]:
        """The server's `version`, and its settings that decide how safely and how fast it stores, by their own names.

        What it does not tell is left out.
        """

    @abstractmethod
    def now(self) -> datetime:
        """The database's clock, as far as this process knows it (`server_time` tells how)."""

    @abstractmethod
    def ahead(self) -> timedelta:
        """How far the database's clock is ahead of this host's."""

    # Enqueueing

    @abstractmethod
    async def insert(
        self, jobs: Sequence[NewJob], queue_defaults: QueueRecord, connection: object | None = None
    ) -> Sequence[int]:
        """Store the jobs as waiting, all or none; their ids, in order. Ids are never used again.

        A queue that does not exist yet is created with `queue_defaults`, by whichever of many
        racing inserts comes first. With the user's own `connection` the jobs become part of its
        open transaction; TypeError when it is no connection of this database.
        """

    # Telling engines that there is work

    @property
    @abstractmethod
    def tells(self) -> bool:
        """Whether what is announced is heard by those who listen, also on other hosts."""

    @abstractmethod
    async def announce(self) -> None:
        """Tell the engines that listen on this database, wherever they are, that there is work to look at."""

    @abstractmethod
    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` once when listening has begun, then at each announcement, until cancelled.

        Returns at once where the database has no way to tell. Raises BackendUnavailable when the
        connection is lost: what was announced since then is lost as well.
        """

    # An engine's work: every write is fenced

    @abstractmethod
    async def look(self) -> Look:
        """All queues, by priority (highest first) and name, and when the next job is due. Read only."""

    @abstractmethod
    async def promote(self, limit: int) -> int:
        """Make up to `limit` jobs whose time has come claimable, earliest first; how many there were."""

    @abstractmethod
    async def claim(self, engine: str, lease: str, rooms: Mapping[str, int]) -> Sequence[ClaimedJob]:
        """Mark due waiting jobs as claimed by `engine` under `lease`, and return them.

        At most `rooms[queue]` of each queue: higher priority first, then earlier `available_at`,
        then lower id; returned queue by queue in that order. `attempt` is one higher than before,
        `claimed_at` is now; `started_at` and `progress` of an earlier attempt are cleared. However
        many engines ask at once, each job goes to one of them, and none waits for another.
        """

    @abstractmethod
    async def apply(self, changes: Sequence[Change], *, skip_locked: bool = False) -> frozenset[int]:
        """Write the changes whose fence still holds; the ids of those that were not written.

        The fence: `lease` is the row's (None matches none), the row's state is one of `before`;
        and a change to waiting is refused while a cancel is requested. Columns not named stay.
        One transaction for all; a refused change does not hold up the others. With `skip_locked`
        neither does a row that somebody else's transaction holds: it is not waited for, and counts
        as refused.
        """

    @abstractmethod
    async def save_progress(self, reports: Sequence[tuple[int, str, str]]) -> None:
        """Store (id, lease, JSON text) for jobs that are still held under that lease."""

    @abstractmethod
    async def cancel_requests(self, engine: str) -> Sequence[int]:
        """Jobs held by this engine that someone asked to cancel."""

    # Engines

    @abstractmethod
    async def register_engine(self, id: str, host: str, pid: int, version: str, queues: str, home: Home = NOWHERE) -> None:
        """Make the engine known, with beat 0."""

    @abstractmethod
    async def beat(self, id: str, workers: Sequence[WorkerGroup] = (), within: timedelta | None = None) -> bool:
        """Raise the engine's beat by one, and note its worker groups; False when others gave it up, or its row is gone.

        It waits for no other work of this process: an engine's store keeps a connection for it. Raises
        BackendUnavailable when it has not landed `within` that long (default: as any statement); to
        connect again may take twice as long before that.
        """

    @abstractmethod
    async def give_up_engine(self, id: str, by: str, beat: int | None = None) -> bool:
        """Note that engine `by` found this one dead, unless its beat is no longer `beat` (None: whatever it is).

        Whether it is given up now, by whomever came first; from then on it cannot beat any more.
        """

    @abstractmethod
    async def list_engines(self) -> Sequence[EngineRecord]:
        """All engines that have a row, oldest first, also those that were given up."""

    @abstractmethod
    async def forget_engine(self, id: str) -> None:
        """Remove the engine's row, if it is there."""

    @abstractmethod
    async def held_by(self, engine: str, limit: int) -> Sequence[ClaimedJob]:
        """Up to `limit` jobs that this engine holds (claimed or running), lowest id first."""

    @abstractmethod
    async def count_held(self) -> Mapping[str, int]:
        """How many jobs each engine holds (claimed or running), for those that hold any."""

    # Reading

    @abstractmethod
    async def get(self, id: int) -> JobRecord | None:
        """One job, or None."""

    @abstractmethod
    async def get_many(self, ids: Iterable[int]) -> Sequence[JobRecord]:
        """The jobs with these ids that exist, by id; any number of ids."""

    @abstractmethod
    async def ends(self, ids: Iterable[int]) -> tuple[Sequence[JobEnd], frozenset[int]]:
        """Of these jobs: the ends of those that have ended, and the ids that do not exist."""

    @abstractmethod
    async def list_jobs(self, which: JobFilter, limit: int, before: int | None = None) -> Sequence[JobRecord]:
        """The newest jobs first (by id, descending), with ids below `before`."""

    @abstractmethod
    async def list_after(self, id: int, queue: str | None, limit: int) -> Sequence[JobRecord]:
        """Jobs with ids above `id`, oldest first: what came in since."""

    @abstractmethod
    async def last_id(self) -> int:
        """The highest id there is; 0 when there is none."""

    @abstractmethod
    async def count(self, which: JobFilter) -> Mapping[State, int]:
        """How many there are in each of the six states, zeros included."""

    @abstractmethod
    async def count_over_time(self, start: datetime, width: timedelta, buckets: int, queue: str | None) -> Sequence[Bucket]:
        """Jobs enqueued and ended in each of `buckets` stretches of `width` from `start` on, in order."""

    @abstractmethod
    async def delete(self, ids: Iterable[int]) -> frozenset[int]:
        """Delete those of the jobs that no engine holds; the ids deleted."""

    @abstractmethod
    async def delete_finished(
        self, completed_before: datetime, failed_before: datetime, after: int, window: int
    ) -> tuple[int, int | None]:
        """One step of the clean-up: look at `window` jobs with ids above `after`.

        Deletes the completed and canceled ones that finished before `completed_before` and the
        failed ones before `failed_before`. Returns how many, and the id to go on after; None when
        there is nothing older left to look at.
        """

    # Queues

    @abstractmethod
    async def list_queues(self) -> Sequence[QueueRecord]:
        """By priority (highest first), then name."""

    @abstractmethod
    async def get_queue(self, name: str) -> QueueRecord | None:
        """One queue, or None."""

    @abstractmethod
    async def create_queue(self, queue: QueueRecord) -> bool:
        """Create it; False, changing nothing, when the name exists."""

    @abstractmethod
    async def update_queue(
        self, name: str, *, concurrency: int | None = None, priority: int | None = None, paused: bool | None = None
    ) -> QueueRecord | None:
        """Change only what is given, without a read in between; None when there is no such queue."""

    @abstractmethod
    async def save_queues(self, queues: Iterable[QueueRecord]) -> None:
        """Create or overwrite these queues."""

    @abstractmethod
    async def purge_queue(self, name: str) -> int:
        """Delete the queue's waiting jobs; how many."""
