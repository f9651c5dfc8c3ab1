"""PURE CENTRE. Enqueueing, seen from the job's side: calls, clients, handles, and which client is meant.

A `Client` turns calls into `NewJob`s and hands them to a store. `Sidequest` is the client of an
app process; a running job has one (`ctx.sidequest`) that asks its engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar, Unpack

from sidequest.errors import ConfigError, JobCanceled, JobFailed
from sidequest.jobs import checks, codec
from sidequest.jobs.definition import Definition
from sidequest.jobs.options import EnqueueOptions, check_enqueue_options
from sidequest.jobs.outcome import read_errors
from sidequest.jobs.record import JobEnd, JobRecord, NewJob
from sidequest.jobs.states import State

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

CancelAnswer = Literal["canceled", "requested", "too_late"]
"""`canceled`: it was waiting and is canceled now. `requested`: its engine will stop it within a
second. `too_late`: it had ended already."""


@dataclass(frozen=True, slots=True)
class JobCall(Generic[R_co]):
    """A job, its arguments and its options as a value: for `enqueue`, `enqueue_many`, schedules.

    The arguments are JSON text already: whatever could not be stored was refused by `.call()`.
    `definition` is None for a call by name to code that this process does not have.
    """

    name: str
    args: str
    options: Mapping[str, Any]
    definition: Definition | None

    def resolved(self, defaults: Mapping[str, Any]) -> NewJob:
        """The job to store: the nearest option wins."""
        layers = dict(defaults)
        if self.definition is not None:
            layers |= self.definition.options
        if self.options:
            layers |= self.options
            if "at" in self.options:
                layers.pop("delay", None)
            elif "delay" in self.options:
                layers.pop("at", None)
            layers.pop("connection", None)  # says where the job is stored, not what is stored
        return NewJob(self.name, self.args, **layers)


class Client(ABC):
    """Enqueues jobs and follows them. Safe to use from many tasks of one event loop."""

    _job_defaults: Mapping[str, Any] = {}

    async def enqueue(self, call: JobCall[R], /, **options: Unpack[EnqueueOptions]) -> JobHandle[R]:
        """Store a job; when this returns it is committed. Keyword options win over the call's.

        With `connection` the job becomes part of that transaction: it exists, and runs, if and only
        if the caller commits. Raises TypeError or ValueError for a bad option, and then nothing was
        stored; BackendUnavailable when the database cannot be reached: the job may have been stored
        only if the connection broke in the middle of the commit, when nobody can say.

        Calls that are under way together share a statement, and nothing else: what is wrong with one is
        no concern of the others. Whoever is cancelled before the job is on its way has not stored it.
        """
        _must_be_call("call", call)
        if options:
            call = replace(call, options=with_options(call.options, options))
        if call.definition is not None:
            self._prepare((call.definition,))
        id = await self._insert_one(call.resolved(self._job_defaults), call.options.get("connection"))
        return JobHandle(id, call.name, self, call.definition)

    async def enqueue_many(
        self, calls: Iterable[JobCall[Any]], /, *, connection: object | None = None
    ) -> Sequence[JobHandle[Any]]:
        """Store many jobs, all or none; the handles come in the order of the calls.

        The calls may come from a generator. Their arguments, as text, are kept until all are stored.
        With `connection` they become part of that transaction, as with the option of that name.
        """
        if isinstance(calls, JobCall) or not isinstance(calls, Iterable):
            raise TypeError(f"calls must be an iterable of calls such as job.call(…), not {calls!r}")
        batch = _Batch(self._job_defaults)
        for call in calls:
            batch.add(call)
        if connection is None:
            connection = batch.shared_connection()
        self._prepare({definition for definition in batch.definitions if definition is not None})
        ids = await self._insert(batch.jobs, connection)
        stored = zip(ids, batch.jobs, batch.definitions, strict=True)
        return [JobHandle(id, job.name, self, definition) for id, job, definition in stored]

    def handle(self, id: int, /) -> JobHandle[Any]:
        """The handle of a job known by its id. Whether it exists shows when the handle is used."""
        return JobHandle(checks.job_id("id", id), "?", self, None)

    @abstractmethod
    def _prepare(self, definitions: Iterable[Definition]) -> None:
        """Make sure that workers will find these jobs' code; raise ConfigError if they cannot."""

    async def _insert_one(self, job: NewJob, connection: object | None) -> int:
        """Store a job that has nothing to do with others; its id."""
        [id] = await self._insert([job], connection)
        return id

    @abstractmethod
    async def _insert(self, jobs: Sequence[NewJob], connection: object | None = None) -> Sequence[int]:
        """Store the jobs in one transaction, the caller's if `connection` is one; their ids, in order."""

    @abstractmethod
    async def _find(self, id: int) -> JobRecord:
        """The job as it stands; JobNotFound when there is none."""

    @abstractmethod
    async def _cancel(self, id: int) -> CancelAnswer:
        """Cancel it, or ask for it; JobNotFound when there is none."""

    @abstractmethod
    async def _ended(self, id: int, timeout: float | None) -> JobEnd:
        """Wait until the job has ended; TimeoutError, JobNotFound."""


