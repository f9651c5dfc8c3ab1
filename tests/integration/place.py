"""A place where jobs run until a gate opens and leave marks, and apps of their own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sidequest import Sidequest
from sidequest.jobs.client import JobCall
from tests.integration import sample_jobs as jobs
from tests.integration.waiting import eventually, marked_engines

APP = """
import asyncio
from sidequest import Sidequest
from tests.integration import sample_jobs

async def main():
    async with Sidequest({url!r}, **{settings!r}):
        print("started", flush=True)
        await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


class Place:
    """Files under one folder; `mark` is that of the test's processes."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.spool = folder / "spool"
        self._mark = mark
        self._apps: list[subprocess.Popen[bytes]] = []

    def job(self, name: str, queue: str = "default") -> JobCall[int]:
        """A job that runs until the gate opens, and leaves its marks under this name."""
        return jobs.until.options(queue=queue).call(str(self.gate), str(self.folder / name))

    def marks(self, name: str) -> list[str]:
        """What runs of the job have left: +pid at their start, -pid at their end."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def shape(self, name: str) -> str:
        return "".join(word[0] for word in self.marks(name))

    async def started(self, *names: str, times: int = 1, within: float = 20) -> None:
        await eventually(lambda: all(self.shape(name).count("+") >= times for name in names), within=within)

    def open(self) -> None:
        self.gate.touch()

    # Apps that can be killed

    async def app(self, url: str, **settings: Any) -> subprocess.Popen[bytes]:
        """An app with an engine, in a process of its own."""
        script, log = self.folder / f"app{len(self._apps)}.py", self.folder / f"app{len(self._apps)}.log"
        script.write_text(APP.format(url=url, settings=settings))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("w") as out:
            app = subprocess.Popen([sys.executable, str(script)], stdout=out, stderr=out, cwd=Path.cwd(), env=environment)
        self._apps.append(app)
        await eventually(lambda: "started" in log.read_text() or app.poll() is not None)
        assert "started" in log.read_text(), log.read_text()
        return app

    def log(self, number: int = 0) -> str:
        """What the app and its engine have written."""
        return (self.folder / f"app{number}.log").read_text()

    def engines(self) -> list[int]:
        return marked_engines(self._mark)

    def kill_all(self) -> None:
        """App and engine at once, as an operator, the kernel or a container's end may do it."""
        for pid in (*(app.pid for app in self._apps), *self.engines()):
            os.kill(pid, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        for app in self._apps:
            app.kill()
            app.wait()


async def ended(sq: Sidequest, ids: list[int], within: float = 30) -> None:
    """Return when all of the jobs have completed."""
    async with asyncio.timeout(within):
        for id in ids:
            await sq.handle(id).result(timeout=within)
