"""PURE CENTRE. What users write: the `@job` decorator and the `Job` class.

The overloads and descriptors exist for type checkers: a wrong argument is a type error at
`enqueue`, and the handle's result has the job's own return type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from copy import copy
from functools import partial, update_wrapper
from typing import Any, ClassVar, Concatenate, Generic, NoReturn, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from sidequest.errors import ConfigError
from sidequest.jobs import checks, codec
from sidequest.jobs.checks import Seconds
from sidequest.jobs.client import JobCall, JobHandle, current_client, with_options
from sidequest.jobs.context import JobContext
from sidequest.jobs.definition import Definition, registry, signature_of
from sidequest.jobs.options import DEFINITION_OPTIONS, DefinitionOptions, EnqueueOptions, check_options
from sidequest.jobs.outcome import Fail, Retry, Snooze

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
NO_ARGUMENTS: Arguments = ((), {})


class JobDef(Generic[P, R]):
    """A function (or class) that can be enqueued. Immutable: `options` returns another one."""

    def __init__(self, definition: Definition, init: Arguments = NO_ARGUMENTS) -> None:
        self._definition = definition
        self._init = init
        self._options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The name under which the job is stored."""
        return self._definition.name

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store a job with these arguments on the running Sidequest; committed when it returns.

        Raises TypeError when the arguments do not fit, NotSerializable and TooLarge when they
        cannot be stored, ConfigError when no Sidequest is running, BackendUnavailable.
        """
        return await current_client().enqueue(self.call(*args, **kwargs))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> JobCall[R]:
        """The call as a value, for `sq.enqueue(…)` and `sq.enqueue_many([…])`; checked already."""
        text = self._definition.dump_arguments(args, kwargs, self._init)
        return JobCall(self.name, text, self._options, self._definition)

    def options(self, **options: Unpack[EnqueueOptions]) -> Self:
        """The same job with other options. Raises TypeError or ValueError naming the option."""
        other = copy(self)
        other._options = with_options(self._options, options)
        return other

    def __repr__(self) -> str:
        return f"<job {self.name}>"


class AsyncJobDef(JobDef[P, R]):
    """An `async def` job. Calling it is calling the function: no queue involved."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._definition.run(*args, **kwargs)  # type: ignore[no-any-return]


class SyncJobDef(JobDef[P, R]):
    """A plain `def` job. Calling it is calling the function: no queue involved."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._definition.run(*args, **kwargs)  # type: ignore[no-any-return]


class AsyncCtxJobDef(JobDef[P, R]):
    """An `async def` job that takes a `JobContext` first; callers of `enqueue` do not pass it."""

    def __call__(self, ctx: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._definition.run(ctx, *args, **kwargs)  # type: ignore[no-any-return]


class SyncCtxJobDef(JobDef[P, R]):
    """A plain `def` job that takes a `JobContext` first; callers of `enqueue` do not pass it."""

    def __call__(self, ctx: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._definition.run(ctx, *args, **kwargs)  # type: ignore[no-any-return]


# The context overloads must come first and do overlap with the general ones; both checkers say so
# (hence the two ignores each), and both pick the first that fits, which is what is meant.
class JobDecorator(Protocol):
    """What `@job(...)` with options returns."""

    @overload
    def __call__(self, fn: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]], /) -> AsyncCtxJobDef[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[Concatenate[JobContext, P], R], /) -> SyncCtxJobDef[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJobDef[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncJobDef[P, R]: ...


@overload
def job(fn: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]], /) -> AsyncCtxJobDef[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
@overload
def job(fn: Callable[Concatenate[JobContext, P], R], /) -> SyncCtxJobDef[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def job(fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJobDef[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
@overload
def job(fn: Callable[P, R], /) -> SyncJobDef[P, R]: ...
@overload
def job(fn: None = None, /, **options: Unpack[DefinitionOptions]) -> JobDecorator: ...
def job(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a job: `@job`, or `@job(queue="mail", timeout=30, …)`.

    `async def` jobs share worker processes, many at a time; a plain `def` job has a worker process
    to itself while it runs. Raises TypeError or ValueError naming a wrong option, ConfigError for
    a name that another job has.
    """
    checked = check_options(options, DEFINITION_OPTIONS, "an option of @job")
    return _define(fn, checked) if fn is not None else partial(_define, options=checked)


def _define(function: Any, options: Mapping[str, Any]) -> JobDef[..., Any]:
    if getattr(function, "__name__", "") == "<lambda>":
        raise TypeError("@job takes a function with a name of its own, not a lambda: workers find it by its name")
    if not inspect.isfunction(function) or inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"@job takes a plain or async function, not {function!r}")
    definition = Definition(function, function, options, takes_context=_takes_context(function))
    registry.add(definition)
    kind = _KINDS[definition.is_async, definition.takes_context]
    made = kind(definition)
    update_wrapper(cast("Callable[..., Any]", made), function)
    return made


