"""PURE CENTRE. What is known of a job's code, and the register of all jobs of this process."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from sidequest.errors import ConfigError
from sidequest.jobs import codec
from sidequest.jobs.naming import stable_module
from sidequest.jobs.parameters import Parameters


class Definition:
    """A function or class that runs as a job: its name, kind, signature and options.

    `target` is the function, or the class. `options` are the checked options of the decorator
    or of the class attributes. `takes_context`: `run` wants a JobContext before the arguments.
    """

    def __init__(
        self, target: Callable[..., Any], run: Callable[..., Any], options: Mapping[str, Any], *, takes_context: bool = False
    ) -> None:
        self.target = target
        self.run = run
        self.takes_context = takes_context
        self.options = dict(options)
        self.is_class = isinstance(target, type)
        self.is_async = inspect.iscoroutinefunction(run)
        self.module = stable_module(target.__module__)
        self.name: str = self.options.pop("name", None) or self._default_name()
        self.aliases: tuple[str, ...] = self.options.pop("aliases", ())
        self.retry_on: tuple[type[BaseException], ...] | None = self.options.pop("retry_on", None)
        self.discard_on: tuple[type[BaseException], ...] = self.options.pop("discard_on", ())
        self.backoff = self.options.get("backoff")
        if callable(self.backoff):
            self.options["backoff"] = "custom"

    def _default_name(self) -> str:
        name = f"{self.module or '__main__'}:{self.target.__qualname__}"
        if len(name) > 200:
            raise ConfigError(f"the name of {name[:80]}… is longer than 200 characters: give it a name= of its own")
        return name

    @property
    def unreachable(self) -> str | None:
        """Why a worker process could not find this job's code, and what to do; None if it can."""
        if "<locals>" in self.target.__qualname__:
            return f"{self.name} is defined inside a function: move it to the top level of a module"
        if self.module is None:
            return f"{self.name} is defined in a REPL, notebook or -c command: move it into a module that workers can import"
        return None

    @cached_property
    def signature(self) -> inspect.Signature:
        """The parameters that a caller gives: without `self` and without the context."""
        signature = signature_of(self.run)
        hidden = int(self.is_class or self.takes_context)
        parameters = list(signature.parameters.values())[hidden:]
        return signature.replace(parameters=parameters)

    @cached_property
    def init_signature(self) -> inspect.Signature | None:
        """The constructor's parameters, for a class with a constructor of its own."""
        init = getattr(self.target, "__init__", None) if self.is_class else None
        if init is None or init is object.__init__:
            return None
        signature = signature_of(init)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @cached_property
    def argument_classes(self) -> codec.Classes:
        hints = {key: hint for key, hint in codec.hints_of(self.run).items() if key != "return"}
        if self.init_signature is not None:
            hints |= {f"init {key}": hint for key, hint in codec.hints_of(self.target.__init__).items()}
        return codec.classes_in(*hints.values())

    @cached_property
    def result_classes(self) -> codec.Classes:
        return codec.classes_in(codec.hints_of(self.run).get("return"))

    @cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.signature, self.name)

    @cached_property
    def init_parameters(self) -> Parameters | None:
        if self.init_signature is None:
            return None
        return Parameters(self.init_signature, f"{self.target.__qualname__}()")

    def dump_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], init: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})
    ) -> str:
        """The arguments as JSON text.

        Raises TypeError for arguments that do not fit the signature, NotSerializable (naming
        argument and path) and TooLarge.
        """
        parts: list[str] = []
        if self.init_parameters is not None:
            inner = self.init_parameters.dump(*init, self.argument_classes)
            parts += [f'"init":{{{inner}}}'] if inner else []
        elif init[0] or init[1]:
            raise TypeError(f"{self.target.__qualname__}() takes no arguments")
        parts += filter(None, [self.parameters.dump(args, kwargs, self.argument_classes)])
        return codec.fit(f"{{{','.join(parts)}}}", f"the arguments of {self.name}")


class Registry:
    """All jobs that this process has defined, by name and by alias."""

    def __init__(self) -> None:
        self._jobs: dict[str, Definition] = {}

    def add(self, definition: Definition) -> None:
        """Register a job. Raises ConfigError when another one has its name already.

        The same function or class may be defined again (a reloaded module): the latest counts.
        """
        names = (definition.name, *definition.aliases)
        for name in names:
            rival = self._jobs.get(name)
            if rival is not None and _origin(rival) != _origin(definition):
                raise ConfigError(
                    f"two jobs are named {name!r}: {':'.join(_origin(rival))} and {':'.join(_origin(definition))}; "
                    "give one of them another name="
                )
        self._jobs |= dict.fromkeys(names, definition)

    def get(self, name: str) -> Definition | None:
        return self._jobs.get(name)

    def modules(self) -> tuple[str, ...]:
        """The modules that hold the registered jobs, as every process names them."""
        return tuple(dict.fromkeys(job.module for job in self._jobs.values() if job.module is not None))

    def kinds(self) -> dict[str, bool]:
        """Name (or alias) of each job → whether it is async."""
        return {name: job.is_async for name, job in self._jobs.items()}


registry = Registry()


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, also where an annotation names what is imported for type checkers only."""
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - new in Python 3.14, where annotations are evaluated late

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _origin(definition: Definition) -> tuple[str, str]:
    return (definition.module or "__main__", definition.target.__qualname__)


def load_arguments(definition: Definition, text: str) -> dict[str, Any]:
    """The stored arguments of a call: `args`, `kwargs`, `init`, each possibly absent."""
    loaded = codec.load(text, definition.argument_classes)
    if not isinstance(loaded, dict):
        raise TypeError(f"the stored arguments are {text[:80]!r}, not an object")
    return loaded  # pyright: ignore[reportUnknownVariableType]
