"""PURE CENTRE. The arguments of a call: whether they fit, and how they are written down.

What does not depend on the call is worked out once for each job: an app makes many calls of few jobs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from sidequest.jobs import codec


class Word(NamedTuple):
    """A parameter's name, as the stored text and as errors have it."""

    key: str
    what: str


class Keywords(NamedTuple):
    """The keyword arguments that may follow some positional ones, and those that must."""

    allowed: frozenset[str]
    needed: frozenset[str]


class Parameters:
    """What a function takes; `what` is its name in errors."""

    def __init__(self, signature: inspect.Signature, what: str) -> None:
        self._signature = signature
        self._what = what
        self._words = {name: self._word(name) for name in signature.parameters}
        self._keywords = _keywords(signature)

    def dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], classes: codec.Classes) -> str:
        """The members `args` and `kwargs` of a JSON object, each absent when empty.

        Raises TypeError for arguments that do not fit, NotSerializable (naming argument and path), TooLarge.
        """
        self.check(args, kwargs)
        parts: list[str] = []
        if args:
            words = map(self._word_of, _positions(self._signature))
            values = [codec.dump(value, word.what, classes) for word, value in zip(words, args, strict=False)]
            parts.append(f'"args":[{",".join(values)}]')
        if kwargs:
            named = [(self._word_of(name), value) for name, value in kwargs.items()]
            pairs = [(word.key, codec.dump(value, word.what, classes)) for word, value in named]
            parts.append(f'"kwargs":{codec.join(pairs)}')
        return ",".join(parts)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError unless these arguments fit."""
        if not self._surely_takes(args, kwargs):
            self._refuse_unless_bound(args, kwargs)

    def _surely_takes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the arguments fit, as far as that can be told ten times faster than `bind` tells it."""
        if len(args) >= len(self._keywords):
            return False
        allowed, needed = self._keywords[len(args)]
        return allowed.issuperset(kwargs) and needed.issubset(kwargs)

    def _refuse_unless_bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._what}: {error}; it takes {self._signature}") from None

    def _word_of(self, name: str) -> Word:
        return self._words.get(name) or self._word(name)

    def _word(self, name: str) -> Word:
        return Word(codec.dump(name, self._what), f"argument {name!r} of {self._what}")


def _keywords(signature: inspect.Signature) -> Sequence[Keywords]:
    """For each possible number of positional arguments; empty where only `bind` can tell."""
    parameters = signature.parameters.values()
    if any(one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) for one in parameters):
        return ()
    needed = frozenset(one.name for one in parameters if one.default is one.empty)
    names = list(signature.parameters)  # those that may be positional come first
    positional = sum(one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)
    return [Keywords(frozenset(names[n:]), needed.intersection(names[n:])) for n in range(positional + 1)]


def _positions(signature: inspect.Signature) -> Iterator[str]:
    """A word for each positional argument, for error messages: its parameter's name."""
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            yield from (f"*{parameter.name}[{n}]" for n in count())
        yield parameter.name
