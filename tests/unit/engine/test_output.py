"""What workers print: cut into lines, each logged or counted once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidequest.engine.output import LINES_PER_SECOND, LONGEST_LINE, OutputLog


class Reader:
    """Feeds an `OutputLog`, and keeps what it logs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.later: list[Callable[[], None]] = []
        self.lines: list[str] = []
        self.log = OutputLog(lambda: "worker 7", lambda _, call: self.later.append(call), lambda: self.now)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().removeprefix("worker 7: "))


@pytest.fixture
def reader() -> Reader:
    return listening(Reader())


def listening(reader: Reader) -> Reader:
    handler = logging.Handler()
    handler.emit = reader.emit  # type: ignore[method-assign]
    logger = logging.getLogger("sidequest.job.output")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return reader


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    yield
    logger = logging.getLogger("sidequest.job.output")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def test_lines_are_logged_however_their_bytes_arrive(reader: Reader) -> None:
    for part in (b"on", b"e\ntw", b"o\r\n\nthr", b"ee"):
        reader.log.feed(part)
    before = list(reader.lines)
    reader.log.finish()
    assert (before, reader.lines[3:]) == (["one", "two", ""], ["three"])


def test_bytes_that_are_no_utf_8_are_escaped(reader: Reader) -> None:
    reader.log.feed(b"a\xff\xc3\xa4\n")
    assert reader.lines == ["a\\xff\u00e4"]


@pytest.mark.parametrize("parts", [1, 7])
def test_a_very_long_line_is_cut_and_its_rest_is_not_another_line(reader: Reader, parts: int) -> None:
    for _ in range(parts):
        reader.log.feed(b"x" * (2 * LONGEST_LINE))
    reader.log.feed(b"\nnext\n")
    assert reader.lines == ["x" * LONGEST_LINE + " … (cut)", "next"]


def test_a_line_of_the_longest_length_is_whole(reader: Reader) -> None:
    reader.log.feed(b"x" * LONGEST_LINE + b"\n")
    assert reader.lines == ["x" * LONGEST_LINE]


def test_beyond_the_limit_of_a_second_lines_are_counted(reader: Reader) -> None:
    reader.log.feed(b"x\n" * (LINES_PER_SECOND + 3_120))
    reader.now = 1.0
    reader.log.feed(b"later\n")
    assert reader.lines == ["x"] * LINES_PER_SECOND + ["… 3 120 lines dropped", "later"]


def test_what_was_dropped_is_told_also_when_nothing_more_comes(reader: Reader) -> None:
    reader.log.feed(b"x\n" * (LINES_PER_SECOND + 5))
    [tell] = reader.later
    tell()
    assert reader.lines[-1] == "… 5 lines dropped"


def test_a_line_that_somebody_else_goes_on_after_is_a_line(reader: Reader) -> None:
    reader.log.feed(b"no newline")
    reader.log.end_line()
    reader.log.feed(b"hello\n")
    assert reader.lines == ["no newline", "hello"]


@given(st.lists(st.tuples(st.integers(0, 700), st.booleans(), st.integers(0, 9_000)), max_size=8))
def test_every_line_is_logged_or_counted_once(feeds: list[tuple[int, bool, int]]) -> None:
    reader = listening(Reader())
    sent = b""
    for count, whole, tail in feeds:
        data = b"x\n" * count + b"y" * tail + (b"\n" if whole else b"")
        sent += data
        reader.log.feed(data)
    reader.log.finish()
    counted = sum(int("".join(filter(str.isdigit, line))) for line in reader.lines if line.startswith("…"))
    logged = sum(1 for line in reader.lines if not line.startswith("…"))
    assert logged + counted == sent.count(b"\n") + (not sent.endswith(b"\n") and bool(sent))
    assert logged <= LINES_PER_SECOND
