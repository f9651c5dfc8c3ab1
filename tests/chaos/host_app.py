"""A host's app: `python -m tests.chaos.host_app URL SETTINGS`. Runs an engine until SIGTERM.

`undelayed` among the settings makes each death of the engine count as its first: the pauses that grow
from death to death have tests of their own, and would hide how long a recovery takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys

from sidequest import Sidequest
from sidequest.app import engine_process


async def main() -> None:
    url, settings = sys.argv[1], json.loads(sys.argv[2])
    if settings.pop("undelayed", False):
        engine_process.HEALTHY_AFTER = 0.0
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Sidequest(url, engine="process", modules=["tests.chaos.chaos_jobs"], **settings):
        print("chaos host is ready", flush=True)
        await stop.wait()
    print("chaos host has stopped", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(relativeCreated)d %(levelname)s %(name)s: %(message)s")
    asyncio.run(main())
