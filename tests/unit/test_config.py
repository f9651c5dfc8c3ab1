"""Settings: every one with good and bad values, from keywords and from the environment."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sidequest import ConfigError, QueueRecord
from sidequest.config import DatabaseURL, Settings, queue_record, read_job_defaults, serves

SECOND = timedelta(seconds=1)
DURATIONS = [
    "worker_idle_timeout", "worker_start_timeout", "polling_interval", "start_timeout", "shutdown_timeout", "kill_grace",
    "heartbeat_interval", "lease_life", "rescue_interval", "keep_completed", "keep_failed", "cleanup_interval",
]  # fmt: skip
MAY_BE_ZERO = ("worker_idle_timeout", "shutdown_timeout", "kill_grace", "keep_completed", "keep_failed")


def collect(url: object = None, /, environ: dict[str, str] | None = None, **given: Any) -> Settings:
    return Settings.collect(url, given, environ or {})


# Defaults.


def test_nothing_given_is_sqlite_and_one_engine_on_this_host() -> None:
    settings = collect()
    assert settings == Settings()
    assert (settings.url, settings.engine, settings.migrate) == ("sqlite:///sidequest.db", "auto", True)


def test_the_documented_defaults() -> None:
    settings = collect()
    assert (settings.max_concurrent_jobs, settings.min_workers, settings.max_jobs_per_worker) == (100, 1, 10_000)
    assert (settings.worker_idle_timeout, settings.polling_interval) == (10 * SECOND, 0.1 * SECOND)
    assert (settings.shutdown_timeout, settings.kill_grace) == (20 * SECOND, 5 * SECOND)
    assert (settings.heartbeat_interval, settings.lease_life, settings.rescue_interval) == (
        10 * SECOND,
        60 * SECOND,
        15 * SECOND,
    )
    assert settings.keep_completed == settings.keep_failed == timedelta(days=30)
    assert (settings.queue_defaults.concurrency, settings.queue_defaults.priority, settings.queue_defaults.paused) == (
        10,
        0,
        False,
    )


# Keywords.

GOOD: list[tuple[str, object, object]] = [
    ("engine", "inline", "inline"),
    ("engine", "off", "off"),
    ("event_loop", "asyncio", "asyncio"),
    ("migrate", False, False),
    ("max_concurrent_jobs", 1, 1),
    ("min_workers", 0, 0),
    ("max_workers", 1, 1),
    ("max_jobs_per_worker", 1, 1),
    ("max_worker_memory", None, None),
    ("max_worker_memory", 500_000_000, 500_000_000),
    ("modules", ["shop.jobs", "mail"], ("shop.jobs", "mail")),
    ("log_level", "debug", "DEBUG"),
    ("queue_defaults", {"concurrency": 3}, QueueRecord("default", 3)),
    ("queue_defaults", 3, QueueRecord("default", 3)),
    ("job_defaults", {"queue": "x", "timeout": 5}, {"queue": "x", "timeout": 5 * SECOND}),
    ("queues", {"mail": 2}, {"mail": QueueRecord("mail", 2)}),
    ("queues", {"mail": {"priority": 9, "paused": True}}, {"mail": QueueRecord("mail", 10, 9, True)}),
    ("on_lease_lost", "kill", "kill"),
    ("stale_running", None, None),
    ("stale_running", 3600, 3600 * SECOND),
    ("stale_claimed", timedelta(minutes=5), timedelta(minutes=5)),
    ("spool", None, None),
    ("spool", "/var/spool/shop", "/var/spool/shop"),
    ("spool", Path("/var/spool/shop"), "/var/spool/shop"),
    ("spool", "ends", str(Path.cwd() / "ends")),
    ("spool", f"/{'x' * 300}", f"/{'x' * 300}"),
    *((name, 77, 77 * SECOND) for name in DURATIONS),
    *((name, timedelta(minutes=2), timedelta(minutes=2)) for name in DURATIONS),
    *((name, 0, timedelta(0)) for name in MAY_BE_ZERO),
]

BAD: list[tuple[str, object, type[Exception], str]] = [
    ("url", "app.db", ConfigError, "url must look like sqlite:///file.db, not 'app.db'"),
    ("url", 5, ConfigError, "url must look like sqlite:///file.db, not 5"),
    ("engine", "proces", ValueError, "engine must be one of 'auto', 'process', 'inline', 'off', not 'proces'"),
    ("engine", None, TypeError, "engine must be a string, not None"),
    ("event_loop", "trio", ValueError, "event_loop must be one of 'auto', 'asyncio', 'uvloop', not 'trio'"),
    ("migrate", "yes", TypeError, "migrate must be True or False"),
    ("max_concurrent_jobs", 0, ValueError, "max_concurrent_jobs must be between 1 and 100000, not 0"),
    ("min_workers", -1, ValueError, "min_workers must be between 0 and 1000, not -1"),
    ("max_workers", 2.0, TypeError, "max_workers must be an integer, not float (2.0)"),
    ("max_jobs_per_worker", 0, ValueError, "max_jobs_per_worker must be between 1 and"),
    ("max_worker_memory", 1_000_000, ValueError, "max_worker_memory must be between 67108864 and"),
    ("max_worker_memory", 1e9, TypeError, "max_worker_memory must be an integer, not float"),
    ("modules", "shop.jobs", TypeError, "modules must be a sequence of strings"),
    ("modules", ["shop:jobs"], ValueError, "modules: 'shop:jobs' is no module name such as 'shop.jobs'"),
    ("log_level", "LOUD", ValueError, "log_level must be one of"),
    ("log_level", 10, TypeError, "log_level must be a string"),
    ("queue_defaults", {"concurency": 3}, TypeError, "'concurency' is not a setting of queue_defaults['default']; did"),
    ("job_defaults", ["x"], TypeError, "job_defaults must be a mapping of options"),
    ("job_defaults", {"tags": ["x"]}, TypeError, "'tags' is not an option of job_defaults"),
    ("job_defaults", {"backoff": len}, TypeError, "job_defaults: a backoff function belongs to the decorator"),
    ("job_defaults", {"timeout": 0}, ValueError, "timeout must be more than 0 seconds"),
    ("queues", "mail", TypeError, "queues must map names to settings, or be a sequence of names to serve, not 'mail'"),
    ("queues", 5, TypeError, "queues must map names to settings"),
    ("queues", {"no way": 1}, ValueError, "queues must be 1 to 100 letters"),
    ("queues", {1: 1}, TypeError, "queues must be a string, not int (1)"),
    ("queues", {"mail": 0}, ValueError, "queues['mail'] concurrency must be between 1 and 100000, not 0"),
    ("queues", {"mail": "2"}, TypeError, "queues['mail'] concurrency must be an integer, not str ('2')"),
    ("queues", {"mail": {"priority": None}}, TypeError, "queues['mail'] priority must be an integer, not None"),
    ("queues", {"mail": {"paused": 1}}, TypeError, "queues['mail'] paused must be True or False"),
    ("queues", {"mail": {1: 2}}, TypeError, "1 is not a setting of queues['mail']"),
    ("on_lease_lost", "kil", ValueError, "on_lease_lost must be one of 'continue', 'kill', not 'kil'; did you mean 'kill'?"),
    ("stale_running", 0, ValueError, "stale_running must be more than 0 seconds"),
    ("stale_claimed", "1h", TypeError, "stale_claimed must be a number of seconds or a timedelta"),
    ("spool", 5, TypeError, "spool must be a string, not int (5)"),
    ("spool", __file__, ValueError, "spool must be a directory, and"),
    *((name, "5", TypeError, f"{name} must be a number of seconds or a timedelta, not str ('5')") for name in DURATIONS),
    *((name, -1, ValueError, f"{name} must be") for name in DURATIONS),
    *((name, 0, ValueError, f"{name} must be more than 0 seconds") for name in DURATIONS if name not in MAY_BE_ZERO),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_good_setting_is_taken(name: str, value: object, expected: object) -> None:
    more = {"heartbeat_interval": {"lease_life": 3600}, "lease_life": {"heartbeat_interval": 1}}.get(name, {})
    more = {"min_workers": 0} if name == "max_workers" else more
    assert getattr(collect(**{name: value}, **more), name) == expected


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_a_bad_setting_is_refused_by_name(name: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        collect(**{name: value})


def test_the_tables_here_know_every_setting() -> None:
    names = {f.name for f in fields(Settings)} - {"serve"}
    assert {name for name, *_ in GOOD} | {"url"} == names == {name for name, *_ in BAD}


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match=r"^'max_worker' is not a setting of Sidequest; did you mean 'max_workers'\?$"):
        collect(max_worker=3)


def test_min_workers_is_not_more_than_max_workers() -> None:
    with pytest.raises(ValueError, match=r"^min_workers \(5\) must not be more than max_workers \(2\)$"):
        collect(min_workers=5, max_workers=2)


def test_a_lease_lives_for_three_heartbeats_at_least() -> None:
    with pytest.raises(ValueError, match=r"^lease_life \(20 s\) must be at least three times heartbeat_interval \(10 s\)$"):
        collect(lease_life=20)


def test_queues_take_what_they_do_not_say_from_queue_defaults() -> None:
    settings = collect(queues={"mail": {"priority": 1}}, queue_defaults={"concurrency": 3})
    assert settings.queues == {"mail": QueueRecord("mail", 3, 1)}


def test_a_sequence_of_queues_says_which_to_serve() -> None:
    settings = collect(queues=["critical", "mail*", "-reports"])
    assert (settings.serve, settings.queues) == (("critical", "mail*", "-reports"), {})


def test_an_empty_sequence_of_queues_serves_all() -> None:
    assert collect(queues=[]).serve == ("*",)


@pytest.mark.parametrize("pattern", ["", "-", "ma*il", "no way", "--x*y", 5, None])
def test_a_pattern_that_fits_no_queue_is_refused(pattern: object) -> None:
    with pytest.raises(ValueError, match="is no queue name, prefix such as 'mail.' or exclusion such as '-reports'"):
        collect(queues=[pattern])


def test_a_queue_of_a_new_record_starts_from_the_given_defaults() -> None:
    assert queue_record("queues", "mail", {}, QueueRecord("*", 7, 1, paused=True)) == QueueRecord("mail", 7, 1, paused=True)


# Environment.

ENVIRONMENT: list[tuple[str, str, str, object]] = [
    ("SIDEQUEST_URL", "sqlite:///x.db", "url", "sqlite:///x.db"),
    ("SIDEQUEST_ENGINE", "off", "engine", "off"),
    ("SIDEQUEST_EVENT_LOOP", "asyncio", "event_loop", "asyncio"),
    ("SIDEQUEST_MIGRATE", "0", "migrate", False),
    ("SIDEQUEST_MIGRATE", "TRUE", "migrate", True),
    ("SIDEQUEST_MAX_WORKERS", "3", "max_workers", 3),
    ("SIDEQUEST_POLLING_INTERVAL", "0.5", "polling_interval", 0.5 * SECOND),
    ("SIDEQUEST_QUEUES", "mail, -reports,", "serve", ("mail", "-reports")),
    ("SIDEQUEST_MODULES", "shop.jobs,mail.jobs", "modules", ("shop.jobs", "mail.jobs")),
    ("SIDEQUEST_LOG_LEVEL", "info", "log_level", "INFO"),
]


@pytest.mark.parametrize(("variable", "text", "name", "expected"), ENVIRONMENT)
def test_a_setting_may_come_from_the_environment(variable: str, text: str, name: str, expected: object) -> None:
    assert getattr(collect(environ={variable: text}), name) == expected


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("SIDEQUEST_MAX_WORKERS", "many", "SIDEQUEST_MAX_WORKERS must be a number, not 'many'"),
        ("SIDEQUEST_MIGRATE", "maybe", "SIDEQUEST_MIGRATE must be 0 or 1, not 'maybe'"),
        ("SIDEQUEST_MAX_WORKERS", "0", "max_workers must be between 1 and 1000, not 0"),
        ("SIDEQUEST_POLLING_INTERVAL", "nan", "polling_interval must be a number of seconds up to a century, not nan"),
        ("SIDEQUEST_URL", "app.db", "url must look like sqlite:///file.db, not 'app.db'"),
    ],
)
def test_a_bad_variable_is_refused(variable: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        collect(environ={variable: text})


def test_a_keyword_wins_over_the_environment() -> None:
    assert collect(environ={"SIDEQUEST_MAX_WORKERS": "3"}, max_workers=5).max_workers == 5


def test_the_positional_url_wins_over_all() -> None:
    environ = {"SIDEQUEST_URL": "sqlite:///environment.db"}
    assert collect("sqlite:///given.db", environ).url == "sqlite:///given.db"
    assert collect("sqlite:///given.db", environ, url="sqlite:///keyword.db").url == "sqlite:///given.db"


def test_an_empty_variable_is_no_setting() -> None:
    assert collect(environ={"SIDEQUEST_URL": "", "SIDEQUEST_MAX_WORKERS": ""}) == Settings()


def test_other_variables_of_our_prefix_are_left_alone() -> None:
    assert collect(environ={"SIDEQUEST_TEST_DATABASE": "x", "SIDEQUEST_JOB_DEFAULTS": "{}"}) == Settings()


# Across processes.


@pytest.mark.parametrize("given", [
    {},
    {name: 99 for name in DURATIONS if name not in ("heartbeat_interval", "lease_life")},
    {"queues": {"mail": {"concurrency": 2, "paused": True}}, "modules": ["a", "b"], "queue_defaults": 4},
    {"queues": ["mail*", "-mail-slow"], "log_level": "DEBUG", "migrate": False},
    {"job_defaults": {"timeout": 5, "kill_grace": None, "retry_delay": 0.5, "backoff": "fixed", "isolated": True}},
    {"job_defaults": {"timeout": None, "queue": "x"}},
])  # fmt: skip
def test_settings_cross_to_another_process_as_json(given: dict[str, Any]) -> None:
    settings = collect(**given)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_job_defaults_cross_alone_as_well() -> None:
    settings = collect(job_defaults={"timeout": 5, "queue": "x"})
    assert read_job_defaults(json.loads(json.dumps(settings.to_json()))["job_defaults"]) == settings.job_defaults


# URLs.

URLS: list[tuple[str, DatabaseURL]] = [
    ("sqlite:///app.db", DatabaseURL("sqlite", "app.db")),
    ("sqlite:///data/app.db", DatabaseURL("sqlite", "data/app.db")),
    ("sqlite:////var/lib/app.db", DatabaseURL("sqlite", "/var/lib/app.db")),
    ("sqlite:///my%20app%23.db", DatabaseURL("sqlite", "my app#.db")),
    ("sqlite:///app.db?prefix=q_", DatabaseURL("sqlite", "app.db", "q_")),
    ("sqlite+aiosqlite:///app.db", DatabaseURL("sqlite", "app.db")),
    ("postgresql://u:p@h:5432/db", DatabaseURL("postgresql", "postgresql://u:p@h:5432/db")),
    ("postgresql+asyncpg://u@h/db", DatabaseURL("postgresql", "postgresql://u@h/db")),
    (
        "POSTGRESQL://h/db?sslmode=require&prefix=jobs_&schema=x",
        DatabaseURL("postgresql", "postgresql://h/db", "jobs_", {"sslmode": "require", "schema": "x"}),
    ),
    ("mysql://u:p%40ss@h/db", DatabaseURL("mysql", "mysql://u:p%40ss@h/db")),
    ("mongodb://a,b,c/db?replicaSet=r", DatabaseURL("mongodb", "mongodb://a,b,c/db", options={"replicaSet": "r"})),
]

BAD_URLS: list[tuple[object, str]] = [
    (None, "url must look like sqlite:///file.db, not None"),
    (b"sqlite:///x", "url must look like"),
    ("", "url must look like sqlite:///file.db, not ''"),
    ("app.db", "not 'app.db'"),
    ("://app.db", "not '://app.db'"),
    ("sqlite:app.db", "not 'sqlite:app.db'"),
    ("sqlite://app.db", "did you mean sqlite:///app.db?"),
    ("sqlite://", "name a file: sqlite:///file.db"),
    ("sqlite:///", "name a file: sqlite:///file.db"),
    ("sqlite:///:memory:", "an in-memory database is seen by one process only"),
    ("sqlite:///x.db?prefix=", "prefix must be up to 41 lower-case letters, digits and _ , not ''"),
    ("sqlite:///x.db?prefix=Robert'); drop", "prefix must be"),
    ("sqlite:///my#app.db", "url: write # as %23"),
    ("postgresql://[::1/db", "url cannot be read"),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_url_says_where_the_jobs_live(url: str, expected: DatabaseURL) -> None:
    assert DatabaseURL.parse(url) == expected


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
def test_what_is_no_database_url_is_refused(url: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DatabaseURL.parse(url)


@pytest.mark.parametrize("url", [
    "postgres:ana:secret@host/db", "ana:secret@host/db", "ana:sec@secret@host/db", "ana:sec:secret@host",
    "postgresql://ana:secret@[host/db", "postgresql://ana:se#secret@host/db", "postgresql://ana:secret@host/db?prefix=BAD",
])  # fmt: skip
def test_no_refusal_repeats_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DatabaseURL.parse(url)
    assert "secret" not in str(refused.value)


# Which URLs mean the same tables.

SAME_TABLES = [
    ("postgresql://h/db", "postgresql://ann:pw@h/db", "postgres://bob@H:5432/db", "postgresql+asyncpg://h/db?sslmode=require"),
    ("postgresql://localhost/db", "postgresql:///db", "postgresql://127.0.0.1:5432/db", "postgresql://[::1]/db",
     "postgresql://LOCALHOST/db?schema=public", "postgresql:///db?host=/run/postgresql", "postgresql://%2Frun%2Fpg/db"),
    ("postgresql://h:6000/db", "postgresql:///db?host=h&port=6000"),
    ("postgresql://a,b:5433/db", "postgresql://b:5433,a:5432/db"),
    ("mysql://root@h/db", "mariadb://h:3306/db", "mysql+aiomysql://h/db?charset=utf8mb4"),
    ("mongodb://b,a/db?replicaSet=r", "mongodb://a:27017,b/db", "mongodb://ann:pw@a,b:27017/db?w=majority"),
    ("mongodb+srv://cluster.example/db", "mongodb+srv://ann@Cluster.Example/db"),
]  # fmt: skip
OTHER_TABLES = [
    "postgresql://h/db", "postgresql://h/db2", "postgresql://h:5433/db", "postgresql://h2/db", "postgresql://h/db?schema=x",
    "postgresql://h/db?prefix=x_", "postgresql://[fe80::1]/db", "postgresql://[fe80::2]/db", "mysql://h/db", "mongodb://h/db",
    "mongodb+srv://h/db", "mongodb://h,h2/db", "sqlite:///h/db", "sqlite:///h/db2", "sqlite:///h/db?prefix=x_",
]  # fmt: skip


@pytest.mark.parametrize("urls", SAME_TABLES)
def test_urls_that_mean_the_same_tables_have_one_identity(urls: tuple[str, ...]) -> None:
    assert len({DatabaseURL.parse(url).identity for url in urls}) == 1


def test_urls_that_mean_other_tables_have_another_identity() -> None:
    assert len({DatabaseURL.parse(url).identity for url in OTHER_TABLES}) == len(OTHER_TABLES)


@pytest.mark.parametrize("url", ["postgresql://ann:secret@h/db", "mysql://ann:secret@h/db?password=secret"])
def test_an_identity_has_no_password(url: str) -> None:
    assert "secret" not in DatabaseURL.parse(url).identity


def test_a_file_has_one_identity_whichever_way_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "link").symlink_to("app")
    (tmp_path / "app.db").symlink_to(tmp_path / "app" / "jobs.db")
    monkeypatch.chdir(tmp_path / "app")
    paths = ("jobs.db", "./jobs.db", "../app/jobs.db", f"/{tmp_path}/app/jobs.db", f"/{tmp_path}/link/jobs.db", "../app.db")
    assert len({DatabaseURL.parse(f"sqlite:///{path}?busy_timeout=1").identity for path in paths}) == 1


def test_a_relative_path_is_seen_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = DatabaseURL.parse("sqlite:///jobs.db")
    monkeypatch.chdir(tmp_path)
    here = url.identity
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert url.identity != here


# Which queues an engine serves.


@pytest.mark.parametrize(
    ("patterns", "queue", "served"),
    [
        (["*"], "anything", True),
        (["mail"], "mail", True),
        (["mail"], "mail2", False),
        (["mail*"], "mail2", True),
        (["mail*"], "mail", True),
        (["mail*"], "email", False),
        (["critical", "mail"], "mail", True),
        (["-reports"], "mail", True),
        (["-reports"], "reports", False),
        (["-reports*"], "reports-slow", False),
        (["*", "-mail"], "mail", False),
        (["mail", "-mail"], "mail", False),
        (["mail*", "-mail-slow"], "mail-slow", False),
        (["-*"], "mail", False),
    ],
)
def test_exclusions_win_over_patterns(patterns: list[str], queue: str, served: bool) -> None:
    assert serves(patterns, queue) is served
