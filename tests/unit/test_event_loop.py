"""Which event loop a choice means, with uvloop, without it, and with one that is broken."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidequest import ConfigError
from sidequest.config import Settings
from sidequest.event_loop import kind_of, loop_factory

BROKEN = "raise RuntimeError('built for another Python')"


@pytest.fixture
def no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    forget(monkeypatch)


@pytest.fixture
def broken_uvloop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "uvloop.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)


def kind(choice: str) -> str:
    loop = loop_factory(choice)()
    loop.close()
    return kind_of(loop)


def test_each_choice_makes_loops_of_its_kind() -> None:
    assert [kind(choice) for choice in ("auto", "asyncio", "uvloop")] == ["uvloop", "asyncio", "uvloop"]


def test_auto_does_without_uvloop_and_says_nothing(no_uvloop: None, caplog: pytest.LogCaptureFixture) -> None:
    assert (kind("auto"), caplog.records) == ("asyncio", [])


def test_auto_does_without_a_broken_uvloop_and_says_so(broken_uvloop: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kind("auto") == "asyncio"
    assert caplog.record_tuples == [
        (
            "sidequest.event_loop",
            logging.WARNING,
            "uvloop is installed and cannot be imported; running on asyncio's own event loop: built for another Python",
        )
    ]


def test_the_setting_refuses_a_uvloop_that_is_not_there(no_uvloop: None) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings.collect(None, {"event_loop": "uvloop"}, {})
    assert str(refused.value) == (
        "event_loop: uvloop cannot be imported: No module named 'uvloop'; run: pip install 'sidequest[uvloop]'"
    )


def test_the_setting_refuses_a_uvloop_that_is_broken(broken_uvloop: Path) -> None:
    with pytest.raises(ConfigError, match="event_loop: uvloop cannot be imported: built for another Python; run: pip"):
        Settings.collect(None, {}, {"SIDEQUEST_EVENT_LOOP": "uvloop"})


@pytest.mark.parametrize("choice", ["auto", "asyncio"])
def test_the_app_imports_no_uvloop_that_it_need_not_have(choice: str, no_uvloop: None) -> None:
    assert Settings.collect(None, {"event_loop": choice}, {}).event_loop == choice


def test_a_broken_uvloop_does_not_end_the_template(broken_uvloop: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(broken_uvloop)}
    program = "import sidequest.worker.on_uvloop, sidequest.worker.template, gc; print(gc.isenabled())"
    told = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert (told.stdout, told.stderr) == ("True\n", "")
