"""Every public function refuses bad input by the argument's name, before anything is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidequest import Fail, Job, JobContext, Retry, Sidequest, Snooze, call_by_name, job
from tests.integration.sample_jobs import Tenant, echo

pytestmark = pytest.mark.database("sqlite")
NAN, INF = float("nan"), float("inf")
Call = Callable[[Sidequest, Any], Any]
EVIL = "x'); DROP TABLE sidequest_jobs; --"

NO_INTEGERS = [None, "3", "", 1.0, NAN, True, False, b"1", [1], {}, object()]
IDS = [*NO_INTEGERS, 0, -1, 2**63, 2**200, INF]
INT32 = [*NO_INTEGERS, 2**31, -(2**31), 2**63]
ATTEMPTS = [*NO_INTEGERS, 0, -1, 10_001, 2**63]
FLAGS = [None, 0, 1, "true", "", [], NAN]
SPANS = ["5", "", True, False, -1, -0.001, NAN, INF, -INF, 2**63, 10**400, timedelta(-1), timedelta.max, [], 1j, b"5", object()]
SPANS_OR_NONE = [*SPANS, None]
WRONG_WORDS = ["", " ", "a b", "a/b", "x" * 101, "a\0b", "\ud800", "naïve", "日本", "mail\n", "a\nb", "%s", "{0}", "*", EVIL]
NAMES = [None, 3, True, NAN, b"mail", ["mail"], {}, *WRONG_WORDS]
LONG_NAMES = [*(name for name in NAMES if name != "x" * 101), "x" * 201]
TEXTS = [3, True, b"x", ["x"], "a\0b", "\ud800", "x" * 1_001]
NAIVE = datetime(2026, 11, 23, 9)  # noqa: DTZ001 - what is refused
INSTANTS = [
    "2026-11-23", 0, 1.5, True, date(2026, 11, 23), timedelta(1), NAIVE,
    datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC),
]  # fmt: skip
TAGS = [None, "mail", 3, True, b"mail", ["a", None], ["a", 3], *([word] for word in WRONG_WORDS), ["t"] * 51, object()]
METAS = [None, [], "x", 3, True, [("a", 1)], {"a": object()}, {"a": NAN}, {"a": "\0"}, {"\ud800": 1}, {"a": "x" * 1_100_000}]
UNSTORABLE = [object(), NAN, INF, "\0", "\ud800", [{"a": {1, object()}}], Path(), lambda: None, 10**5_000, "x" * 1_100_000]
STRATEGIES = [None, 3, True, "", "linear", "EXPONENTIAL", "exponential ", b"fixed", []]
EXCEPTIONS = [None, 3, "ValueError", ValueError("x"), [ValueError, 3], int, [None], object()]

ENQUEUE_OPTIONS: dict[str, list[Any]] = {
    "queue": NAMES,
    "priority": [*INT32[:-2], 2**31, -(2**31) - 1],
    "max_attempts": ATTEMPTS,
    "timeout": [*SPANS, 0, timedelta(0)],
    "kill_grace": SPANS,
    "backoff": [*STRATEGIES, lambda attempt, error: 1.0],
    "retry_delay": SPANS_OR_NONE,
    "delay": SPANS_OR_NONE,
    "at": [*INSTANTS, None],
    "isolated": FLAGS,
    "tags": TAGS,
    "meta": METAS,
}
DEFINITION_OPTIONS: dict[str, list[Any]] = {
    **{option: values for option, values in ENQUEUE_OPTIONS.items() if option not in ("at", "backoff")},
    "backoff": STRATEGIES,
    "name": LONG_NAMES,
    "aliases": [None, "old", 3, ["old", None], ["a b"], ["x" * 201], [EVIL]],
    "retry_on": EXCEPTIONS,
    "discard_on": EXCEPTIONS,
}
COUNTS = [*NO_INTEGERS, -1, 2**63]
POSITIVE = [*SPANS_OR_NONE, 0, timedelta(0)]
PATTERNS = [
    "mail", 3, True, {"mail": 0}, {"mail": None}, {"mail": True}, {"": 3}, {"a b": 3}, {3: 3},
    {"mail": {"concurency": 3}}, {"mail": {"priority": 2**31}}, {"mail": {"paused": 1}},
    [""], ["-"], ["a b"], [3], [None], ["*mail"], [EVIL],
]  # fmt: skip
SETTINGS: dict[str, list[Any]] = {
    "engine": [None, 3, True, "", "auto ", "thread", b"off"],
    "migrate": FLAGS,
    "max_concurrent_jobs": [*COUNTS, 0],
    "min_workers": COUNTS,
    "max_workers": [*COUNTS, 0],
    "worker_idle_timeout": SPANS_OR_NONE,
    "max_jobs_per_worker": [*COUNTS, 0],
    "max_worker_memory": [*(value for value in COUNTS if value is not None), 0, 67_108_863],
    "worker_start_timeout": POSITIVE,
    "polling_interval": POSITIVE,
    "start_timeout": POSITIVE,
    "shutdown_timeout": SPANS_OR_NONE,
    "kill_grace": SPANS_OR_NONE,
    "heartbeat_interval": POSITIVE,
    "lease_life": [*POSITIVE, 29],
    "rescue_interval": POSITIVE,
    "keep_completed": SPANS_OR_NONE,
    "keep_failed": SPANS_OR_NONE,
    "cleanup_interval": POSITIVE,
    "queues": PATTERNS,
    "queue_defaults": [None, 0, "3", True, [], {"concurrency": 0}, {"priority": NAN}, {"paused": None}, {"size": 3}],
    "modules": [None, "shop", 3, [None], [""], ["a b"], ["shop:jobs"], ["-shop"], [EVIL]],
    "job_defaults": [None, 3, [], {"tags": ["a"]}, {"delay": 3}, {"max_attempt": 3}, {"timeout": -1}, {"backoff": print}],
    "log_level": [None, 3, True, "", "loud", b"INFO"],
    "no_such_setting": [1],
}
URLS = [3, True, b"sqlite:///x.db", "", "x.db", "sqlite://x.db", "sqlite:///", "sqlite:///:memory:", "oracle://h/db",
        "sqlite:///x.db?prefix=A", "sqlite:///x.db?prefix=a;b", "sqlite:///x.db#y", "sqlite:///x.db?mode=ro",
        "sqlite:///x.db?busy_timeout=nan", "sqlite:///x.db?busy_timeout=-1", "sqlite:///x.db?synchronous=off",
        "sqlite:///a%00b.db", "sqlite:///a\0b.db", "sqlite:///\ud800.db"]  # fmt: skip
FILTERS: dict[str, list[Any]] = {
    "queue": NAMES[1:],
    "name": LONG_NAMES[1:],
    "tag": NAMES[1:],
    "since": INSTANTS,
    "until": INSTANTS,
}
STATES = ["", "done", "Waiting", 3, True, b"waiting", [None], ["waiting", "done"], [3], {"waiting"}]


def each(what: str, argument: str, values: Iterable[Any], call: Call) -> Iterator[Any]:
    for n, value in enumerate(values):
        yield pytest.param(call, argument, value, id=f"{what}-{argument}-{n}-{type(value).__name__}")


def options(what: str, table: dict[str, list[Any]], call: Callable[[Sidequest, dict[str, Any]], Any]) -> Iterator[Any]:
    """The same call for each of these keyword arguments."""
    for option, values in table.items():
        yield from each(what, option, values, lambda sq, value, option=option: call(sq, {option: value}))


def define(given: dict[str, Any]) -> Any:
    return job(**given)(lambda: None)


def define_class(given: dict[str, Any]) -> Any:
    return type("Wrong", (Job,), {**given, "run": lambda self: None})


async def followed(changes: Any) -> None:
    async for _ in changes:
        pass


async def settled(call: Call, sq: Sidequest, value: Any) -> None:
    answer = call(sq, value)
    if inspect.isawaitable(answer):
        await answer


def unstored(sq: Sidequest, value: Any) -> Any:
    return sq.enqueue(echo.call(value))


CALLS: list[Any] = [
    *options("Sidequest", SETTINGS, lambda sq, given: Sidequest(**given)),
    *each("Sidequest", "url", URLS, lambda sq, value: Sidequest(value, engine="off").start()),
    *options("@job", DEFINITION_OPTIONS, lambda sq, given: define(given)),
    *options("class", {k: v for k, v in DEFINITION_OPTIONS.items() if k != "name"}, lambda sq, given: define_class(given)),
    *each("@job", "@job", [None, 3, "x", int, [], object()], lambda sq, value: job()(value)),
    *each("@job", "no_such_option", [3], lambda sq, value: define({"no_such_option": value})),
    *options("options", ENQUEUE_OPTIONS, lambda sq, given: echo.options(**given)),
    *options("class.options", ENQUEUE_OPTIONS, lambda sq, given: Tenant.options(**given)),
    *options("enqueue", ENQUEUE_OPTIONS, lambda sq, given: sq.enqueue(echo.call(1), **given)),
    *each("options", "delay", [3], lambda sq, value: echo.options(delay=value, at=datetime.now(UTC))),
    *each("enqueue", "no_such_option", [3], lambda sq, value: sq.enqueue(echo.call(1), no_such_option=value)),
    *each("enqueue", "call", [None, 3, echo, "x:y", [], b"", {}], lambda sq, value: sq.enqueue(value)),
    *each("enqueue_many", "calls", [None, 3, True, echo, echo.call(1), [echo], [echo.call(1), None], "xy", b"xy", {"a": 1}],
          lambda sq, value: sq.enqueue_many(value)),
    *each("call", "value", UNSTORABLE, unstored),
    *each("call", "value", [1], lambda sq, value: echo.call(value, value)),  # type: ignore[call-arg]
    *each("call", "extra", [1], lambda sq, value: echo.call(1, extra=value)),  # type: ignore[call-arg]
    *each("call", "tenant", UNSTORABLE, lambda sq, value: Tenant(value).call(1)),
    *each("call_by_name", "name", LONG_NAMES, lambda sq, value: call_by_name(value)),
    *each("call_by_name", "arguments of x", UNSTORABLE, lambda sq, value: call_by_name("x", value)),
    *each("call_by_name", "arguments of x", UNSTORABLE, lambda sq, value: call_by_name("x", word=value)),
    *each("handle", "id", IDS, lambda sq, value: sq.handle(value)),
    *each("result", "timeout", SPANS, lambda sq, value: sq.handle(1).result(value)),
    *each("wait", "timeout", SPANS, lambda sq, value: sq.handle(1).wait(value)),
    *each("progress", "done", [None, "3", True, NAN, INF, 10**400, 1j], lambda sq, value: JobContext().progress(value)),
    *each("progress", "total", ["3", True, NAN, -INF, 10**400], lambda sq, value: JobContext().progress(1, value)),
    *each("progress", "note", [*TEXTS, None], lambda sq, value: JobContext().progress(1, 2, value)),
    *each("log", "message", [None, 3, b"x", "\0", "\ud800", "x" * 1_000_001], lambda sq, value: JobContext().log(value)),
    *each("Retry", "delay", SPANS, lambda sq, value: Retry("x", delay=value)),
    *each("Retry", "reason", [None, 3, b"x", ValueError("x"), "\0", "\ud800"], lambda sq, value: Retry(value)),
    *each("Fail", "reason", [None, 3, b"x", ValueError("x"), "\0", "\ud800"], lambda sq, value: Fail(value)),
    *each("Snooze", "delay", SPANS_OR_NONE, lambda sq, value: Snooze(value)),
    *each("jobs.get", "id", IDS, lambda sq, value: sq.jobs.get(value)),
    *each("jobs.cancel", "id", IDS, lambda sq, value: sq.jobs.cancel(value)),
    *each("jobs.retry", "id", IDS, lambda sq, value: sq.jobs.retry(value)),
    *each("jobs.run_now", "id", IDS, lambda sq, value: sq.jobs.run_now(value)),
    *each("jobs.delete", "id", IDS, lambda sq, value: sq.jobs.delete(value)),
    *each("jobs.snooze", "id", IDS, lambda sq, value: sq.jobs.snooze(value, 3)),
    *each("jobs.snooze", "delay", SPANS_OR_NONE, lambda sq, value: sq.jobs.snooze(1, value)),
    *options("jobs.list", FILTERS, lambda sq, given: sq.jobs.list(**given)),
    *options("jobs.count", FILTERS, lambda sq, given: sq.jobs.count(**given)),
    *each("jobs.list", "state", STATES, lambda sq, value: sq.jobs.list(state=value)),
    *each("jobs.list", "text", [*TEXTS, ""], lambda sq, value: sq.jobs.list(text=value)),
    *each("jobs.list", "limit", [*NO_INTEGERS, 0, -1, 1_001, 2**63], lambda sq, value: sq.jobs.list(limit=value)),
    *each("jobs.list", "before", IDS[1:], lambda sq, value: sq.jobs.list(before=value)),
    *each("jobs.count_over_time", "width", [*POSITIVE, 0.5], lambda sq, value: sq.jobs.count_over_time(value)),
    *each("jobs.count_over_time", "buckets", [*COUNTS, 0, 1_001], lambda sq, value: sq.jobs.count_over_time(60, value)),
    *each("jobs.count_over_time", "width", [timedelta(36_500)], lambda sq, value: sq.jobs.count_over_time(value, 1_000)),
    *each("jobs.count_over_time", "queue", NAMES[1:], lambda sq, value: sq.jobs.count_over_time(60, queue=value)),
    *each("jobs.watch", "queue", NAMES[1:], lambda sq, value: followed(sq.jobs.watch(queue=value))),
    *each("queues.get", "name", NAMES, lambda sq, value: sq.queues.get(value)),
    *each("queues.pause", "name", NAMES, lambda sq, value: sq.queues.pause(value)),
    *each("queues.resume", "name", NAMES, lambda sq, value: sq.queues.resume(value)),
    *each("queues.purge", "name", NAMES, lambda sq, value: sq.queues.purge(value)),
    *each("queues.set", "name", NAMES, lambda sq, value: sq.queues.set(value, priority=1)),
    *each("queues.set", "concurrency", [*COUNTS[1:], 0, 100_001], lambda sq, value: sq.queues.set("q", concurrency=value)),
    *each("queues.set", "priority", [*NO_INTEGERS[1:], 2**31], lambda sq, value: sq.queues.set("q", priority=value)),
    *each("queues.set", "concurrency or priority", [None], lambda sq, value: sq.queues.set("q")),
    *each("queues.create", "name", NAMES, lambda sq, value: sq.queues.create(value)),
    *each("queues.create", "concurrency", [*COUNTS, 0], lambda sq, value: sq.queues.create("q", concurrency=value)),
    *each("queues.create", "priority", [*NO_INTEGERS, 2**31], lambda sq, value: sq.queues.create("q", priority=value)),
    *each("queues.create", "paused", FLAGS, lambda sq, value: sq.queues.create("q", paused=value)),
    *each("queues.create", "no_such_setting", [3], lambda sq, value: sq.queues.create("q", no_such_setting=value)),
]  # fmt: skip


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bad-input")
    async with Sidequest(f"sqlite:///{folder}/x.db", engine="off") as sq:
        yield sq


@pytest.mark.parametrize(("call", "argument", "value"), CALLS)
async def test_bad_input_is_refused_by_name_before_anything_is_written(
    call: Call, argument: str, value: Any, shared: Sidequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError)) as refused:
        await settled(call, shared, value)
    assert argument in str(refused.value)
    assert len(str(refused.value)) < 1_000
    assert (await shared.queues.list(), sum((await shared.jobs.count()).values())) == ([], 0)
    assert list(tmp_path.iterdir()) == []


async def test_what_looks_like_an_injection_is_data(url: str) -> None:
    texts = [
        EVIL,
        "%s %(x)s",
        ":name ? $1",
        "{0} {prefix}",
        "\\",
        "'\"`",
        "\x1b[2J",
        "\u202e",
        "日本 é",
        "\U0001f600",
        "--",
        "*",
    ]
    async with Sidequest(url, engine="off") as sq:
        assert await sq.enqueue_many([]) == []
        for text in texts:
            handle = await sq.enqueue(echo.call([text, {text: text}]), meta={text: text})
            record = await handle.refresh()
            assert record.args == {"args": [[text, {text: text}]]}
            assert record.meta == {text: text}
            assert handle.id in [found.id for found in await sq.jobs.list(text=text)] or text in "\\'\"`\x1b[2J"
            await sq.jobs.delete(handle.id)
        assert sum((await sq.jobs.count()).values()) == 0
