"""WORKER PROCESS. Finds the code of jobs: imports the app's modules, and its script under another name.

A stored name never chooses what to import freely: only modules below the roots of those that the
app named (or in which it defined jobs) are loaded, and only registered jobs are run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader

from sidequest.jobs.definition import Definition, registry
from sidequest.jobs.naming import SCRIPT_MODULE, Script
from sidequest.wire.frames import Kind, pack_json


class StartedInWorker(RuntimeError):
    """The app's module started Sidequest while a worker imported it."""


class ImportRefused(ImportError):
    """Importing this module has just ended another worker."""


class Loader:
    """The modules of this worker, and why those that could not be imported could not."""

    def __init__(
        self,
        modules: Iterable[str],
        script: Script | None,
        shunned: Mapping[str, str] | None = None,
        announce: Callable[[str], None] = lambda module: None,
    ) -> None:
        """`shunned` are not imported, for the reasons given; of the others, `announce` is told before each import."""
        self._modules = list(dict.fromkeys(modules))
        self._script = script
        self._announce = announce
        self._roots = {module.partition(".")[0] for module in self._modules}
        self.broken: dict[str, BaseException] = {module: ImportRefused(why) for module, why in (shunned or {}).items()}
        self._tried = set(self.broken)
        self.changed = False
        """Whether modules were tried since the last catalogue."""

    def load_all(self) -> None:
        """Import everything that the app named; what fails is kept in `broken`."""
        for module in ([self._script.name] if self._script is not None else []) + self._modules:
            self._announce(module)
            self._load(module)

    def extend(self, modules: Iterable[str], path: list[str]) -> None:
        """The app has defined jobs in more modules, perhaps in new places of `sys.path`."""
        sys.path[:] = path
        importlib.invalidate_caches()
        for module in modules:
            self._roots.add(module.partition(".")[0])
            self._load(module)

    def catalogue(self, kind: Kind) -> bytes:
        """A frame that tells the engine which jobs run here, and which of them are async."""
        self.changed = False
        return pack_json(kind, {"pid": os.getpid(), "kinds": registry.kinds()})

    def find(self, name: str) -> Definition | None:
        """The job of this name, imported now if its module was not needed before; else None.

        What a module defined before its import failed is not run: half a module is none.
        """
        definition = registry.get(name)
        if definition is None:
            module = name.partition(":")[0]
            if module.partition(".")[0] in self._roots:
                self._load(module)
                definition = registry.get(name)
        return None if definition is None or definition.module in self.broken else definition

    def failure(self, name: str) -> BaseException | None:
        """Why the module that holds this job could not be imported, if that is the case."""
        definition = registry.get(name)
        module = name.partition(":")[0] if definition is None else definition.module or ""
        return self.broken.get(module)

    def _load(self, module: str) -> None:
        if module in self._tried:
            return
        self._tried.add(module)
        self.changed = True
        try:
            if self._script is not None and module == self._script.name:
                _run_script(self._script)
            else:
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):
                self.broken[module] = error  # the module is there, something that it imports is not
        except BaseException as error:  # an import may raise anything, SystemExit included
            self.broken[module] = error


def _run_script(script: Script) -> None:
    loader = SourceFileLoader(SCRIPT_MODULE, script.path)  # named, because a script need not end in .py
    spec = importlib.util.spec_from_file_location(SCRIPT_MODULE, script.path, loader=loader)
    if spec is None or spec.loader is None:
        raise ImportError(f"{script.path} cannot be loaded as Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT_MODULE] = module
    spec.loader.exec_module(module)


def describe(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
