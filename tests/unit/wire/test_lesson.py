"""Lessons: what a web worker tells its app's engine of modules that came late."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidequest.wire.frames import BrokenFrame
from sidequest.wire.lesson import Lesson
from sidequest.wire.wake_socket import LocalEngines, LookFor, WakeSocket

LESSON = Lesson(["shop.late"], ["/srv/höst", ""])


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_a_lesson_comes_back_equal() -> None:
    assert Lesson.from_bytes(LESSON.to_bytes()) == LESSON


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"modules":"os","path":[]}', b'{"modules":[1],"path":[]}'])
def test_what_is_no_lesson_is_refused(text: bytes) -> None:
    with pytest.raises(BrokenFrame):
        Lesson.from_bytes(text)


def test_a_lesson_reaches_the_one_engine_that_it_is_for_before_the_call_for_its_job() -> None:
    with closing(WakeSocket("shop", "mine")) as mine, closing(WakeSocket("shop", "other")) as other:
        engines = LocalEngines("shop")
        engines.teach("mine", LESSON.to_bytes())
        engines.wake(LookFor.WORK)
        assert (mine.heard(), [Lesson.from_bytes(text) for text in mine.lessons]) == ({LookFor.WORK}, [LESSON])
        assert (other.heard(), other.lessons) == ({LookFor.WORK}, [])
        assert (mine.heard(), mine.lessons) == (frozenset(), [])


def test_teaching_an_engine_that_is_not_there_does_nothing() -> None:
    LocalEngines("shop").teach("nobody", LESSON.to_bytes())


def test_a_database_is_reachable_while_an_engine_of_it_listens() -> None:
    assert not LocalEngines("shop").reachable
    with closing(WakeSocket("shop", "mine")):
        assert LocalEngines("shop").reachable
        assert not LocalEngines("bank").reachable
