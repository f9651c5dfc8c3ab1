"""What is known of a job's code, and the register of all jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from sidequest import ConfigError, Job, JobContext, NotSerializable, TooLarge, job
from sidequest.jobs.definition import Definition, Registry, load_arguments, registry
from sidequest.jobs.job import definition_of

if TYPE_CHECKING:
    import sidequest

HERE = __name__


@pytest.fixture(autouse=True)
def unknown_jobs_leave_again() -> Iterator[None]:
    """Jobs that a test defines are forgotten after it."""
    before = dict(registry._jobs)
    yield
    registry._jobs.clear()
    registry._jobs.update(before)


@dataclass
class Parcel:
    weight: int


async def plain(a: int, b: int = 2, *rest: int, c: int = 3, **more: object) -> None: ...


def blocking(parcel: Parcel) -> Parcel:
    return parcel


def function(name: str, module: str = HERE, qualname: str | None = None) -> Any:
    made = FunctionType(blocking.__code__, globals(), name)
    made.__module__, made.__qualname__ = module, qualname or name
    return made


def define(target: Any, **options: Any) -> Definition:
    return Definition(target, target, options)


def known(thing: object) -> Definition:
    definition = definition_of(thing)
    assert definition is not None
    return definition


# Names.


def test_a_job_is_named_by_module_and_qualified_name() -> None:
    assert define(plain).name == f"{HERE}:plain"


def test_a_name_of_its_own_wins() -> None:
    assert define(plain, name="mail.send").name == "mail.send"


def test_a_name_that_no_column_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="is longer than 200 characters: give it a name= of its own"):
        define(function("x" * 200))


def test_a_class_job_is_named_by_its_class() -> None:
    class Send(Job):
        async def run(self) -> None: ...

    assert known(Send).name == f"{HERE}:{Send.__qualname__}"


def test_a_job_at_the_top_level_of_a_module_can_be_reached() -> None:
    assert define(plain).unreachable is None


def test_a_job_inside_a_function_cannot_be_reached() -> None:
    def inner() -> None: ...

    assert str(define(inner).unreachable).endswith("is defined inside a function: move it to the top level of a module")


def test_a_job_in_a_repl_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidequest.jobs.definition.stable_module", lambda module: None)
    definition = define(function("send", "__main__"))
    assert definition.name == "__main__:send"
    assert str(definition.unreachable).startswith("__main__:send is defined in a REPL, notebook or -c command: move it")


# The register.


def test_a_job_is_found_by_its_name_and_by_its_aliases() -> None:
    jobs, definition = Registry(), define(plain, aliases=("old", "older"))
    jobs.add(definition)
    assert [jobs.get(name) for name in (definition.name, "old", "older")] == [definition] * 3


def test_an_unknown_name_finds_nothing() -> None:
    assert Registry().get("nobody") is None


def test_two_jobs_of_one_name_are_refused() -> None:
    jobs = Registry()
    jobs.add(define(function("one"), name="send"))
    with pytest.raises(ConfigError, match=f"two jobs are named 'send': {HERE}:one and {HERE}:two; give one of them another"):
        jobs.add(define(function("two"), name="send"))


def test_an_alias_that_is_another_jobs_name_is_refused() -> None:
    jobs = Registry()
    jobs.add(define(function("one"), name="send"))
    with pytest.raises(ConfigError, match="two jobs are named 'send'"):
        jobs.add(define(function("two"), aliases=("send",)))


def test_a_refused_job_is_not_half_registered() -> None:
    jobs = Registry()
    jobs.add(define(function("one"), name="send"))
    with pytest.raises(ConfigError):
        jobs.add(define(function("two"), name="fresh", aliases=("send",)))
    assert jobs.get("fresh") is None


def test_a_reloaded_module_replaces_its_jobs() -> None:
    jobs, again = Registry(), define(function("one"))
    jobs.add(define(function("one")))
    jobs.add(again)
    assert jobs.get(again.name) is again


def test_the_register_names_modules_once_and_kinds_by_every_name() -> None:
    jobs = Registry()
    jobs.add(define(plain, name="p", aliases=("q",)))
    jobs.add(define(blocking, name="b"))
    jobs.add(define(function("x", "shop.jobs"), name="x"))
    assert jobs.modules() == (HERE, "shop.jobs")
    assert jobs.kinds() == {"p": True, "q": True, "b": False, "x": False}


# Who takes a context.


@job
async def with_context(ctx: JobContext, a: int) -> None: ...


@job
def with_context_for_type_checkers(c: sidequest.JobContext, a: int) -> None: ...


@job
async def without_context(a: int, ctx: JobContext | None = None) -> None: ...


@job
async def untyped(ctx, a):  # type: ignore[no-untyped-def]
    ...


@pytest.mark.parametrize("taker", [with_context, with_context_for_type_checkers])
def test_a_first_parameter_annotated_as_context_is_not_part_of_the_call(taker: Any) -> None:
    assert known(taker).takes_context
    assert list(known(taker).signature.parameters) == ["a"]


@pytest.mark.parametrize("taker", [without_context, untyped])
def test_any_other_first_parameter_is_part_of_the_call(taker: Any) -> None:
    assert not known(taker).takes_context
    assert list(known(taker).signature.parameters)[-1] in ("a", "ctx")
    assert len(known(taker).signature.parameters) == 2


def test_self_is_not_part_of_the_call() -> None:
    class Send(Job):
        async def run(self, to: str) -> None: ...

    assert list(known(Send).signature.parameters) == ["to"]


# Arguments.


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1,), {}, '{"args":[1]}'),
        ((1, 5), {}, '{"args":[1,5]}'),
        ((), {"a": 1}, '{"kwargs":{"a":1}}'),
        ((1,), {"c": 9, "d": "x"}, '{"args":[1],"kwargs":{"c":9,"d":"x"}}'),
        ((1, 2, 3, 4), {}, '{"args":[1,2,3,4]}'),
        (
            (1,),
            {"$type": "set", "value": [1]},
            '{"args":[1],"kwargs":{"$type":"dict","value":[["$type","set"],["value",[1]]]}}',
        ),
    ],
)
def test_arguments_are_stored_as_given_and_come_back(args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    definition = define(plain)
    assert definition.dump_arguments(args, kwargs) == text
    loaded = load_arguments(definition, text)
    assert (tuple(loaded.get("args", ())), loaded.get("kwargs", {})) == (args, kwargs)


def test_a_call_without_arguments_stores_none() -> None:
    def nothing() -> None: ...

    assert define(nothing).dump_arguments((), {}) == "{}"


def test_annotated_classes_travel() -> None:
    definition = define(blocking)
    text = definition.dump_arguments((Parcel(3),), {})
    assert load_arguments(definition, text) == {"args": [Parcel(3)]}
    assert definition.result_classes == {"Parcel": Parcel}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'parcel'"),
        ((1,), {"parcel": 2}, "multiple values for argument 'parcel'"),
        ((1,), {"size": 2}, "got an unexpected keyword argument 'size'"),
        ((1, 2), {}, "too many positional arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{HERE}:blocking: {re.escape(message)}"):
        define(blocking).dump_arguments(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "word"),
    [
        ((object(),), {}, "'a'"),
        ((1, object()), {}, "'b'"),
        ((1, 2, 3, object()), {}, "'*rest[1]'"),
        ((1,), {"c": object()}, "'c'"),
        ((1,), {"other": object()}, "'other'"),
    ],
)
def test_an_argument_that_cannot_be_stored_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], word: str) -> None:
    expected = f"argument {word} of {HERE}:plain cannot be stored: $ is an object, which has no JSON form"
    with pytest.raises(NotSerializable, match=f"^{re.escape(expected)}"):
        define(plain).dump_arguments(args, kwargs)


def test_arguments_that_are_too_large_together_are_refused() -> None:
    half = "x" * 600_000
    with pytest.raises(TooLarge, match=f"^the arguments of {HERE}:plain takes 1,200"):
        define(plain).dump_arguments((1,), {"one": half, "two": half})


def test_stored_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^the stored arguments are '\[1\]', not an object$"):
        load_arguments(define(plain), "[1]")


# Constructors.


class Tenant(Job):
    def __init__(self, name: str, *, parcel: Parcel | None = None) -> None:
        self.name_of_tenant = name

    async def run(self, day: int) -> None: ...


class SpecialTenant(Tenant):
    async def run(self, day: int) -> None: ...


@dataclass(frozen=True)
class Frozen(Job):
    parcel: Parcel

    async def run(self) -> None: ...


class NoConstructor(Job):
    async def run(self) -> None: ...


@pytest.mark.parametrize("kind", [Tenant, SpecialTenant])
def test_constructor_arguments_are_stored_and_come_back(kind: type[Tenant]) -> None:
    call = kind("acme", parcel=Parcel(2)).call(3)
    assert load_arguments(known(kind), call.args) == {
        "init": {"args": ["acme"], "kwargs": {"parcel": Parcel(2)}},
        "args": [3],
    }


def test_a_dataclass_may_be_a_job() -> None:
    assert load_arguments(known(Frozen), Frozen(Parcel(1)).call().args) == {"init": {"args": [Parcel(1)]}}


def test_a_constructor_argument_that_is_missing_is_named_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"^Tenant\(\): missing a required argument: 'name'; it takes \(name: "):
        Tenant.call(3)


def test_a_constructor_argument_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(NotSerializable, match=r"^argument 'name' of Tenant\(\) cannot be stored: \$ is an object"):
        Tenant(object()).call(3)  # type: ignore[arg-type]  # pyright: ignore


def test_arguments_for_a_class_without_a_constructor_are_refused() -> None:
    with pytest.raises(TypeError):
        NoConstructor("x").call()  # type: ignore[call-arg]  # pyright: ignore
    with pytest.raises(TypeError, match=r"^NoConstructor\(\) takes no arguments$"):
        known(NoConstructor).dump_arguments((), {}, (("x",), {}))
