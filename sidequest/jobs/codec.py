"""PURE CENTRE. Arguments and results ⇄ canonical JSON text.

Plain JSON values travel as they are. What JSON cannot say travels in a tagged object,
`{"$type": "datetime", "value": "2026-11-23T09:00:00+00:00"}`, and comes back equal: datetime,
date, time, timedelta, UUID, Decimal, bytes, tuple, set, frozenset, mappings with keys that are
not strings, and the enums, dataclasses and pydantic models that a job's annotations name. Anything
else is refused with its path. A text from the database never chooses a class to build: tags name
only the fixed kinds above and the classes found in the annotations of the registered job.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any
from uuid import UUID

from sidequest.errors import NotSerializable, TooLarge

TAG = "$type"
QUOTED_TAG = f'"{TAG}"'
VALUE = "value"
LIMIT = 1024 * 1024
DEPTH = 100
INT_BITS = 14_000  # json.loads refuses integers of more than 4 300 digits

Classes = Mapping[str, type]
"""The classes that a job's annotations name, by the tag that stands for each."""

NO_CLASSES: Classes = {}
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""`json.dumps` would make one each time."""


def dump(value: object, what: str, classes: Classes = NO_CLASSES, limit: int = LIMIT) -> str:
    """The JSON text of `value`; `what` names it in errors ("argument 'user'").

    Raises NotSerializable with the path of the first value that cannot come back equal, and
    TooLarge when the text has more than `limit` bytes.
    """
    try:
        plain = _encode(value, classes, 0)
    except _Refused as refused:
        raise NotSerializable(f"{what} cannot be stored: {refused.path} {refused.reason}") from None
    return fit(str(plain) if type(plain) is int else _encoder.encode(plain), what, limit)


def join(pairs: Sequence[tuple[str, str]]) -> str:
    """The JSON text of a mapping, from the JSON texts of its keys (strings) and values."""
    if QUOTED_TAG in dict(pairs):
        listed = ",".join(f"[{key},{value}]" for key, value in pairs)
        return f'{{"{TAG}":"dict","{VALUE}":[{listed}]}}'
    return "{" + ",".join([f"{key}:{value}" for key, value in pairs]) + "}"


def fit(text: str, what: str, limit: int = LIMIT) -> str:
    """The text itself, or TooLarge."""
    if len(text) * 4 > limit and (size := len(text.encode())) > limit:
        raise TooLarge(f"{what} takes {size:,} bytes as JSON; the limit is {limit:,}. Store it elsewhere and pass a reference")
    return text


def load(text: str, classes: Classes = NO_CLASSES) -> Any:
    """The value that `dump` was given. Raises NotSerializable for a text that `dump` did not make."""
    return _read(text, classes, strict=True)


def read_plain(text: str) -> Any:
    """As `load`, but classes show as what they hold: for people and tools without the code."""
    return _read(text, NO_CLASSES, strict=False)


def classes_in(*hints: object) -> dict[str, type]:
    """The enums, dataclasses and pydantic models that these type hints reach, by tag."""
    found: dict[str, type] = {}
    for hint in hints:
        _collect(hint, found, {})
    return found


class _Refused(Exception):
    """A value that cannot be stored; each level it passes adds its step to the path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return "$" + "".join(reversed(self.steps))


def _encode(value: Any, classes: Classes, depth: int) -> Any:
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if value is None or kind is bool:
        return value
    if kind is str:
        return _checked_text(value)
    if kind is int:
        if value.bit_length() > INT_BITS:
            raise _Refused("is an integer of more than 4,300 digits")
        return value
    if kind is float:
        if not isfinite(value):
            raise _Refused(f"is {value}, which JSON cannot say")
        return value
    if depth >= DEPTH:
        raise _Refused(f"is nested more than {DEPTH} deep (or contains itself)")
    if kind is list:
        return [_step(f"[{n}]", item, classes, depth) for n, item in enumerate(value)]
    if kind is dict:
        return _encode_dict(value, classes, depth)
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return {TAG: kind.__name__, VALUE: encoder(value, classes, depth)}
    return _encode_class(value, kind, classes, depth)


def _step(step: str, value: object, classes: Classes, depth: int) -> Any:
    try:
        return _encode(value, classes, depth + 1)
    except _Refused as refused:
        refused.steps.append(step)
        raise


def _checked_text(value: str) -> str:
    if "\0" in value:
        raise _Refused("contains a NUL character, which databases refuse")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("contains a lone surrogate, which is not valid UTF-8") from None
    return value


