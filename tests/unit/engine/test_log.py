"""The engine's own words: never in the way of who says them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from sidequest.engine.log import Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def accounted_for(told: bytes) -> int:
    """The lines that arrived, and those that are said to be lost."""
    lost = re.findall(r"… ([0-9 ]+) log lines dropped", told.decode())
    return told.count(b"x\n") + sum(int(number.replace(" ", "")) for number in lost)


def test_what_is_written_arrives_in_order(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    for word in ("one\n", "zwölf\n", "\ud800\n"):
        sink.write(word)
    assert sink.drain(5)
    assert os.read(pipe[0], 100) == "one\nzwölf\n\\ud800\n".encode()


def test_a_full_pipe_that_nobody_reads_holds_nobody_up_and_loses_what_is_too_much(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1], most=200_000)
    began = time.monotonic()
    for _ in range(10_000):
        sink.write("x" * 99 + "\n")
    assert time.monotonic() - began < 2
    assert not sink.drain(0)
    assert sink._held <= 200_000
    told = b""
    while accounted_for(told) < 10_000:
        told += os.read(pipe[0], 65_536)
    assert accounted_for(told) == 10_000
    assert told.count(b"x\n") < 10_000
    assert sink.drain(5)


def test_who_closes_the_other_end_harms_nobody(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    os.close(pipe[0])
    for _ in range(3):
        sink.write("nobody hears this\n")
        assert sink.drain(5)
