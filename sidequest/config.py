"""EVERY PROCESS. Every setting once: its type, default and limits.

A setting is given to `Sidequest(...)` by keyword, or in the environment as `SIDEQUEST_` and its
name in capitals; the keyword wins. Durations are seconds or timedeltas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from sidequest.errors import ConfigError
from sidequest.event_loop import loop_factory
from sidequest.jobs import checks
from sidequest.jobs.options import DEFAULT_OPTIONS, check_options
from sidequest.jobs.queue import QueueRecord

ENGINES = ("auto", "process", "inline", "off")
EVENT_LOOPS = ("auto", "asyncio", "uvloop")
DEFAULT_URL = "sqlite:///sidequest.db"
ON_LEASE_LOST = ("continue", "kill")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DURATIONS = ("timeout", "kill_grace", "retry_delay")
"""The options in `job_defaults` that are durations."""
PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,40}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
ALIASES = {"postgres": "postgresql", "mariadb": "mysql"}
"""Other words for the same databases."""
PORTS = {"postgresql": "5432", "mysql": "3306", "mongodb": "27017"}
"""Where the servers listen when a URL does not say."""
THIS_HOST = ("", "localhost", "127.0.0.1", "::1")
SMALLEST_WORKER = 64 * 1024 * 1024
"""Bytes that a worker may need before it has run anything."""
PATTERN = re.compile(r"-?[A-Za-z0-9_.:\-]*\*?")


class QueueSettings(TypedDict, total=False):
    """A queue's settings, as `queues={"mail": {...}}` and `queue_defaults` take them."""

    concurrency: int
    """Jobs of this queue that one engine runs at once. Default 10."""
    priority: int
    """Higher is served first, without starving the others. Default 0."""
    paused: bool
    """A paused queue accepts jobs and starts none. Default False."""


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """Where the jobs live: `scheme://…`, with the options after the question mark taken out."""

    scheme: str
    target: str
    """The URL without its options, with the password (SQLite: the file's path)."""
    prefix: str = "sidequest_"
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """What else stood after the question mark; the backend knows which there are."""

    @staticmethod
    def parse(url: object) -> DatabaseURL:
        """Raises ConfigError for what is no database URL; never repeats a password."""
        if not isinstance(url, str) or not SCHEME.match(url):
            raise ConfigError(f"url must look like sqlite:///file.db, not {_hidden(url)!r}")
        if "#" in url:
            raise ConfigError("url: write # as %23, also inside a password or a file's name")
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ConfigError(f"url cannot be read: {error}") from None
        scheme = parts.scheme if parts.scheme == "mongodb+srv" else parts.scheme.partition("+")[0]
        scheme = ALIASES.get(scheme, scheme)
        options = _options(parts.query)
        prefix = options.pop("prefix", "sidequest_")
        if not PREFIX.fullmatch(prefix):
            raise ConfigError(f"url: prefix must be up to 41 lower-case letters, digits and _ , not {prefix!r}")
        if scheme == "sqlite":
            return DatabaseURL(scheme, _sqlite_path(parts.netloc, parts.path), prefix, options)
        return DatabaseURL(scheme, f"{scheme}://{parts.netloc}{parts.path}", prefix, options)

    @property
    def shown(self) -> str:
        """The URL for messages and for commands to copy: where the tables are, and no password."""
        where = {name: self.options.get(name) for name in ("host", "port", "schema")}
        where["prefix"] = self.prefix if self.prefix != "sidequest_" else None
        query = "&".join(f"{name}={value}" for name, value in where.items() if value is not None)
        plain = f"sqlite:///{self.target}" if self.scheme == "sqlite" else re.sub(r"(//[^:/@]*):[^@]*@", r"\1@", self.target)
        return f"{plain}?{query}" if query else plain

    @property
    def identity(self) -> str:
        """The same text for all URLs that mean the same tables, seen from this host and working directory.

        Who logs in, and how, does not matter. One server under two names counts as two.
        """
        if self.scheme == "sqlite":
            return "|".join((self.scheme, str(Path(self.target).resolve()), self.prefix))
        parts = urlsplit(self.target)
        named = parts.netloc.rpartition("@")[2] or self.options.get("host", "")
        port = self.options.get("port", PORTS.get(self.scheme, ""))
        hosts = ",".join(sorted({_host(host, port) for host in named.split(",")}))
        schema = self.options.get("schema", "public")
        return "|".join((self.scheme, hosts, unquote(parts.path.strip("/")), schema, self.prefix))

    def refuse_unknown_options(self, known: Sequence[str]) -> None:
        """Raise ConfigError for an option that is none of these."""
        for name in self.options:
            if name not in known:
                hint = checks.nearest(name, known) or f"; there are {', '.join(known)}"
                raise ConfigError(f"url: {name!r} is not an option of {self.scheme} URLs{hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a Sidequest, checked. It crosses to the engine process as JSON."""

    url: str = DEFAULT_URL
    engine: str = "auto"
    """`auto`: a child process of the one process of this app that is elected on this host; `process`:
    a child process of its own; `inline`: in this event loop; `off`: enqueue only."""
    event_loop: str = "auto"
    """What the engine process and the async jobs of workers run on. `auto`: uvloop where it is installed,
    else asyncio's own."""
    migrate: bool = True
    """Create or update the tables at start."""
    max_concurrent_jobs: int = 100
    """Jobs that one engine runs at once, over all queues."""
    min_workers: int = 1
    """Worker processes kept warm."""
    max_workers: int = field(default_factory=lambda: 2 * (os.cpu_count() or 1))
    """Worker processes at most. Default 2 × CPU count. When all of them run sync jobs, one more
    may start so that async jobs never wait for them, and the other way round."""
    worker_idle_timeout: timedelta = timedelta(seconds=10)
    """After this long without a job a worker above `min_workers` ends."""
    max_jobs_per_worker: int = 10_000
    """After this many jobs a worker is replaced; of 1 000 and more, not before it has lived twenty times
    as long as its start took."""
    max_worker_memory: int | None = None
    """Bytes of memory from which on a worker takes no more jobs and is replaced; at twice as much
    it is killed at once. Measured on Linux only."""
    worker_start_timeout: timedelta = timedelta(seconds=60)
    """Longest time a worker may take to import the job modules."""
    polling_interval: timedelta = timedelta(seconds=0.1)
    """How often an engine looks for jobs that nobody woke it for; up to ten times longer while
    there are none."""
    start_timeout: timedelta = timedelta(seconds=30)
    """Longest time the engine process may take to become ready."""
    shutdown_timeout: timedelta = timedelta(seconds=20)
    """How long running jobs may go on when the engine stops."""
    kill_grace: timedelta = timedelta(seconds=5)
    """From the request to stop a job (timeout, cancel) until its worker is killed."""
    heartbeat_interval: timedelta = timedelta(seconds=10)
    lease_life: timedelta = timedelta(seconds=60)
    """An engine that was silent this long has lost its jobs to the others."""
    rescue_interval: timedelta = timedelta(seconds=15)
    """How often each engine looks for engines that died."""
    on_lease_lost: str = "continue"
    """What running jobs do when their engine has not reached the database for most of `lease_life`:
    `continue`: they go on, and their ends are refused if somebody else has taken them; `kill`: they
    are stopped before anybody else can take them, and run again."""
    stale_running: timedelta | None = None
    """Jobs that run longer than this are taken back, however healthy they are. None: never."""
    stale_claimed: timedelta | None = None
    """Jobs that were claimed this long ago and have not started are taken back. None: never."""
    spool: str | None = None
    """A directory on this host where the ends of jobs are kept while the database takes none. None: in memory only."""
    keep_completed: timedelta = timedelta(days=30)
    """Completed and canceled jobs are deleted after this long."""
    keep_failed: timedelta = timedelta(days=30)
    """Failed jobs are deleted after this long."""
    cleanup_interval: timedelta = timedelta(hours=1)
    queues: Mapping[str, QueueRecord] = field(default_factory=dict[str, QueueRecord])
    """Settings of queues, written at every start."""
    serve: tuple[str, ...] = ("*",)
    """The queues that this engine serves: names, prefixes with `*`, exclusions with `-`."""
    queue_defaults: QueueRecord = QueueRecord("*")  # noqa: RUF009 - frozen, so it can be shared
    """The settings of queues that are created on first use."""
    modules: tuple[str, ...] = ()
    """Modules whose jobs the workers may run, besides those that defined jobs in this app."""
    job_defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of jobs that neither the job nor the call sets."""
    log_level: str = "WARNING"
    """Level of the engine's and the workers' logging to stderr."""

    @staticmethod
    def collect(url: object, given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings from keywords, environment and defaults.

        Raises TypeError or ValueError naming the setting; an unknown one with the nearest name.
        """
        checks.known("a setting of Sidequest", given, _CHECKS)
        values = {name: _parse(name, text) for name, text in _from_environment(environ).items()}
        values |= given
        if url is not None:
            values["url"] = url
        queues = values.pop("queues", None)
        checked = {name: _CHECKS[name](name, value) for name, value in values.items()}
        defaults = checked.get("queue_defaults", QueueRecord("*"))
        settings = Settings(**checked, **_queues(queues, defaults))
        settings._check_pairs()
        return settings

    def _check_pairs(self) -> None:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not be more than max_workers ({self.max_workers})")
        if self.lease_life < 3 * self.heartbeat_interval:
            raise ValueError(
                f"lease_life ({self.lease_life.total_seconds():g} s) must be at least three times "
                f"heartbeat_interval ({self.heartbeat_interval.total_seconds():g} s)"
            )

    @property
    def serves_all(self) -> bool:
        """Whether this engine serves every queue there is."""
        return self.serve == ("*",)

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes equal settings."""
        return {f.name: _to_plain(getattr(self, f.name)) for f in fields(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Settings:
        values = dict(data)
        for f in fields(Settings):
            if f.type in ("timedelta", "timedelta | None") and values[f.name] is not None:
                values[f.name] = timedelta(seconds=values[f.name])
        values["queues"] = {name: QueueRecord(**record) for name, record in values["queues"].items()}
        values["queue_defaults"] = QueueRecord(**values["queue_defaults"])
        values["serve"], values["modules"] = tuple(values["serve"]), tuple(values["modules"])
        values["job_defaults"] = read_job_defaults(values["job_defaults"])
        return Settings(**values)


def read_job_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """`job_defaults` as they stand in the JSON of settings, as the values that options have."""
    return {
        name: timedelta(seconds=value) if name in DURATIONS and value is not None else value for name, value in data.items()
    }


def queue_record(argument: str, name: object, given: object, defaults: QueueRecord) -> QueueRecord:
    """A queue's settings from `{"concurrency": …}` or a bare concurrency."""
    checked_name = checks.name(argument, name)
    if not isinstance(given, Mapping):
        given = {"concurrency": given}
    checks.known(f"a setting of {argument}[{checked_name!r}]", given, QueueSettings.__annotations__)  # pyright: ignore[reportUnknownArgumentType]
    settings: Mapping[str, Any] = given  # pyright: ignore[reportUnknownVariableType]
    of = f"{argument}[{checked_name!r}]"
    return QueueRecord(
        checked_name,
        checks.integer(f"{of} concurrency", settings.get("concurrency", defaults.concurrency), 1, 100_000),
        checks.integer(f"{of} priority", settings.get("priority", defaults.priority), -checks.INT32, checks.INT32),
        checks.flag(f"{of} paused", settings.get("paused", defaults.paused)),
    )


def serves(patterns: Sequence[str], queue: str) -> bool:
    """Whether an engine with these patterns serves the queue; exclusions win."""
    wanted = [pattern for pattern in patterns if not pattern.startswith("-")] or ["*"]
    refused = [pattern[1:] for pattern in patterns if pattern.startswith("-")]
    return any(_fits(p, queue) for p in wanted) and not any(_fits(p, queue) for p in refused)


def _fits(pattern: str, queue: str) -> bool:
    return queue.startswith(pattern[:-1]) if pattern.endswith("*") else queue == pattern


def _queues(given: object, defaults: QueueRecord) -> dict[str, Any]:
    """`queues` is a mapping of settings, or a sequence of the queues to serve."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        settings = cast("Mapping[object, object]", given)
        return {"queues": {str(name): queue_record("queues", name, value, defaults) for name, value in settings.items()}}
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"queues must map names to settings, or be a sequence of names to serve, not {given!r}")
    patterns: list[object] = list(given)  # pyright: ignore[reportUnknownArgumentType]
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.strip("-") or not PATTERN.fullmatch(pattern):
            raise ValueError(f"queues: {pattern!r} is no queue name, prefix such as 'mail*' or exclusion such as '-reports'")
    return {"serve": tuple(patterns)} if patterns else {}


def _count(low: int, high: int) -> Callable[[str, object], int]:
    return lambda name, value: checks.integer(name, value, low, high)


def _positive(name: str, value: object) -> timedelta:
    return checks.duration(name, value, zero=False)


def _age(name: str, value: object) -> timedelta | None:
    return None if value is None else _positive(name, value)


def _directory(name: str, value: object) -> str | None:
    """Absolute, so that it stays the same place; it is made when it is needed."""
    if value is None:
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    path = Path(checks.text(name, value, 4_000)).absolute()  # pyright: ignore[reportUnknownArgumentType]
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - which raise for nothing
        raise ValueError(f"{name} must be a directory, and {path} is none")
    return str(path)


def _event_loop(name: str, value: object) -> str:
    if checks.choice(name, value, EVENT_LOOPS) == "uvloop":
        try:
            loop_factory("uvloop")
        except ImportError as error:
            raise ConfigError(f"{name}: uvloop cannot be imported: {error}; run: pip install 'sidequest[uvloop]'") from error
    return str(value)


def _url(name: str, value: object) -> str:
    DatabaseURL.parse(value)
    return str(value)


def _modules(name: str, value: object) -> tuple[str, ...]:
    for module in (names := checks.names(name, value, most=1_000)):
        if ":" in module or "-" in module:
            raise ValueError(f"{name}: {module!r} is no module name such as 'shop.jobs'")
    return names


def _job_defaults(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of options, not {value!r}")
    given: Mapping[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    if callable(given.get("backoff")):
        raise TypeError(f"{name}: a backoff function belongs to the decorator, @job(backoff=…)")
    try:
        return check_options(given, DEFAULT_OPTIONS, f"an option of {name}")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "url": _url,
    "engine": lambda name, value: checks.choice(name, value, ENGINES),
    "event_loop": _event_loop,
    "migrate": checks.flag,
    "max_concurrent_jobs": _count(1, 100_000),
    "min_workers": _count(0, 1_000),
    "max_workers": _count(1, 1_000),
    "worker_idle_timeout": checks.duration,
    "max_jobs_per_worker": _count(1, 1_000_000_000),
    "max_worker_memory": lambda name, value: (
        value if value is None else checks.integer(name, value, SMALLEST_WORKER, 2**63 - 1)
    ),
    "worker_start_timeout": _positive,
    "polling_interval": _positive,
    "start_timeout": _positive,
    "shutdown_timeout": checks.duration,
    "kill_grace": checks.duration,
    "heartbeat_interval": _positive,
    "lease_life": _positive,
    "rescue_interval": _positive,
    "on_lease_lost": lambda name, value: checks.choice(name, value, ON_LEASE_LOST),
    "stale_running": _age,
    "stale_claimed": _age,
    "spool": _directory,
    "keep_completed": checks.duration,
    "keep_failed": checks.duration,
    "cleanup_interval": _positive,
    "queues": lambda name, value: value,
    "queue_defaults": lambda name, value: queue_record(name, "default", value, QueueRecord("default")),
    "modules": _modules,
    "job_defaults": _job_defaults,
    "log_level": lambda name, value: checks.choice(name, value.upper() if isinstance(value, str) else value, LOG_LEVELS),
}


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings given as SIDEQUEST_…; other variables of that prefix are none of ours to judge."""
    single = [name for name in _CHECKS if name not in ("job_defaults", "queue_defaults")]
    found = {name: environ.get(f"SIDEQUEST_{name.upper()}") for name in single}
    return {name: text for name, text in found.items() if text}


def _parse(name: str, text: str) -> object:
    """An environment variable's text as the kind of value that the setting's check expects."""
    variable = f"SIDEQUEST_{name.upper()}"
    if name in ("url", "engine", "event_loop", "log_level", "on_lease_lost", "spool"):
        return text
    if name in ("queues", "modules"):
        return [part.strip() for part in text.split(",") if part.strip()]
    if name == "migrate":
        if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
            raise ValueError(f"{variable} must be 0 or 1, not {text!r}")
        return text.lower() in ("1", "true", "yes")
    try:
        return float(text) if not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        raise ValueError(f"{variable} must be a number, not {text!r}") from None


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise ConfigError(f"url: the option {name!r} is given twice")
        options[name] = value
    return options


def _host(text: str, default_port: str) -> str:
    """`host:port` in one spelling; a server that is reached through a file is on this host."""
    text = unquote(text).lower()
    host, port = text, ""
    if ":" in text.rpartition("]")[2]:
        host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return f"{'localhost' if host in THIS_HOST or host.startswith('/') else host}:{port or default_port}"


def _sqlite_path(host: str, path: str) -> str:
    if host:
        raise ConfigError(
            "url: sqlite URLs have three slashes before a relative path and four before an absolute one; "
            f"did you mean sqlite:///{host}{path}?"
        )
    path = unquote(path.removeprefix("/"))
    if not path or path == ":memory:":
        raise ConfigError("url: an in-memory database is seen by one process only; name a file: sqlite:///file.db")
    try:
        return checks.text("url: the file's name", path, 4_000)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _to_plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, QueueRecord):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        options = cast("Mapping[str, Any]", value)
        return {key: _to_plain(item) for key, item in options.items()}
    return list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value


def _hidden(url: object) -> object:
    """What was given as URL, without what may be a password in it."""
    return re.sub(r":[^:]*@|:.*@", ":***@", url) if isinstance(url, str) else url
