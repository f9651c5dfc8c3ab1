"""EVERY PROCESS. Which event loop engines and workers run on: uvloop's where it is installed, or asyncio's own.

What waits for networks may gain by it; a drain of no-ops costs the engine as much on either. The app's loop is
the app's own business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module

logger = logging.getLogger(__name__)
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(choice: str) -> LoopFactory:
    """What makes the loops that this `event_loop` means. Raises ImportError for a uvloop that must be and is not.

    asyncio's own are made as asyncio makes them: by the policy that a user's module may have set.
    """
    if choice == "asyncio":
        return asyncio.new_event_loop
    try:
        factory: LoopFactory = import_module("uvloop").new_event_loop
    except Exception as error:  # one that was built for another Python may raise anything
        if choice == "uvloop":
            raise ImportError(str(error)) from error
        if not (isinstance(error, ModuleNotFoundError) and error.name == "uvloop"):
            logger.warning("uvloop is installed and cannot be imported; running on asyncio's own event loop: %s", error)
        return asyncio.new_event_loop
    return factory


def kind_of(loop: asyncio.AbstractEventLoop) -> str:
    """The `event_loop` that leads to such a loop again."""
    return "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else "asyncio"