def _encode_dict(value: dict[Any, Any], classes: Classes, depth: int) -> Any:
    if TAG not in value and all(type(key) is str for key in value):
        return {_checked_text(key): _step(f".{key}", item, classes, depth) for key, item in value.items()}
    pairs = [
        [_step(f".<key {key!r}>", key, classes, depth), _step(f"[{key!r}]", item, classes, depth)]
        for key, item in value.items()
    ]
    return {TAG: "dict", VALUE: pairs}


def _encode_class(value: Any, kind: type, classes: Classes, depth: int) -> Any:
    if not _travels(kind):
        raise _Refused(f"is {_a(kind.__name__)}, which has no JSON form{_HINTS.get(kind.__name__, '')}")
    if kind.__qualname__ in _DECODERS:
        raise _Refused(f"is {_a(kind.__name__)} of {kind.__module__}: that name is taken, give the class another one")
    if _class_for(kind.__qualname__, classes) is not kind:
        raise _Refused(f"is {_a(kind.__name__)}: annotate the parameter (or the return) with it so that it can be rebuilt")
    return {TAG: kind.__qualname__, VALUE: _content(value, kind, classes, depth)}


def _content(value: Any, kind: type[Any], classes: Classes, depth: int) -> Any:
    if issubclass(kind, Enum):
        return _step(".value", value.value, classes, depth)
    if _is_model(kind):
        fields = value.model_dump(by_alias=True, round_trip=True)
        return _encode_dict(fields, classes, depth)
    _check_constructor(value, kind)
    return {
        field.name: _step(f".{field.name}", getattr(value, field.name), classes, depth)
        for field in dataclasses.fields(kind)
        if field.init
    }


def _check_constructor(value: Any, kind: type[Any]) -> None:
    """Refuse a dataclass that its constructor's fields alone do not bring back."""
    fields = dataclasses.fields(kind)
    init_only = len(kind.__dataclass_fields__) > len(fields)  # InitVar and ClassVar
    if all(field.init for field in fields) and not init_only:
        return
    try:
        copy = kind(**{field.name: getattr(value, field.name) for field in fields if field.init})
        same = all(getattr(copy, field.name) == getattr(value, field.name) for field in fields)
    except Exception as error:  # whatever its __post_init__ raises
        raise _Refused(f"cannot be rebuilt from its fields: {error}") from None
    if not same:
        raise _Refused("cannot be rebuilt from its fields: some are not in its constructor and come back different")


def _items(value: Any, classes: Classes, depth: int) -> list[Any]:
    return [_step(f"[{n}]", item, classes, depth) for n, item in enumerate(value)]


def _sorted_items(value: Any, classes: Classes, depth: int) -> list[Any]:
    """A set has no order; its text gets one, so that equal sets have equal texts."""
    items = [_step(".<item>", item, classes, depth) for item in value]
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _encode_decimal(value: Decimal, classes: Classes, depth: int) -> str:
    if value.is_nan():
        raise _Refused("is a Decimal NaN, which equals nothing")
    return str(value)


_ENCODERS: dict[type, Callable[[Any, Classes, int], Any]] = {
    datetime: lambda value, classes, depth: value.isoformat() if not value.fold else [value.isoformat(), 1],
    date: lambda value, classes, depth: value.isoformat(),
    time: lambda value, classes, depth: value.isoformat(),
    timedelta: lambda value, classes, depth: [value.days, value.seconds, value.microseconds],
    UUID: lambda value, classes, depth: str(value),
    Decimal: _encode_decimal,
    bytes: lambda value, classes, depth: base64.b64encode(value).decode("ascii"),
    tuple: _items,
    set: _sorted_items,
    frozenset: _sorted_items,
}

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": lambda value: (
        datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromisoformat(value[0]).replace(fold=1)
    ),
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(value[0], value[1], value[2]),
    "UUID": UUID,
    "Decimal": Decimal,
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda value: dict(map(tuple, value)),
}

_HINTS = {
    "PosixPath": "; pass str(path)",
    "WindowsPath": "; pass str(path)",
    "generator": "; pass a list",
    "ndarray": "; pass .tolist()",
    "coroutine": "; await it first",
    "function": "; jobs carry data, not code",
    "float64": "; pass float(value)",
    "int64": "; pass int(value)",
}


