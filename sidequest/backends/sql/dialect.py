"""THE STORE, in SQL. What each dialect says in its own way, and how all of them do a piece of work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sidequest.backends.base import Backend, Clock
from sidequest.backends.shapes import Group
from sidequest.backends.sql.session import NO_VALUES, Row, Session, Values, Work, transaction
from sidequest.backends.work import T, Unswerving, persist, to_the_end
from sidequest.config import DatabaseURL
from sidequest.jobs.record import NewJob
from sidequest.jobs.states import State

PATIENCE = timedelta(seconds=5)


class Dialect(Backend):
    """A backend whose tables are spoken to in SQL: all that depends on which SQL."""

    READY: ClassVar[str]
    """The condition that a job is waiting and due, literally as the claim index has it."""
    NOT_YET: ClassVar[str]
    """The condition that a job is waiting for its time, literally as the due index has it."""
    CLAIM_ORDER: ClassVar[str] = "priority DESC, available_at, id"
    """In which order jobs of a queue are claimed, literally as the claim index has it."""
    WHOLE_GROUPS: ClassVar[bool] = False
    """Whether `write_group` is one statement, however many changes it writes."""
    SOME_ROWS: ClassVar[str] = ""
    """What a DELETE ends with so that it stops before it takes longer than a statement may; it is repeated."""
    LOCK_ROWS: ClassVar[str]
    """What a SELECT ends with so that nobody changes its rows before the transaction ends."""
    LOCK_FREE_ROWS: ClassVar[str]
    """The same, leaving out the rows that somebody else has locked; empty where rows are not locked one by one."""
    DRIVER_KEEPS_TIME: ClassVar[bool] = False
    """Whether sessions leave deadlines to the driver, instead of cancelling what takes too long."""
    STEPS_TABLE: ClassVar[str]
    """Creates the table of applied schema steps unless it is there."""
    STEP_APPLIED: ClassVar[str]
    """Notes the schema step `{step}`, which needs `{needs}`, as applied now: for schemas that are applied by hand."""

    def __init__(
        self,
        url: DatabaseURL,
        role: str,
        *,
        pool: object | None = None,
        clock: Clock | None = None,
        patience: timedelta = PATIENCE,
        schema: str = "",
    ) -> None:
        """`patience` is how long conflicts are tried again; `schema` stands before the tables' names, with its dot."""
        super().__init__(url, role, pool=pool, clock=clock)
        self.shown = url.shown
        """The URL for messages, worked out once: sessions want it all the time."""
        self.schema = schema
        self.jobs = f"{schema}{url.prefix}jobs"
        self.queues = f"{schema}{url.prefix}queues"
        self.engines = f"{schema}{url.prefix}engines"
        self.steps = f"{schema}{url.prefix}migrations"
        self.patience = patience
        self._known_queues: set[str] = set()

    # What each dialect says in its own way

    @abstractmethod
    def writer(self) -> AbstractAsyncContextManager[Session]:
        """A connection to write with, ours until the block ends. Raises BackendUnavailable."""

    @abstractmethod
    def reader(self) -> AbstractAsyncContextManager[Session]:
        """A connection for one statement that reads. Raises BackendUnavailable."""

    @abstractmethod
    def beating(self, within: timedelta | None) -> AbstractAsyncContextManager[Session]:
        """The connection that an engine keeps for its beats, for a statement that takes `within` at most.

        Raises BackendUnavailable.
        """

    @abstractmethod
    async def session_on(self, connection: object) -> Session:
        """The user's own connection as a session in its open transaction. Raises TypeError when it is none of this database."""

    @abstractmethod
    def to_column(self, instant: datetime) -> Any:
        """The instant as a column holds it: microseconds kept, and in its order."""

    @abstractmethod
    def from_column(self, value: Any) -> datetime:
        """The aware instant, in UTC, that a column holds."""

    @abstractmethod
    def schema_lock(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Nobody else applies a step until the block ends; the session is inside a transaction."""

    @abstractmethod
    async def table_exists(self, session: Session, table: str) -> bool:
        """Whether there is such a table; `table` as the attributes `jobs`, `queues`, … name it."""

    @abstractmethod
    async def insert_jobs(self, session: Session, jobs: Sequence[NewJob], now: datetime) -> Sequence[int]:
        """Insert the jobs at `now`, by one statement; their ids, in order. They are one of the `parts` of an insert."""

    @abstractmethod
    async def insert_queue(self, session: Session, row: Values) -> bool:
        """Create the queue; False, without an error, when its name exists."""

    @abstractmethod
    async def write_group(self, session: Session, group: Group, now: datetime) -> Iterable[int]:
        """Write changes of one shape where their fence holds; exactly the ids of the others.

        What is one statement (a single change; with `WHOLE_GROUPS`, any number) comes without a transaction around it.
        """

    @abstractmethod
    def among(self, ids: Sequence[int]) -> tuple[str, Values]:
        """The condition that a job's id is one of these, and its parameters."""

    @abstractmethod
    def in_states(self, states: Collection[State]) -> str:
        """The condition that a job is in one of these states, so that an index serves it where there is one."""

    @abstractmethod
    def counts(self, clause: str) -> str:
        """Counts the jobs of the WHERE clause (or all, if it is empty) in rows of state and number; a state may come twice."""

    @abstractmethod
    def contains(self, column: str, parameter: str) -> str:
        """The condition that the column contains that parameter's text, whatever the ASCII case."""

    @abstractmethod
    def has_tag(self) -> str:
        """The condition that the job has the tag of the parameter `:tag`."""

    @abstractmethod
    def bucket(self, column: str) -> str:
        """How many whole `:width_us` after `:start_us` (microseconds since 1970) the column's instant is."""

    # How work is done

    async def transact(self, work: Work[T]) -> T:
        """Do the work in one transaction, also when the caller is cancelled; again after a conflict."""
        async with self.writer() as session:
            return await self._whole(persist(lambda: transaction(session, work), self.patience))

    async def autocommit(self, work: Work[T]) -> T:
        """Do the work, which is one statement, without the cost of a transaction around it."""
        async with self.writer() as session:
            return await self._whole(persist(lambda: work(session), self.patience))

    def _whole(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        return Unswerving(work) if self.DRIVER_KEEPS_TIME else to_the_end(work)

    async def read(self, work: Work[T]) -> T:
        """Do the work, which only reads; each of its statements sees what is committed by then."""
        async with self.reader() as session:
            return await persist(lambda: work(session), self.patience)

    async def fetch(self, statement: str, values: Values = NO_VALUES) -> Sequence[Row]:
        return await self.read(lambda session: session.fetch(statement, values))

    async def execute(self, statement: str, values: Values) -> int:
        return await self.autocommit(lambda session: session.execute(statement, values))
