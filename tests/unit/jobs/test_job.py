"""What users write: decorated functions, job classes, calls by name."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from sidequest import (
    CancelAnswer,
    Client,
    ConfigError,
    Fail,
    Job,
    JobCall,
    JobCanceled,
    JobContext,
    JobDef,
    JobFailed,
    JobHandle,
    JobRecord,
    NotSerializable,
    Retry,
    Snooze,
    State,
    call_by_name,
    job,
)
from sidequest.jobs.client import attach, current_client, detach, using
from sidequest.jobs.definition import Definition, registry
from sidequest.jobs.job import Complete, definition_of
from sidequest.jobs.outcome import JobError, append_error
from sidequest.jobs.record import JobEnd, NewJob, Progress


@pytest.fixture(autouse=True)
def unknown_jobs_leave_again() -> Iterator[None]:
    """Jobs that a test defines are forgotten after it."""
    before = dict(registry._jobs)
    yield
    registry._jobs.clear()
    registry._jobs.update(before)


class Notebook(Client):
    """A client that writes down what it should store, and answers as it is told."""

    def __init__(self, end: JobEnd | None = None) -> None:
        self.stored: list[NewJob] = []
        self.connections: list[object | None] = []
        self.prepared: list[Definition] = []
        self.end = end
        self.waited: list[float | None] = []

    def __repr__(self) -> str:
        return "<Notebook>"

    def _prepare(self, definitions: Iterable[Definition]) -> None:
        self.prepared += definitions

    async def _insert(self, jobs: Sequence[NewJob], connection: object | None = None) -> Sequence[int]:
        self.stored += jobs
        self.connections.append(connection)
        return range(len(self.stored) - len(jobs) + 1, len(self.stored) + 1)

    async def _find(self, id: int) -> JobRecord:
        raise NotImplementedError

    async def _cancel(self, id: int) -> CancelAnswer:
        return "requested"

    async def _ended(self, id: int, timeout: float | None) -> JobEnd:
        self.waited.append(timeout)
        assert self.end is not None
        return self.end


@pytest.fixture
def client() -> Iterator[Notebook]:
    made = Notebook()
    with using(made):
        yield made


@job
async def greet(name: str, *, times: int = 1) -> str:
    """Say hello."""
    return f"hello {name}" * times


@job(queue="cpu", max_attempts=2, timeout=30)
def double(n: int) -> int:
    return 2 * n


@job
async def report(ctx: JobContext, day: int) -> int:
    ctx.progress(day)
    return ctx.attempt + day


@job(name="sync-report")
def sync_report(ctx: JobContext, day: int) -> int:
    return ctx.attempt + day


class Mail(Job):
    queue = "mail"
    max_attempts = 3

    async def run(self, to: str, subject: str = "hi") -> str:
        return f"{to}: {subject}"


class Urgent(Mail):
    priority = 9
    aliases = ("urgent-mail",)


# Called directly, a job is the plain function.


async def test_an_async_job_called_directly_is_the_plain_function() -> None:
    assert await greet("ana", times=2) == "hello anahello ana"


def test_a_sync_job_called_directly_is_the_plain_function() -> None:
    assert double(4) == 8


async def test_a_job_with_a_context_called_directly_takes_one() -> None:
    assert await report(JobContext(attempt=2), 3) == 5
    assert sync_report(JobContext(), 3) == 4


async def test_a_class_job_called_directly_is_the_plain_method() -> None:
    assert await Mail().run("ana") == "ana: hi"


def test_a_job_looks_like_its_function() -> None:
    assert (greet.__name__, greet.__doc__, greet.__module__) == ("greet", "Say hello.", __name__)  # type: ignore[attr-defined]
    assert list(inspect.signature(greet).parameters) == ["name", "times"]
    assert repr(greet) == f"<job {__name__}:greet>"


# What can be a job.


@pytest.mark.parametrize("thing", [3, "send", print, Mail, partial(double, 1), Mail()], ids=lambda thing: type(thing).__name__)
def test_only_functions_are_decorated(thing: Any) -> None:
    with pytest.raises(TypeError, match="^@job takes a plain or async function, not "):
        job(thing)


def test_generators_are_no_jobs() -> None:
    def many() -> Iterator[int]:
        yield 1

    async def many_async() -> AsyncIterator[int]:
        yield 1

    for function in (many, many_async):
        with pytest.raises(TypeError, match="^@job takes a plain or async function"):
            job(function)  # type: ignore[call-overload]  # pyright: ignore


def test_a_wrong_option_of_the_decorator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match=r"^'quee' is not an option of @job; did you mean 'queue'\?$"):
        job(quee="x")  # type: ignore[call-overload]  # pyright: ignore


def test_a_wrong_value_of_a_class_attribute_is_refused_at_the_class() -> None:
    with pytest.raises(ValueError, match="^max_attempts must be between 1 and 10000, not 0$"):

        class Never(Job):
            max_attempts = 0

            def run(self) -> None: ...


# Enqueueing.


async def test_enqueue_stores_the_call_with_the_jobs_options(client: Notebook) -> None:
    handle = await double.enqueue(4)
    expected = NewJob(f"{__name__}:double", '{"args":[4]}', "cpu", max_attempts=2, timeout=timedelta(seconds=30))
    assert client.stored == [expected]
    assert (handle.id, handle.name, handle.duplicate) == (1, f"{__name__}:double", False)


async def test_options_at_the_call_win(client: Notebook) -> None:
    await double.options(queue="vip", delay=60).options(delay=5).enqueue(4)
    [new] = client.stored
    assert (new.queue, new.max_attempts, new.delay) == ("vip", 2, timedelta(seconds=5))


def test_options_make_another_job_and_leave_this_one_alone() -> None:
    assert double.options(queue="vip") is not double
    assert double.call(4).options == {}


async def test_options_at_enqueue_win_over_the_calls(client: Notebook) -> None:
    await client.enqueue(double.options(queue="a", priority=1).call(4), queue="b")
    [new] = client.stored
    assert (new.queue, new.priority) == ("b", 1)


def test_a_wrong_option_at_the_call_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match=r"^'quee' is not an option of enqueue; did you mean 'queue'\?$"):
        double.options(quee="x")  # type: ignore[call-arg]  # pyright: ignore


async def test_handles_come_in_the_order_of_the_calls(client: Notebook) -> None:
    handles = await client.enqueue_many(double.call(n) for n in range(3))
    assert [handle.id for handle in handles] == [1, 2, 3]
    assert [new.args for new in client.stored] == ['{"args":[0]}', '{"args":[1]}', '{"args":[2]}']


async def test_nothing_to_enqueue_is_nothing_stored(client: Notebook) -> None:
    assert await client.enqueue_many([]) == []


async def test_a_batch_with_anything_but_calls_stores_nothing(client: Notebook) -> None:
    with pytest.raises(TypeError, match=r"^calls\[1\] must be a call such as job\.call\(…\), not AsyncJobDef$"):
        await client.enqueue_many([double.call(1), greet])  # type: ignore[list-item]  # pyright: ignore
    assert client.stored == []


@pytest.mark.parametrize("thing", [double, "double", None])
async def test_only_a_call_is_enqueued(client: Notebook, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^call must be a call such as job\.call\(…\), not "):
        await client.enqueue(thing)


async def test_one_call_is_no_batch(client: Notebook) -> None:
    with pytest.raises(TypeError, match="^calls must be an iterable of calls"):
        await client.enqueue_many(double.call(1))  # type: ignore[arg-type]  # pyright: ignore


async def test_the_client_is_told_which_code_workers_need(client: Notebook) -> None:
    await client.enqueue_many([double.call(1), double.call(2), call_by_name("elsewhere:send")])
    assert client.prepared == [definition_of(double)]


# Class jobs.


async def test_a_class_job_is_enqueued_by_its_class_or_an_object(client: Notebook) -> None:
    await Mail.enqueue("ana", subject="x")
    await Mail().enqueue("ana", subject="x")
    await Mail.options(queue="vip").enqueue("ana", subject="x")
    assert [new.queue for new in client.stored] == ["mail", "mail", "vip"]
    assert {new.args for new in client.stored} == {'{"args":["ana"],"kwargs":{"subject":"x"}}'}


async def test_a_subclass_inherits_options_but_not_the_name(client: Notebook) -> None:
    await Urgent.enqueue("ana")
    [new] = client.stored
    assert (new.name, new.queue, new.max_attempts, new.priority) == (f"{__name__}:Urgent", "mail", 3, 9)


def test_a_subclass_does_not_inherit_name_and_aliases() -> None:
    class Named(Job):
        name = "named"
        aliases = ("once",)

        def run(self) -> None: ...

    class Child(Named):
        pass

    child = definition_of(Child)
    assert child is not None
    assert child.aliases == ()
    assert child.name.endswith("Child")


def test_a_class_without_run_cannot_be_enqueued() -> None:
    class Base(Job):
        queue = "base"

    with pytest.raises(ConfigError, match="Base cannot be enqueued: it has no run method of its own"):
        Base.call()
    with pytest.raises(ConfigError, match="Job cannot be enqueued"):
        Job.call()
    with pytest.raises(TypeError, match="Base has no run method"):
        Base().run()


@pytest.mark.parametrize(
    ("helper", "arguments", "raised", "facts"),
    [
        ("fail", ("gone",), Fail, {"reason": "gone"}),
        ("retry", ("429",), Retry, {"reason": "429", "delay": None}),
        ("snooze", (60,), Snooze, {"delay": timedelta(seconds=60)}),
        ("complete", ([1],), Complete, {"result": [1]}),
    ],
)
def test_the_helpers_raise_so_that_a_forgotten_return_cannot_matter(
    helper: str, arguments: tuple[Any, ...], raised: type[Exception], facts: dict[str, Any]
) -> None:
    with pytest.raises(raised) as caught:
        getattr(Mail(), helper)(*arguments)
    assert vars(caught.value) == facts


def test_a_helper_takes_an_exact_delay() -> None:
    with pytest.raises(Retry) as caught:
        Mail().retry("429", delay=30)
    assert caught.value.delay == timedelta(seconds=30)


@pytest.mark.parametrize("thing", [3, Job, "greet", NewJob])
def test_what_is_no_job_has_no_definition(thing: object) -> None:
    assert definition_of(thing) is None


def test_a_job_function_and_a_job_class_have_definitions() -> None:
    assert isinstance(greet, JobDef)
    for thing in (greet, Mail):
        definition = definition_of(thing)
        assert definition is registry.get(definition.name if definition else "")


# By name.


def test_a_call_by_name_needs_no_code() -> None:
    assert call_by_name("elsewhere:send", 1, to="a") == JobCall("elsewhere:send", '{"args":[1],"kwargs":{"to":"a"}}', {}, None)


def test_a_call_by_name_without_arguments_stores_none() -> None:
    assert call_by_name("elsewhere:send").args == "{}"


def test_a_call_by_name_of_a_known_job_is_checked_like_any_other() -> None:
    assert call_by_name("sync-report", 3) == sync_report.call(3)
    with pytest.raises(TypeError, match="missing a required argument: 'day'"):
        call_by_name("sync-report")


def test_a_call_by_an_alias_is_checked_too() -> None:
    assert call_by_name("urgent-mail", "ana").args == '{"args":["ana"]}'


@pytest.mark.parametrize("name", ["", "no way", "x" * 201])
def test_a_call_by_a_name_that_no_job_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="^name must be 1 to 200"):
        call_by_name(name)


def test_a_call_by_name_names_what_cannot_be_stored() -> None:
    with pytest.raises(NotSerializable, match=r"^the arguments of x cannot be stored: \$\.kwargs\.to is an object"):
        call_by_name("x", to=object())


# Which client is meant.


def test_without_a_running_sidequest_enqueue_says_how_to_start_one() -> None:
    with pytest.raises(ConfigError, match="^Sidequest is not started: use `async with Sidequest"):
        current_client()


def test_the_only_running_client_is_meant() -> None:
    one = Notebook()
    attach(one)
    try:
        assert current_client() is one
    finally:
        detach(one)
        detach(one)  # a second time changes nothing


def test_with_two_running_clients_one_must_be_chosen() -> None:
    one, two = Notebook(), Notebook()
    attach(one)
    attach(two)
    try:
        with pytest.raises(ConfigError, match=r"^2 Sidequests are running \(<Notebook>, <Notebook>\): say which one"):
            current_client()
        with using(two):
            assert current_client() is two
    finally:
        detach(one)
        detach(two)


# Handles.


def handle_of(end: JobEnd, definition: Definition | None = None) -> JobHandle[Any]:
    return JobHandle(end.id, end.name, Notebook(end), definition)


async def test_result_is_what_the_job_returned() -> None:
    assert await handle_of(JobEnd(1, "n", State.COMPLETED, '{"$type":"set","value":[1]}', None)).result() == {1}
    assert await handle_of(JobEnd(1, "n", State.COMPLETED, None, None)).result() is None


async def test_the_result_of_a_failed_job_raises_what_its_last_attempt_raised() -> None:
    errors = append_error(append_error(None, JobError("error", "A", "1")), JobError("error", "ValueError", "no", "Traceback …"))
    with pytest.raises(JobFailed, match=r"(?s)^job 1 \(n\) failed: ValueError: no\n\nTraceback …$") as caught:
        await handle_of(JobEnd(1, "n", State.FAILED, None, errors)).result()
    assert (caught.value.id, caught.value.name, caught.value.error_type, caught.value.error_message) == (
        1,
        "n",
        "ValueError",
        "no",
    )


async def test_the_result_of_a_canceled_job_raises() -> None:
    with pytest.raises(JobCanceled, match=r"^job 1 \(n\) was canceled$"):
        await handle_of(JobEnd(1, "n", State.CANCELED, None, None)).result()


async def test_wait_tells_the_state_and_never_raises_for_a_failure() -> None:
    assert await handle_of(JobEnd(1, "n", State.FAILED, None, None)).wait() is State.FAILED


async def test_a_timeout_is_a_duration() -> None:
    handle = handle_of(JobEnd(1, "n", State.FAILED, None, None))
    with pytest.raises(ValueError, match="^timeout must be 0 seconds"):
        await handle.wait(timeout=-1)


def test_a_handle_is_made_from_an_id() -> None:
    assert repr(Notebook().handle(7)) == "<JobHandle 7 ?>"
    with pytest.raises(ValueError, match="^id must be between 1 and"):
        Notebook().handle(0)


# The caller's own transaction.


async def test_a_connection_goes_to_the_store_and_not_into_the_job(client: Notebook) -> None:
    mine = object()
    await client.enqueue(greet.call("a"), connection=mine)
    await client.enqueue(greet.options(connection=mine).call("b"))
    await client.enqueue_many([greet.call("c")], connection=mine)
    await client.enqueue(greet.call("d"))
    assert client.connections == [mine, mine, mine, None]
    assert not any(hasattr(job, "connection") for job in client.stored)


async def test_calls_that_name_different_connections_are_refused(client: Notebook) -> None:
    calls = [greet.options(connection=object()).call("a"), greet.call("b")]
    with pytest.raises(ValueError, match="the calls name different connections"):
        await client.enqueue_many(calls)
    assert client.stored == []


# Contexts.


def test_the_idempotency_key_is_the_same_for_all_attempts() -> None:
    assert {JobContext(id=7, attempt=n).idempotency_key for n in (1, 2)} == {"sidequest-7"}


def test_a_context_made_by_hand_reports_to_nobody() -> None:
    JobContext().progress(1, 2, "half")
    JobContext().log("hello")


def test_a_context_made_by_hand_has_no_sidequest() -> None:
    with pytest.raises(RuntimeError, match="made by hand"):
        _ = JobContext().sidequest


@pytest.mark.parametrize(
    ("progress", "error"),
    [(("1",), TypeError), ((float("nan"),), ValueError), ((1, float("inf")), ValueError), ((1, 2, 3), TypeError)],
)
def test_bad_progress_is_refused(progress: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        JobContext().progress(*progress)


@pytest.mark.parametrize("progress", [Progress(1), Progress(0.5, 2.0, "Grüße")])
def test_progress_comes_back_equal(progress: Progress) -> None:
    assert Progress.from_json(progress.to_json()) == progress
