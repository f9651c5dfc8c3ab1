"""A job's module has one name in all processes."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidequest.jobs.naming import SCRIPT_MODULE, script_path, stable_module


def be_main(monkeypatch: pytest.MonkeyPatch, name: str = "__main__", **attributes: Any) -> None:
    """Stand another module in for the one that this process was started with."""
    module = ModuleType(name)
    vars(module).pop("__spec__")
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.touch()
    return path


def test_an_imported_module_keeps_its_name() -> None:
    assert stable_module("shop.jobs") == "shop.jobs"


def test_a_script_is_named_by_its_file(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, __file__=str(script), __spec__=None)
    assert stable_module("__main__") == "shop"


def test_the_script_as_a_worker_loads_it_has_the_same_name(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, SCRIPT_MODULE, __file__=str(script), __spec__=ModuleSpec(SCRIPT_MODULE, None))
    assert stable_module(SCRIPT_MODULE) == "shop"


def test_python_m_module_is_named_by_the_module(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, __file__=str(script), __spec__=ModuleSpec("shop.jobs", None))
    assert stable_module("__main__") == "shop.jobs"


def test_python_m_package_is_named_by_the_package(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, __file__=str(script), __spec__=ModuleSpec("shop.__main__", None))
    assert stable_module("__main__") == "shop"


def test_code_without_a_file_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    be_main(monkeypatch, __spec__=None)
    assert stable_module("__main__") is None


def test_a_file_that_is_not_there_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_main(monkeypatch, __file__=str(tmp_path / "<stdin>"), __spec__=None)
    assert stable_module("__main__") is None


def test_a_notebook_has_no_name(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, __file__=str(script), __spec__=None, get_ipython=lambda: None)
    assert stable_module("__main__") is None


def test_only_a_script_has_a_path(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    be_main(monkeypatch, __file__=str(script), __spec__=None)
    assert script_path() == script
    be_main(monkeypatch, __file__=str(script), __spec__=ModuleSpec("shop", None))
    assert script_path() is None
