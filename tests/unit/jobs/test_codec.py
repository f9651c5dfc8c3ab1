"""What jobs carry comes back equal, or is refused with its path before anything is stored."""

from __future__ import annotations

import json
import math
import re
import typing
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, NewType, Optional, TypedDict, TypeVar, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sidequest.errors import NotSerializable, TooLarge
from sidequest.jobs import codec

if typing.TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # pyright: ignore

T = TypeVar("T")


class Color(Enum):
    RED = "r"
    PAIR = (1, 2)


class Level(IntEnum):
    LOW = 1


class Kind(StrEnum):
    A = "a"


class Rights(IntFlag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Point3(Point):
    z: int = 0


@dataclass
class Order:
    id: UUID
    at: datetime
    lines: list[Line]
    color: Color = Color.RED
    parent: Order | None = None


@dataclass
class Line:
    price: Decimal
    kind: Kind | None = None


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: Page[T] | None = None


@dataclass
class Square:
    side: int
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.side**2


@dataclass
class Secret:
    text: str
    key: InitVar[str]


class Row(TypedDict, total=False):
    point: Point
    rows: list[Row]


class Address(BaseModel):
    city: str
    since: date | None = None


class User(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="userName")
    color: Color = Color.RED
    addresses: list[Address] = []
    balance: Decimal = Decimal(0)
    where: Point = Point(0)


class Picky(BaseModel):
    low: int
    high: int

    @model_validator(mode="after")
    def in_order(self) -> Picky:
        if self.low > self.high:
            raise ValueError("low must not be more than high")
        return self


class Plain:
    def __repr__(self) -> str:
        return "<Plain>"


@dataclass
class Unannotated:
    x: int = 0


UserId = NewType("UserId", Point)
Couple = namedtuple("Couple", "a b")


def there_and_back(value: object, *hints: object) -> Any:
    classes = codec.classes_in(*hints)
    return codec.load(codec.dump(value, "argument 'v'", classes), classes)


def refusal(value: object, *hints: object) -> str:
    with pytest.raises(NotSerializable) as caught:
        codec.dump(value, "argument 'v'", codec.classes_in(*hints))
    return str(caught.value)


# Everything promised, nested in everything.

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(timezones=st.none() | st.just(UTC) | offsets)
times = st.times(timezones=st.none() | st.just(UTC))
hashables = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(allow_nan=False, allow_infinity=False), texts,
    instants, st.dates(), times, st.timedeltas(), st.uuids(), st.decimals(allow_nan=False), st.binary(max_size=20),
    st.sampled_from([*Color, *Level, *Kind]), st.integers(0, 3).map(Rights), st.builds(Point, st.integers(), st.integers()),
)  # fmt: skip
keys = st.recursive(
    hashables, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=5
)
values = st.recursive(
    keys | st.builds(Page, st.lists(st.integers(), max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(texts | st.just("$type"), inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(keys, max_size=3),
    ),
    max_leaves=12,
)
ALL_CLASSES = codec.classes_in(Color, Level, Kind, Rights, Point, Page)


def same(one: object, other: object) -> bool:
    """Equal and of the same type, all the way down (1 == True == 1.0 is not the same)."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return all(same(key, key2) and same(item, item2) for (key, item), (key2, item2) in pairs)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return all(map(same, one, other))
    return True


@given(values)
@settings(max_examples=300, deadline=None)
def test_what_is_promised_comes_back_equal_and_of_the_same_type(value: object) -> None:
    assert same(codec.load(codec.dump(value, "v", ALL_CLASSES), ALL_CLASSES), value)


@given(values)
@settings(max_examples=50, deadline=None)
def test_the_text_is_canonical_utf8_json_without_nul(value: object) -> None:
    text = codec.dump(value, "v", ALL_CLASSES)
    assert text.encode().decode() == text
    assert "\0" not in text
    assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) == text


@given(values)
@settings(max_examples=50, deadline=None)
def test_every_stored_text_can_be_shown_without_the_code(value: object) -> None:
    codec.read_plain(codec.dump(value, "v", ALL_CLASSES))


@given(st.text(max_size=50) | st.recursive(
    st.none() | st.integers() | st.floats() | st.sampled_from(["datetime", "set", "dict", "UUID", "Point", "Color", "eval"]),
    lambda inner: st.lists(inner, max_size=3) | st.fixed_dictionaries({"$type": inner, "value": inner}),
).map(json.dumps))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_a_foreign_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with suppress(NotSerializable):
        codec.load(text, ALL_CLASSES)


EXACT: list[tuple[object, str]] = [
    (None, "null"),
    (True, "true"),
    (1, "1"),
    (1.0, "1.0"),
    ("é☃", '"é☃"'),
    ([1, [2]], "[1,[2]]"),
    ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    (datetime(2026, 11, 23, 9, tzinfo=UTC), '{"$type":"datetime","value":"2026-11-23T09:00:00+00:00"}'),
    (timedelta(days=-1, microseconds=5), '{"$type":"timedelta","value":[-1,0,5]}'),
    (b"\x00\xff", '{"$type":"bytes","value":"AP8="}'),
    ((1, "a"), '{"$type":"tuple","value":[1,"a"]}'),
    ({2, 10, 1}, '{"$type":"set","value":[1,10,2]}'),
    ({1: "a"}, '{"$type":"dict","value":[[1,"a"]]}'),
    ({"$type": "set", "value": [1]}, '{"$type":"dict","value":[["$type","set"],["value",[1]]]}'),
]


@pytest.mark.parametrize(("value", "text"), EXACT)
def test_the_stored_form_does_not_change(value: object, text: str) -> None:
    assert codec.dump(value, "v") == text


def test_a_mapping_that_looks_like_a_tag_stays_a_mapping() -> None:
    value = {"$type": "datetime", "value": "2026-11-23"}
    assert there_and_back([value]) == [value]


def test_equal_sets_have_equal_texts() -> None:
    assert codec.dump({"a", "b", "c"}, "v") == codec.dump({"c", "b", "a"}, "v")


def test_the_second_of_two_equal_wall_times_comes_back_as_the_second() -> None:
    second = datetime(2026, 10, 25, 1, 30, tzinfo=ZoneInfo("Europe/Lisbon"), fold=1)
    back = there_and_back(second)
    assert (back.fold, back.astimezone(UTC)) == (1, second.astimezone(UTC))


def test_a_zoned_instant_comes_back_as_the_same_instant() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("America/New_York"))
    assert there_and_back(noon) == noon


def test_minus_zero_keeps_its_sign() -> None:
    assert math.copysign(1, there_and_back(-0.0)) == -1


def test_infinite_decimals_come_back() -> None:
    assert there_and_back(Decimal("-Infinity")) == Decimal("-Infinity")


def test_an_integer_may_have_four_thousand_digits() -> None:
    assert there_and_back(-(10**4_000)) == -(10**4_000)


# Refusals.

REFUSED: list[tuple[object, str]] = [
    (float("nan"), "$ is nan, which JSON cannot say"),
    ([0, float("inf")], "$[1] is inf, which JSON cannot say"),
    ({"a": {"b": [Plain()]}}, "$.a.b[0] is a Plain, which has no JSON form"),
    ({"a": (1, {Plain})}, "$.a[1].<item> is a type, which has no JSON form"),
    ({(1, 2): Plain()}, "$[(1, 2)] is a Plain, which has no JSON form"),
    ({Plain: 1}, f"$.<key {Plain!r}> is a type, which has no JSON form"),
    ({"$type": Plain()}, "$['$type'] is a Plain, which has no JSON form"),
    ("a\0b", "$ contains a NUL character, which databases refuse"),
    ({"a\0": 1}, "$ contains a NUL character, which databases refuse"),
    (["\ud800"], "$[0] contains a lone surrogate, which is not valid UTF-8"),
    (10**5_000, "$ is an integer of more than 4,300 digits"),
    (Decimal("NaN"), "$ is a Decimal NaN, which equals nothing"),
    (Decimal("sNaN"), "$ is a Decimal NaN, which equals nothing"),
    (bytearray(b"x"), "$ is a bytearray, which has no JSON form"),
    (1j, "$ is a complex, which has no JSON form"),
    (range(3), "$ is a range, which has no JSON form"),
    (Path("x"), "; pass str(path)"),
    ((n for n in range(3)), "$ is a generator, which has no JSON form; pass a list"),
    (len, "$ is a builtin_function_or_method, which has no JSON form"),
    (lambda: 1, "$ is a function, which has no JSON form; jobs carry data, not code"),
    (ValueError("x"), "$ is a ValueError, which has no JSON form"),
    (OrderedDict(a=1), "$ is an OrderedDict, which has no JSON form"),
    (defaultdict(int), "$ is a defaultdict, which has no JSON form"),
    (Couple(1, 2), "$ is a Couple, which has no JSON form"),
    (type("MyStr", (str,), {})("x"), "$ is a MyStr, which has no JSON form"),
    (type("MyInt", (int,), {})(1), "$ is a MyInt, which has no JSON form"),
    (type("MyDatetime", (datetime,), {})(2026, 1, 1), "$ is a MyDatetime, which has no JSON form"),
    (Color.RED, "$ is a Color: annotate the parameter (or the return) with it so that it can be rebuilt"),
    ({"p": [Point(1)]}, "$.p[0] is a Point: annotate the parameter"),
    (Address(city="x"), "$ is an Address: annotate the parameter"),
    (codec.dump, "$ is a function, which has no JSON form"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_anything_else_is_refused_with_its_path(value: object, reason: str) -> None:
    message = refusal(value)
    assert message.startswith("argument 'v' cannot be stored: $")
    assert reason in message


def nested(depth: int, innermost: object = 1) -> object:
    value = innermost
    for _ in range(depth):
        value = [value]
    return value


def test_a_hundred_levels_are_stored() -> None:
    assert there_and_back(nested(100)) == nested(100)


@pytest.mark.parametrize("wrap", [list, tuple, frozenset, lambda items: {items[0]: 0}, lambda items: {"k": items[0]}])
def test_a_hundred_levels_of_anything_can_be_read_back(wrap: Callable[[list[object]], Any]) -> None:
    value: Any = 1
    for _ in range(100):
        try:
            value = wrap([value])
        except TypeError:  # a dict is no key
            value = (value,)
    assert there_and_back(value) == value


def test_a_hundred_and_one_levels_are_refused() -> None:
    assert refusal(nested(101)).endswith("[0] is nested more than 100 deep (or contains itself)")


def test_a_value_that_contains_itself_is_refused() -> None:
    cycle: dict[str, object] = {}
    cycle["me"] = cycle
    assert refusal(cycle).endswith(".me.me is nested more than 100 deep (or contains itself)")


def test_a_mebibyte_is_stored_and_a_byte_more_is_refused() -> None:
    assert len(codec.dump("x" * (codec.LIMIT - 2), "v")) == codec.LIMIT
    with pytest.raises(TooLarge, match=r"^argument 'v' takes 1,048,577 bytes as JSON; the limit is 1,048,576\."):
        codec.dump("x" * (codec.LIMIT - 1), "argument 'v'")


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(TooLarge, match="takes 12 bytes"):
        codec.dump("☃☃☃x", "v", limit=11)
    assert codec.dump("☃☃☃x", "v", limit=12) == '"☃☃☃x"'


# Classes that annotations name.

ROUND_TRIPS: list[tuple[object, object]] = [
    (Color.RED, Color),
    (Color.PAIR, Color),
    (Level.LOW, Level),
    (Kind.A, Kind),
    (Rights.READ | Rights.WRITE, Rights),
    (Rights(0), Rights),
    (Point(1), Point),
    (Point3(1, 2, 3), Point),
    (Square(3), Square),
    ([Point(1)], list[Point]),
    (Point(1), Optional[Point]),  # noqa: UP045 - what users write
    (Point(1), Union[int, Point]),  # noqa: UP007 - what users write
    (Point(1), Point | None),
    (Point(1), UserId),
    (Point(1), typing.Annotated[Point, "doc"]),
    (Color.RED, Literal[Color.RED]),
    ({Kind.A: Point(1)}, Mapping[Kind, Point]),
    ({Color.RED}, set[Color]),
    ({"point": Point(1), "rows": [{"point": Point(2)}]}, Row),
    (Page([Point(1)], Page([])), Page[Point]),
    ([Page([Point(1)])], list[Page[Point]]),
    (Order(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), [Line(Decimal("9.90"), Kind.A)]), Order),
    (Order(UUID(int=1), datetime(2026, 1, 1), [], Color.PAIR, Order(UUID(int=2), datetime.max, [])), Order),  # noqa: DTZ001, DTZ901
    (Address(city="Porto", since=date(2020, 1, 1)), Address),
    (User(userName="ana", color=Color.PAIR, addresses=[Address(city="x")], where=Point(3)), User),
    ([User(userName="ana")], list[User] | None),
]


@pytest.mark.parametrize(("value", "hint"), ROUND_TRIPS, ids=[str(hint) for _, hint in ROUND_TRIPS])
def test_what_an_annotation_names_comes_back_equal(value: object, hint: object) -> None:
    assert same(there_and_back(value, hint), value)


def test_a_subclass_of_an_annotated_class_keeps_its_class() -> None:
    assert type(there_and_back(Point3(1), Point)) is Point3


def test_the_base_of_an_annotated_class_is_refused() -> None:
    assert "is a Point: annotate" in refusal(Point(1), Point3)


def test_the_path_goes_through_fields() -> None:
    bad = Order(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), [Line(Decimal(1)), Line(Decimal("NaN"))])
    assert "$.lines[1].price is a Decimal NaN" in refusal(bad, Order)


def test_the_path_goes_through_models() -> None:
    assert "$.balance is a Decimal NaN" in refusal(User.model_construct(name="x", balance=Decimal("NaN")), User)


def test_a_dataclass_that_its_fields_do_not_bring_back_is_refused() -> None:
    square = Square(3)
    square.area = 5
    assert "$ cannot be rebuilt from its fields: some are not in its constructor" in refusal(square, Square)


def test_a_dataclass_with_arguments_that_it_does_not_keep_is_refused() -> None:
    assert "$ cannot be rebuilt from its fields: Secret.__init__() missing" in refusal(Secret("a", "b"), Secret)


def test_a_class_with_the_name_of_a_built_in_kind_is_refused() -> None:
    impostor = dataclass(type("datetime", (), {"__annotations__": {"x": int}, "__qualname__": "datetime"}))
    assert "that name is taken" in refusal(impostor(1), impostor)


def test_two_classes_of_one_name_in_one_signature_are_refused() -> None:
    other = dataclass(type("Point", (), {"__qualname__": "Point"}))
    with pytest.raises(NotSerializable, match="two classes named 'Point' in one signature"):
        codec.classes_in(Point, other)


def test_an_annotation_for_type_checkers_only_does_not_hide_the_others() -> None:
    def send(where: Point, what: Missing) -> Color: ...  # type: ignore[empty-body]

    assert codec.hints_of(send) == {"where": Point, "return": Color}


def test_a_field_for_type_checkers_only_does_not_hide_the_others() -> None:
    assert codec.classes_in(Half) == {"Half": Half, "Point": Point}


@dataclass
class Half:
    unknown: Missing
    point: Point


def test_fields_of_fields_are_found() -> None:
    assert codec.classes_in(Order) == {"Order": Order, "Line": Line, "Kind": Kind, "Color": Color}


def test_what_needs_no_class_names_none() -> None:
    assert codec.classes_in(int, list[str], "whatever", None, Any, Callable[[int], str], Literal["a"]) == {}


# A text from the database never chooses a class to build.


def test_a_text_that_names_an_unannotated_class_is_refused() -> None:
    text = codec.dump(Unannotated(1), "v", codec.classes_in(Unannotated))
    with pytest.raises(NotSerializable, match="^the stored text names a 'Unannotated' that the job's annotations do not$"):
        codec.load(text, codec.classes_in(Point))


@pytest.mark.parametrize(
    "tag", ["Plain", "Path", "os.system", "builtins.eval", "type", "object", "Point.__class__", "", 1, None, [], {}]
)
def test_a_tag_that_nobody_promised_is_refused(tag: object) -> None:
    with pytest.raises(NotSerializable):
        codec.load(json.dumps({"$type": tag, "value": "x"}), codec.classes_in(Point))


def test_a_class_shows_as_what_it_holds_where_the_code_is_not_known() -> None:
    text = codec.dump([Point(1, 2), Color.RED, {3}], "v", codec.classes_in(Point, Color))
    assert codec.read_plain(text) == [{"x": 1, "y": 2}, "r", {3}]


@pytest.mark.parametrize("text", [
    "", "{", "nul", '{"$type":"datetime","value":"x"}', '{"$type":"UUID","value":5}', '{"$type":"bytes","value":"é"}',
    '{"$type":"timedelta","value":[1e99,0,0]}', '{"$type":"Decimal","value":"x"}', '{"$type":"set","value":[[]]}',
    '{"$type":"dict","value":5}', '{"$type":"dict"}', '{"$type":"Point","value":{"x":1,"w":2}}',
    '{"$type":"Point","value":[1]}', '{"$type":"Color","value":"blue"}', "[" * 100_000,
])  # fmt: skip
def test_a_text_that_was_not_stored_by_us_is_refused(text: str) -> None:
    with pytest.raises(NotSerializable, match="the stored text cannot be read back"):
        codec.load(text, codec.classes_in(Point, Color))


def test_a_set_of_classes_shows_as_a_list_where_the_code_is_not_known() -> None:
    text = codec.dump([{Point(1)}, {Point(2): "a"}], "v", codec.classes_in(Point))
    assert codec.read_plain(text) == [[{"x": 1, "y": 0}], [[{"x": 2, "y": 0}, "a"]]]


def test_a_model_judges_what_is_read_back() -> None:
    text = codec.dump(Picky(low=1, high=2), "v", codec.classes_in(Picky)).replace('"low":1', '"low":3')
    with pytest.raises(NotSerializable, match="low must not be more than high"):
        codec.load(text, codec.classes_in(Picky))


def test_the_texts_of_a_mappings_items_are_joined_as_dump_would() -> None:
    for value in ({}, {"a": 1, "b": [2]}, {"$type": "set", "value": [1]}):
        pairs = [(codec.dump(key, "k"), codec.dump(item, "v")) for key, item in value.items()]
        assert codec.join(pairs) == codec.dump(value, "v")


def test_time_keeps_its_zone_offset() -> None:
    assert there_and_back(time(9, 30, tzinfo=UTC)) == time(9, 30, tzinfo=UTC)


def test_no_message_is_longer_than_a_screen() -> None:
    assert len(refusal(nested(150))) < 2_000
    assert re.fullmatch(r"[^\n]+", refusal(nested(150)))