def _read(text: str, classes: Classes, *, strict: bool) -> Any:
    try:
        if TAG not in text and "\\" not in text:
            return json.loads(text)  # plain data, as most is
        return json.loads(text, object_hook=_untagger(classes, strict=strict))
    except NotSerializable:
        raise
    except Exception as error:  # a foreign text, or a class whose constructor refuses what is stored
        raise NotSerializable(f"the stored text cannot be read back: {error}") from error


def _untagger(classes: Classes, *, strict: bool) -> Callable[[dict[str, Any]], Any]:
    def untag(found: dict[str, Any]) -> Any:
        if TAG not in found:
            return found
        tag, value = found[TAG], found.get(VALUE)
        decoder = _DECODERS.get(tag)
        if decoder is not None:
            try:
                return decoder(value)
            except TypeError:
                if strict or tag not in ("set", "frozenset", "dict"):
                    raise
                return value  # its items or keys are of classes, and what is shown for them has no hash
        kind = _class_for(tag, classes)
        if kind is not None:
            return _rebuild(kind, value)
        if strict:
            raise NotSerializable(f"the stored text names a {tag!r} that the job's annotations do not")
        return value

    return untag


def _rebuild(kind: type[Any], value: Any) -> Any:
    if issubclass(kind, Enum):
        return kind(value)
    if _is_model(kind):
        return kind.model_validate(value)
    return kind(**value)


def _class_for(tag: object, classes: Classes) -> type | None:
    """The annotated class with this tag, or the loaded subclass of an annotated one."""
    if not isinstance(tag, str):
        return None
    found = classes.get(tag)
    if found is not None:
        return found
    waiting = list(classes.values())
    while waiting:
        subclasses: list[type] = type.__subclasses__(waiting.pop())
        for sub in subclasses:
            if sub.__qualname__ == tag:
                return sub
            waiting.append(sub)
    return None


def _collect(hint: object, found: dict[str, type], seen: dict[int, object]) -> None:
    """`seen` holds the hints themselves: the id of one that is gone may be given to another."""
    if id(hint) in seen:
        return
    seen[id(hint)] = hint
    for part in _parts(hint):
        _collect(part, found, seen)
    if isinstance(hint, type) and typing.get_origin(hint) is None and _travels(hint):
        rival = found.setdefault(hint.__qualname__, hint)
        if rival is not hint:
            raise NotSerializable(f"two classes named {hint.__qualname__!r} in one signature: give one of them another name")


def _parts(hint: Any) -> Iterator[object]:
    """The hints and classes inside one hint: `list[Item]` → Item; a dataclass → its fields."""
    yield from typing.get_args(hint)
    if isinstance(hint, Enum):  # Literal[Color.RED]
        yield type(hint)
    yield typing.get_origin(hint)  # Page in Page[Item]
    yield getattr(hint, "__value__", None)  # type Alias = …
    yield getattr(hint, "__supertype__", None)  # NewType
    subject: Any = hint
    if isinstance(hint, type) and (dataclasses.is_dataclass(subject) or _is_model(subject) or typing.is_typeddict(subject)):
        yield from hints_of(hint).values()


def hints_of(subject: Any) -> dict[str, Any]:
    """The resolved annotations of a function or class, without those that cannot be resolved."""
    try:
        return typing.get_type_hints(subject)
    except (NameError, TypeError, AttributeError):
        return _hints_one_by_one(subject)


def _hints_one_by_one(subject: Any) -> dict[str, Any]:
    """A name imported under TYPE_CHECKING must not cost the other annotations their meaning."""
    found: dict[str, Any] = {}
    for level in reversed(inspect.getmro(subject)) if isinstance(subject, type) else (subject,):
        space: dict[str, Any] = getattr(level, "__globals__", None) or vars(sys.modules.get(level.__module__, typing))
        for name, annotation in _annotations(level).items():
            single = type("Single", (), {"__annotations__": {name: annotation}})
            try:
                found |= typing.get_type_hints(single, space, vars(level) if isinstance(level, type) else None)
            except (NameError, TypeError, AttributeError, SyntaxError):
                found.pop(name, None)
    return found


def _annotations(subject: Any) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - new in Python 3.14, where annotations are evaluated late

        return annotationlib.get_annotations(subject, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(subject) if callable(subject) else {}


def _travels(kind: type[Any]) -> bool:
    return issubclass(kind, Enum) or dataclasses.is_dataclass(kind) or _is_model(kind)


def _is_model(kind: type[Any]) -> bool:
    """Whether this is a pydantic model, told without importing pydantic."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_dump") and hasattr(kind, "model_fields")


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
