"""Which code a worker imports, and which it never does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidequest.jobs import definition, job
from sidequest.jobs.definition import Registry
from sidequest.jobs.naming import SCRIPT_MODULE, Script
from sidequest.wire.frames import Kind, Splitter, read_json
from sidequest.worker import loading
from sidequest.worker.loading import Loader

Write = Callable[..., Path]
JOB = "from sidequest import job\n@job\ndef send(): ...\n@job\nasync def post(): ...\n"


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A register of its own, and no trace of what was imported."""
    registry = Registry()
    for module in (definition, job, loading):
        monkeypatch.setattr(module, "registry", registry)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module into a new place on `sys.path`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str = JOB) -> Path:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def loaded(*modules: str, script: Script | None = None) -> Loader:
    loader = Loader(modules, script)
    loader.load_all()
    return loader


def test_the_jobs_of_named_modules_are_found(write: Write) -> None:
    write("sq_shop")
    found = loaded("sq_shop").find("sq_shop:send")
    assert found is not None
    assert (found.name, found.is_async) == ("sq_shop:send", False)


def test_a_script_is_loaded_under_another_name_and_its_jobs_keep_theirs(write: Write) -> None:
    path = write("sq_app", JOB + "name = __name__\nif __name__ == '__main__': raise SystemExit\n")
    found = loaded(script=Script("sq_app", str(path))).find("sq_app:send")
    assert found is not None
    assert (found.name, sys.modules[SCRIPT_MODULE].name, "sq_app" in sys.modules) == ("sq_app:send", SCRIPT_MODULE, False)


def test_a_script_that_is_also_a_named_module_is_loaded_once(write: Write) -> None:
    path = write("sq_app")
    loaded("sq_app", script=Script("sq_app", str(path)))
    assert "sq_app" not in sys.modules


def test_a_script_that_raises_is_kept_as_the_reason(write: Write) -> None:
    path = write("sq_app", JOB + "raise ValueError('half way')\n")
    loader = loaded(script=Script("sq_app", str(path)))
    assert (loader.find("sq_app:send"), repr(loader.failure("sq_app:send"))) == (None, "ValueError('half way')")


def test_a_script_that_is_gone_is_kept_as_the_reason(tmp_path: Path) -> None:
    loader = loaded(script=Script("sq_app", str(tmp_path / "sq_app.py")))
    assert isinstance(loader.failure("sq_app:send"), FileNotFoundError)


def test_a_script_need_not_end_in_py(write: Write, tmp_path: Path) -> None:
    script = write("sq_app").rename(tmp_path / "sq_app")
    found = loaded(script=Script("sq_app", str(script))).find("sq_app:send")
    assert found is not None


@pytest.mark.parametrize(
    "text", ["raise ValueError", "raise SystemExit(3)", "raise KeyboardInterrupt", "import sq_missing", "("]
)
def test_whatever_an_import_raises_is_kept_and_the_other_modules_are_loaded(write: Write, text: str) -> None:
    write("sq_broken", JOB + text)
    write("sq_shop")
    loader = loaded("sq_broken", "sq_shop")
    assert (list(loader.broken), loader.find("sq_broken:send")) == (["sq_broken"], None)
    assert loader.find("sq_shop:send") is not None


def test_a_module_that_does_not_exist_is_not_broken_but_unknown() -> None:
    loader = loaded("sq_nowhere.jobs")
    assert (loader.broken, loader.find("sq_nowhere.jobs:send"), loader.failure("sq_nowhere.jobs:send")) == ({}, None, None)


def test_a_broken_module_is_not_tried_twice(write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write("sq_broken", f"with open({str(log)!r}, 'a') as log: log.write('x')\nraise ValueError")
    loader = loaded("sq_broken")
    loader.find("sq_broken:send")
    loader.find("sq_broken:send")
    assert log.read_text() == "x"


def test_a_module_below_an_allowed_root_is_imported_when_a_job_needs_it(write: Write) -> None:
    write("sq_shop.__init__", "")
    write("sq_shop.mail")
    write("sq_shop.pay")
    loader = loaded("sq_shop.mail")
    before = "sq_shop.pay" in sys.modules
    assert (before, loader.find("sq_shop.pay:send") is not None) == (False, True)


def test_a_module_outside_the_allowed_roots_is_never_imported(write: Write) -> None:
    write("sq_shop")
    write("sq_evil")
    write("sq_shopping")
    loader = loaded("sq_shop")
    for name in ("sq_evil:send", "sq_shopping:send", "os:system", "sq_evil.sq_shop:send", ":send", "send"):
        assert loader.find(name) is None
    assert not {"sq_evil", "sq_shopping"} & set(sys.modules)


def test_only_registered_jobs_are_found(write: Write) -> None:
    write("sq_shop", JOB + "def secret(): ...\n")
    assert loaded("sq_shop").find("sq_shop:secret") is None


def test_modules_that_the_app_defines_later_are_found_also_in_new_places(write: Write, tmp_path: Path) -> None:
    loader = loaded()
    write("sq_later")
    path = [str(tmp_path), *sys.path]
    before = loader.find("sq_later:send")
    loader.extend(["sq_later"], path)
    assert (before, loader.find("sq_later:send") is not None, sys.path) == (None, True, path)


def test_the_catalogue_names_all_jobs_and_their_kinds(write: Write) -> None:
    write("sq_shop")
    loader = loaded("sq_shop")
    [(kind, payload)] = Splitter().feed(loader.catalogue(Kind.HELLO))
    assert (kind, read_json(payload)) == (
        Kind.HELLO,
        {"pid": os.getpid(), "kinds": {"sq_shop:send": False, "sq_shop:post": True}},
    )


def test_a_catalogue_is_out_of_date_after_another_import(write: Write) -> None:
    write("sq_shop.__init__", "")
    write("sq_shop.mail")
    loader = loaded("sq_shop")
    loader.catalogue(Kind.HELLO)
    before = loader.changed
    loader.find("sq_shop.mail:send")
    assert (before, loader.changed) == (False, True)


def test_a_shunned_module_is_not_imported_and_says_why(write: Write) -> None:
    write("bad_shop", "raise SystemExit")
    write("good_shop")
    announced: list[str] = []
    loader = Loader(["good_shop", "bad_shop"], None, {"bad_shop": "it ended a worker"}, announced.append)
    loader.load_all()
    assert announced == ["good_shop", "bad_shop"]
    assert loader.find("bad_shop:send") is None
    assert str(loader.failure("bad_shop:send")) == "it ended a worker"
    assert loader.find("good_shop:send") is not None
