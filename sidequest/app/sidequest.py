"""APP PROCESS. `Sidequest`: the client that an app starts, and the engine that comes with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack

import anyio
from anyio.abc import TaskGroup

from sidequest import failpoints
from sidequest.app import status as statuses
from sidequest.app.engine_process import EngineProcess, import_path
from sidequest.app.host_lock import HostLock, app_key
from sidequest.app.hosting import Hosting
from sidequest.app.lifespan import Lifespan
from sidequest.app.operations import EnginesOperations, JobsOperations, QueuesOperations
from sidequest.app.status import Probe, Status
from sidequest.backends import make_backend, moves
from sidequest.backends.announcer import Announcer, OwnEngine
from sidequest.backends.base import Backend
from sidequest.backends.joined import JoinedInserts
from sidequest.backends.sql.sqlalchemy_session import after_commit
from sidequest.backends.watch import EndWatch
from sidequest.clock import utc_now
from sidequest.config import QueueSettings, Settings
from sidequest.engine.engine import Engine, Orders
from sidequest.engine.inline import InlineLink
from sidequest.errors import ConfigError, first_cause
from sidequest.jobs import client as clients
from sidequest.jobs.checks import Seconds
from sidequest.jobs.client import CancelAnswer, Client
from sidequest.jobs.definition import Definition, registry
from sidequest.jobs.naming import Script, script_path
from sidequest.jobs.options import EnqueueOptions
from sidequest.jobs.record import JobEnd, JobRecord, NewJob
from sidequest.wire.lesson import Lesson
from sidequest.worker.loading import StartedInWorker
from sidequest.worker.serve import in_worker

LAST_ENQUEUES = 5.0
"""Seconds in which enqueues that have begun may end when everything stops; then the store is closed under them."""


class SidequestSettings(TypedDict, total=False):
    """The keyword settings of `Sidequest`; `config.Settings` gives meanings and defaults."""

    engine: Literal["auto", "process", "inline", "off"]
    event_loop: Literal["auto", "asyncio", "uvloop"]
    migrate: bool
    max_concurrent_jobs: int
    min_workers: int
    max_workers: int
    worker_idle_timeout: Seconds
    max_jobs_per_worker: int
    max_worker_memory: int | None
    worker_start_timeout: Seconds
    polling_interval: Seconds
    start_timeout: Seconds
    shutdown_timeout: Seconds
    kill_grace: Seconds
    heartbeat_interval: Seconds
    lease_life: Seconds
    rescue_interval: Seconds
    on_lease_lost: Literal["continue", "kill"]
    stale_running: Seconds | None
    stale_claimed: Seconds | None
    spool: str | os.PathLike[str] | None
    keep_completed: Seconds
    keep_failed: Seconds
    cleanup_interval: Seconds
    queues: Mapping[str, int | QueueSettings] | Sequence[str]
    queue_defaults: QueueSettings
    modules: Sequence[str]
    job_defaults: EnqueueOptions
    log_level: str


class _RunningEngine(OwnEngine, Protocol):
    """What the client tells its engine, wherever that runs."""

    def learn(self, lesson: Lesson) -> None: ...


class Sidequest(Client):
    """Background jobs in your database: `async with Sidequest("sqlite:///app.db"):`.

    The URL comes from the argument, else SIDEQUEST_URL, else `sqlite:///sidequest.db`. No I/O
    happens before `start`. Raises ConfigError, TypeError or ValueError naming a wrong setting.
    """

    jobs: JobsOperations
    """Look at jobs, and move them by hand."""
    queues: QueuesOperations
    """Look at queues and change their settings."""
    engines: EnginesOperations
    """Look at the engines of this database."""

    def __init__(self, url: str | None = None, /, *, pool: object | None = None, **settings: Unpack[SidequestSettings]) -> None:
        """`pool` is the app's own way to the same database, for this process to use in place of own
        connections: an asyncpg or aiomysql pool, a Motor client, an SQLAlchemy `AsyncEngine`.
        """
        self._settings = Settings.collect(url, settings)
        if pool is not None and self._settings.engine == "inline":
            raise ConfigError("pool: an inline engine needs connections of its own; leave pool= out")
        self._pool = pool
        make_backend(self._settings.url, pool=pool)  # refuses a scheme or an option that is not known
        self._job_defaults = self._settings.job_defaults
        self._store: Backend | None = None
        self._ends: EndWatch | None = None
        self._announcer: Announcer | None = None
        self._joined: JoinedInserts | None = None
        self._engine: _RunningEngine | None = None
        self._hosting: Hosting | None = None
        self._inline: Engine | None = None
        self._probe: Probe | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._modules: dict[str, None] = dict.fromkeys(self._settings.modules)
        self._late: set[str] = set()
        self.jobs = JobsOperations(self._opened, self._wake, self._look_for_cancels)
        self.queues = QueuesOperations(self._opened, self._wake, self._settings.queue_defaults)
        self.engines = EnginesOperations(self._opened)

    def __repr__(self) -> str:
        return f"<Sidequest {make_backend(self._settings.url).url.scheme} engine={self._settings.engine}>"

    # Life

    async def start(self) -> Self:
        """Connect, migrate, start the engine or join the one that this host has. Idempotent.

        Raises BackendUnavailable, SchemaMismatch, or EngineStartError with the child's own error;
        then nothing is left running.
        """
        if in_worker():
            raise StartedInWorker(
                "Sidequest was started while a worker imported this module: "
                'put `asyncio.run(main())` under `if __name__ == "__main__":`'
            )
        if self._owner is None:
            self._stop = asyncio.Event()
            started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._owner = asyncio.create_task(self._live(started), name="sidequest")
            self._started = started
        try:
            await asyncio.shield(self._started)
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Drain and stop: running jobs get `shutdown_timeout`. Idempotent, from any task and state."""
        owner = self._owner
        if owner is None:
            return
        self._stop.set()
        with suppress(Exception):  # a failed start has raised where it was awaited
            await asyncio.shield(owner)
        if self._owner is owner:
            self._owner = None

    async def wait(self) -> None:
        """Return when it has been stopped. Raises what has ended it, if it ended by itself."""
        owner = self._owner
        if owner is not None:
            await asyncio.shield(owner)

    def hurry(self) -> None:
        """Make a stop, also one that has begun, not wait for running jobs: they are stopped within a
        second or two, and go back to waiting without losing an attempt. Never waits: await `stop()` for that.
        """
        self._end_sooner(EngineProcess.hurry)

    def kill(self) -> None:
        """Stop, and kill this process's engine and its workers now. Never waits: await `stop()` for that.

        Their jobs go back to waiting when another engine sees that the heartbeat has stopped.
        """
        self._end_sooner(EngineProcess.kill)

    def _end_sooner(self, tell: Callable[[EngineProcess], None]) -> None:
        self._stop.set()
        if self._owner is not None and not self._started.done():
            self._owner.cancel()
        elif self._hosting is not None:
            tell(self._hosting.engine)
        elif self._inline is not None:
            self._inline.hurry()  # nobody can kill an engine that is this very process

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def lifespan(self, app: object = None, /) -> Any:
        """For `FastAPI(lifespan=sq.lifespan)`, Starlette, Litestar and aiohttp's `cleanup_ctx`."""
        return Lifespan(self.start, self.stop)

    # How it is

    async def status(self) -> Status:
        """The client, the engine, the database and the way between them, as they are now.

        Takes three seconds at most, and raises for nothing that is down. Raises ConfigError when this
        Sidequest is not started.
        """
        self._opened()
        announcer, probe = self._announcer, self._probe
        assert announcer is not None
        assert probe is not None
        mode, hosting, inline = self._settings.engine, self._hosting, self._inline
        database = asyncio.create_task(probe.ask(statuses.DATABASE_PATIENCE))
        if inline is not None:
            engine = statuses.inline_status(inline.engine_id, inline.vitals(), self._since)
        else:
            engine = await statuses.engine_status(hosting)
        return Status(
            statuses.client_status(mode, hosting), engine, await database, statuses.wake_up_status(mode, announcer.road)
        )

    @property
    def engine_id(self) -> str | None:
        """The engine of this process; None when it has none, or has not started it yet."""
        return None if self._engine is None else self._engine.engine_id

    @property
    def engine_pid(self) -> int | None:
        """The process of that engine; None when this process has none of its own."""
        return None if self._hosting is None else self._hosting.engine.pid

    async def _live(self, started: asyncio.Future[None]) -> None:
        """One task holds everything that is open, so that start and stop may come from different ones."""
        store = make_backend(self._settings.url, pool=self._pool)  # __init__ has seen to it that this works
        self._ends = ends = EndWatch(store, self._watch)
        hosting: Hosting | None = None
        try:
            if self._settings.engine in ("auto", "process"):
                self._hosting = hosting = self._new_hosting(ends)
                await hosting.launch()  # it imports while we open the database
            await store.open()
            if self._settings.migrate:
                await store.migrate()
            await store.check_schema()
            async with anyio.create_task_group() as tasks:
                await self._live_with(store, ends, tasks, started)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(first_cause(error))
            started.exception()  # whoever awaits it gets it; nobody awaiting is no news
        finally:
            clients.detach(self)
            ends.close()
            if hosting is not None:
                with anyio.CancelScope(shield=True):
                    await hosting.stop()
            self._store = self._ends = self._announcer = self._joined = self._engine = None
            self._hosting = self._inline = self._probe = None
            await store.close()

    async def _live_with(self, store: Backend, ends: EndWatch, tasks: TaskGroup, started: asyncio.Future[None]) -> None:
        self._store = store
        self._announcer = Announcer(store, suffices=self._settings.serves_all)
        self._joined = JoinedInserts(store, self._settings.queue_defaults, self._announcer.work)
        tasks.start_soon(ends.run)
        self._probe = Probe(store)
        tasks.start_soon(self._announcer.run)
        tasks.start_soon(self._probe.run)
        if self._hosting is not None:
            await self._with_engine_process(self._hosting, tasks, started)
        elif self._settings.engine == "inline":
            await self._with_inline_engine(store, tasks, started)
        else:
            await self._until_stopped(started)
        tasks.cancel_scope.cancel()

    def _new_hosting(self, ends: EndWatch) -> Hosting:
        engine = EngineProcess(self._settings, self._script(), self._known_modules, ends.watched, ends.ended)
        lock = HostLock(app_key(self._settings)) if self._settings.engine == "auto" else None
        return Hosting(engine, lock, lambda: self._has_engine(engine))

    async def _with_engine_process(self, hosting: Hosting, tasks: TaskGroup, started: asyncio.Future[None]) -> None:
        self._known_modules()  # those that come later are told one by one
        await failpoints.reach("app.before_engine")
        await hosting.start()
        tasks.start_soon(hosting.run)
        try:
            await self._until_stopped(started)
        finally:
            with anyio.CancelScope(shield=True):
                await hosting.stop()

    async def _with_inline_engine(self, store: Backend, tasks: TaskGroup, started: asyncio.Future[None]) -> None:
        self._known_modules()
        engine = Engine(Orders(self._settings), store, lambda: InlineLink(self), _InlineListener(self._ends))
        ready = asyncio.Event()
        running = asyncio.create_task(engine.run(ready.set))
        ready_or_failed = asyncio.create_task(ready.wait())
        await asyncio.wait([running, ready_or_failed], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            ready_or_failed.cancel()
            await running
        self._inline, self._since = engine, utc_now()
        self._has_engine(engine)
        try:
            await self._until_stopped(started)
        finally:
            engine.stop()
            with anyio.CancelScope(shield=True):
                await running

    def _has_engine(self, engine: _RunningEngine) -> None:
        assert self._announcer is not None
        assert self._ends is not None
        self._engine = self._announcer.own = engine
        self._ends.hinted = True

    async def _until_stopped(self, started: asyncio.Future[None]) -> None:
        clients.attach(self)
        if not started.done():
            started.set_result(None)
        await self._stop.wait()
        clients.detach(self)
        if self._joined is not None:
            await self._joined.drain(LAST_ENQUEUES)
        if self._announcer is not None:
            await self._announcer.flush()

    # The client's own road to the store

    def _prepare(self, definitions: Iterable[Definition]) -> None:
        late: list[str] = []
        for definition in definitions:
            self._opened()
            module, inline = definition.module, self._settings.engine == "inline"
            if not inline and definition.unreachable is not None:
                raise ConfigError(f"{definition.unreachable}; worker processes could not find it where it is")
            if module is not None and module not in self._modules:
                if definition.target.__module__ == "__main__" and not inline:
                    raise ConfigError(f"{definition.name} was defined after Sidequest was started: define jobs before that")
                self._modules[module] = None
                self._late.add(module)
                if self._engine is not None and not inline:
                    self._engine.learn(Lesson([module], import_path()))
            if module in self._late:
                late.append(module)
        if late:
            self._teach_the_owners_engine(late)

    def _teach_the_owners_engine(self, modules: list[str]) -> None:
        """Each time: its engine may be a new one, and need not have imported what this process has."""
        if self._hosting is not None and self._hosting.role == "client" and self._announcer is not None:
            assert self._hosting.lock is not None
            engine = self._hosting.lock.read().get("engine")
            if engine is not None:
                self._announcer.teach(engine, Lesson(modules, import_path()).to_bytes())

    async def _insert_one(self, job: NewJob, connection: object | None) -> int:
        self._opened()
        if connection is not None or self._joined is None:
            return await super()._insert_one(job, connection)
        await failpoints.reach("enqueue.before_send")
        return await self._joined.insert(job)

    async def _insert(self, jobs: Sequence[NewJob], connection: object | None = None) -> Sequence[int]:
        store = self._opened()
        await failpoints.reach("enqueue.before_send")
        ids = await store.insert(jobs, self._settings.queue_defaults, connection)
        await failpoints.reach("enqueue.after_commit")
        if connection is None:
            self._wake()
        elif not after_commit(connection, self._wake) and self._announcer is not None:
            self._announcer.uncommitted_work()
        return ids

    async def _find(self, id: int) -> JobRecord:
        return await moves.find(self._opened(), id)

    async def _cancel(self, id: int) -> CancelAnswer:
        return await self.jobs.cancel(id)

    async def _ended(self, id: int, timeout: float | None) -> JobEnd:
        self._opened()
        assert self._ends is not None
        return await self._ends.wait(id, timeout)

    def _opened(self) -> Backend:
        if self._store is None or self._stop.is_set():
            if in_worker():
                raise ConfigError("inside a job use `job.enqueue(…)` or `ctx.sidequest`: workers do not open the database")
            raise ConfigError("this Sidequest is not started: use `async with sq:` or `await sq.start()`")
        return self._store

    def _wake(self) -> None:
        if self._announcer is not None:
            self._announcer.work()

    def _look_for_cancels(self) -> None:
        if self._announcer is not None:
            self._announcer.cancels()

    def _watch(self, ids: list[int]) -> None:
        if isinstance(self._engine, EngineProcess):
            self._engine.watch(ids)

    def _known_modules(self) -> list[str]:
        """The modules that workers import: those named, and those that have defined jobs here."""
        self._modules |= dict.fromkeys(registry.modules())
        return list(self._modules)

    def _script(self) -> Script | None:
        """The app's own file, if jobs are defined in it."""
        path = script_path()
        if path is None or path.stem not in registry.modules():
            return None
        return Script(path.stem, str(path))


class _InlineListener:
    """Tells the client what an engine in its own loop has ended."""

    def __init__(self, ends: EndWatch | None) -> None:
        self._ends = ends

    def engine_renamed(self, engine_id: str) -> None:
        """Nobody here needs to know."""

    def jobs_ended(self, ids: Sequence[int]) -> None:
        if self._ends is not None:
            self._ends.ended(ids)

    def workers_changed(self, pids: Sequence[int]) -> None:
        """There are no worker processes."""
