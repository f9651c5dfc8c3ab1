"""PURE CENTRE. The stable name of a job's module, also for scripts run as `__main__`.

A job is stored as `module:qualname`. The script `python app.py` is the module `__main__` in the
app and is loaded under another name in a worker, so both normalise to `app`; `python -m
shop.jobs` normalises to `shop.jobs`. What has no file (REPL, `-c`, notebook) has no stable name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT_MODULE = "__sidequest_main__"
"""The name under which a worker loads the app's script, so that `__name__ != "__main__"`."""


@dataclass(frozen=True, slots=True)
class Script:
    """The file that the app was started with, and the module name that its jobs carry."""

    name: str
    path: str


def stable_module(module: str) -> str | None:
    """The name that this module has in every process, or None when workers could not load it."""
    if module not in ("__main__", SCRIPT_MODULE):
        return module
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != SCRIPT_MODULE:
        return str(spec.name).removesuffix(".__main__") if spec.name.endswith(".__main__") else str(spec.name)
    path = script_path(module)
    return path.stem if path is not None else None


def script_path(module: str = "__main__") -> Path | None:
    """The file of a script run as `__main__`; None for `-m`, `-c`, REPL and notebooks."""
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != SCRIPT_MODULE:
        return None
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or hasattr(main, "get_ipython"):
        return None
    path = Path(file).resolve()
    return path if path.is_file() else None