_KINDS: dict[tuple[bool, bool], type[JobDef[..., Any]]] = {
    (True, True): AsyncCtxJobDef,
    (False, True): SyncCtxJobDef,
    (True, False): AsyncJobDef,
    (False, False): SyncJobDef,
}


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether the first parameter is annotated `JobContext`, also as a string."""
    first = next(iter(signature_of(function).parameters.values()), None)
    if first is None:
        return False
    hint = codec.hints_of(function).get(first.name, first.annotation)
    written = getattr(hint, "__forward_arg__", hint)
    return hint is JobContext or (isinstance(written, str) and written.rpartition(".")[2] == "JobContext")


def call_by_name(name: str, /, *args: Any, **kwargs: Any) -> JobCall[Any]:
    """A call of a job whose code this process does not have (another service, a script).

    The name is not checked: if no worker knows it, the job waits until one does. Raises
    NotSerializable and TooLarge as `.call()` does.
    """
    checks.name("name", name, longest=200)
    definition = registry.get(name)
    if definition is not None:
        return JobCall(name, definition.dump_arguments(args, kwargs), {}, definition)
    content: dict[str, object] = {}
    if args:
        content["args"] = list(args)
    if kwargs:
        content["kwargs"] = kwargs
    return JobCall(name, codec.dump(content, f"the arguments of {name}"), {}, None)


class _RunsAsync(Protocol[P, R_co]):
    def run(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...


class _RunsSync(Protocol[P, R_co]):
    def run(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class _EnqueueFn(Protocol[P, R_co]):
    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R_co]: ...


class _CallFn(Protocol[P, R_co]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> JobCall[R_co]: ...


class _OptionsFn(Protocol[P, R]):
    def __call__(self, **options: Unpack[EnqueueOptions]) -> JobDef[P, R]: ...


class _Enqueue:
    """`EmailJob.enqueue(…)` and `Tenant("acme").enqueue(…)`, typed by the class's own `run`."""

    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsAsync[P, R]]) -> _EnqueueFn[P, R]: ...
    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsSync[P, R]]) -> _EnqueueFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsAsync[P, R], owner: Any = None) -> _EnqueueFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsSync[P, R], owner: Any = None) -> _EnqueueFn[P, R]: ...
    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return _job_def(obj, owner).enqueue


class _Call:
    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsAsync[P, R]]) -> _CallFn[P, R]: ...
    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsSync[P, R]]) -> _CallFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsAsync[P, R], owner: Any = None) -> _CallFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsSync[P, R], owner: Any = None) -> _CallFn[P, R]: ...
    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return _job_def(obj, owner).call


class _Options:
    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsAsync[P, R]]) -> _OptionsFn[P, R]: ...
    @overload
    def __get__(self, obj: None, owner: Callable[..., _RunsSync[P, R]]) -> _OptionsFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsAsync[P, R], owner: Any = None) -> _OptionsFn[P, R]: ...
    @overload
    def __get__(self, obj: _RunsSync[P, R], owner: Any = None) -> _OptionsFn[P, R]: ...
    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return _job_def(obj, owner).options


class Job:
    """The class form of a job: subclass it and write `run`, sync or async.

    Class attributes named like the options of `@job` are the options. Arguments of the
    constructor are stored with the job, and the worker builds the object with them again:
    `await Tenant("acme").enqueue(3)`. Inside `run`, `self.ctx` is the `JobContext`.
    """

    queue: ClassVar[str] = "default"
    max_attempts: ClassVar[int] = 5
    timeout: ClassVar[Seconds | None] = None
    ctx: JobContext

    enqueue = _Enqueue()
    call = _Call()
    options = _Options()

    _sidequest_definition: ClassVar[Definition]
    _sidequest_arguments: Arguments = NO_ARGUMENTS

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "_sidequest_arguments", (args, kwargs))  # also where the subclass is frozen
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.run is Job.run:
            return  # an abstract step of a hierarchy: nothing to run yet
        given = {
            option: vars(level)[option]
            for level in reversed(cls.__mro__[: cls.__mro__.index(Job)])
            for option in DEFINITION_OPTIONS & vars(level).keys()
            if option not in ("name", "aliases") or level is cls
        }
        checked = check_options(given, DEFINITION_OPTIONS, "an option of a Job")
        cls._sidequest_definition = Definition(cls, cls.run, checked)
        registry.add(cls._sidequest_definition)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The work. Override it, sync or async, with whatever parameters the job takes."""
        raise TypeError(f"{type(self).__qualname__} has no run method")

    def fail(self, reason: str = "") -> NoReturn:
        """End this job as failed, whatever attempts are left (raises `Fail`)."""
        raise Fail(reason)

    def retry(self, reason: str = "", *, delay: Seconds | None = None) -> NoReturn:
        """End this attempt and try again (raises `Retry`)."""
        raise Retry(reason, delay=delay)

    def snooze(self, delay: Seconds) -> NoReturn:
        """Come back later without losing an attempt (raises `Snooze`)."""
        raise Snooze(delay)

    def complete(self, result: Any = None) -> NoReturn:
        """End this job as completed with `result`, from however deep."""
        raise Complete(result)


class Complete(Exception):
    """What `Job.complete` raises."""

    def __init__(self, result: Any) -> None:
        super().__init__("completed")
        self.result = result


def _job_def(obj: Job | None, owner: type[Job]) -> JobDef[..., Any]:
    kind = owner if obj is None else type(obj)
    definition = vars(kind).get("_sidequest_definition")
    if definition is None:
        raise ConfigError(f"{kind.__qualname__} cannot be enqueued: it has no run method of its own")
    return JobDef(definition, NO_ARGUMENTS if obj is None else obj._sidequest_arguments)  # pyright: ignore[reportPrivateUsage]


def definition_of(thing: object) -> Definition | None:
    """The definition behind a decorated function or a `Job` class; None for anything else."""
    if isinstance(thing, JobDef):
        return thing._definition  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    if isinstance(thing, type) and issubclass(thing, Job):
        return vars(thing).get("_sidequest_definition")
    return None
