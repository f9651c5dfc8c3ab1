"""TEMPLATE PROCESS. Imported before `template` where workers may run on uvloop: its import takes 5 ms, and is shared."""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

gc.disable()  # as in `template`, which comes next and ends this
with suppress(Exception):  # there may be none; the engine, which imports it as well, says what is wrong with it
    import_module("uvloop")