class JobHandle(Generic[R_co]):
    """A stored job: wait for it, read it, cancel it. Cheap; keeps nothing but the id."""

    __slots__ = ("_client", "_definition", "duplicate", "id", "name")

    def __init__(self, id: int, name: str, client: Client, definition: Definition | None, *, duplicate: bool = False) -> None:
        self.id = id
        self.name = name
        self.duplicate = duplicate
        """Whether uniqueness found an existing job instead of storing a new one."""
        self._client = client
        self._definition = definition

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} {self.name}>"

    async def result(self, timeout: float | None = None) -> R_co:
        """What the job returned, as soon as it has ended.

        Raises JobFailed with the remote traceback, JobCanceled, TimeoutError after `timeout`
        seconds (the job goes on), JobNotFound.
        """
        end = await self._ended(timeout)
        if end.state is State.CANCELED:
            raise JobCanceled(end.id, end.name)
        if end.state is State.FAILED:
            raise _failure(end)
        classes = self._definition.result_classes if self._definition is not None else None
        if end.result is None:
            return None  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
        value: Any = codec.read_plain(end.result) if classes is None else codec.load(end.result, classes)
        return value  # type: ignore[no-any-return]

    async def wait(self, timeout: float | None = None) -> State:
        """The state in which the job ended. Raises TimeoutError and JobNotFound, never JobFailed."""
        return (await self._ended(timeout)).state

    async def cancel(self) -> CancelAnswer:
        """Cancel the job: `canceled` at once if it waits, `requested` if it runs, or `too_late`."""
        return await self._client._cancel(self.id)

    async def refresh(self) -> JobRecord:
        """The job as it stands in the store now. Raises JobNotFound."""
        return await self._client._find(self.id)

    async def _ended(self, timeout: float | None) -> JobEnd:
        if timeout is not None:
            timeout = checks.duration("timeout", timeout).total_seconds()
        return await self._client._ended(self.id, timeout)


class _Batch:
    """Calls that become jobs of one transaction. What many in a row have in common is worked out once."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self.jobs: list[NewJob] = []
        self.definitions: list[Definition | None] = []
        """Those of the jobs, one by one."""
        self._defaults = defaults
        self._last: JobCall[Any] | None = None
        self._way: tuple[Any, ...] = ()
        self._connections: dict[int, object | None] = {}

    def add(self, call: JobCall[Any]) -> None:
        if type(call) is not JobCall:
            _must_be_call(f"calls[{len(self.jobs)}]", call)
        last = self._last
        if last is None or call.options is not last.options or call.definition is not last.definition:
            self._last, self._way = call, call.resolved(self._defaults).way
            connection = call.options.get("connection")
            self._connections[id(connection)] = connection
        self.jobs.append(NewJob._make((call.name, call.args, *self._way)))
        self.definitions.append(call.definition)

    def shared_connection(self) -> object | None:
        """The connection that all of the calls name, if they name one."""
        if len(self._connections) > 1:
            raise ValueError("the calls name different connections: jobs of one enqueue_many are stored in one transaction")
        return next(iter(self._connections.values()), None)


def _failure(end: JobEnd) -> JobFailed:
    errors = read_errors(end.errors)
    if not errors:
        return JobFailed(end.id, end.name, "Failed", "")
    last = errors[-1]
    return JobFailed(end.id, end.name, last.type, last.message, last.trace)


_running: list[Client] = []
_chosen: ContextVar[Client | None] = ContextVar("sidequest_client", default=None)


def attach(client: Client) -> None:
    """From now on `job.enqueue()` without a client may mean this one."""
    _running.append(client)


def detach(client: Client) -> None:
    if client in _running:
        _running.remove(client)


def choose(client: Client) -> None:
    """From here on in this context (of a task, say) `job.enqueue()` means this client."""
    _chosen.set(client)


@contextmanager
def using(client: Client) -> Generator[None, None, None]:
    """Inside the block (and the tasks started there) `job.enqueue()` means this client."""
    token = _chosen.set(client)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_client() -> Client:
    """The client that `job.enqueue()` means here. Raises ConfigError when that is not clear."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if len(_running) == 1:
        return _running[0]
    if not _running:
        raise ConfigError("Sidequest is not started: use `async with Sidequest(…):` or `lifespan=sq.lifespan`")
    raise ConfigError(
        f"{len(_running)} Sidequests are running ({', '.join(map(repr, _running))}): "
        "say which one with `await sq.enqueue(job.call(…))`"
    )


def with_options(earlier: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others on top; a nearer `delay` replaces an earlier `at`, and vice versa."""
    nearer = check_enqueue_options(given)
    rest = dict(earlier)
    if "delay" in nearer or "at" in nearer:
        rest.pop("delay", None)
        rest.pop("at", None)
    return rest | nearer


def _must_be_call(argument: str, value: object) -> None:
    if not isinstance(value, JobCall):
        raise TypeError(f"{argument} must be a call such as job.call(…), not {type(value).__name__}")
