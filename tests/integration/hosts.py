"""Real web servers that host an app with a Sidequest: started, asked, signaled, and their processes counted."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.integration.waiting import eventually, marked_engines

ASGI = """
import asyncio, os
from dataclasses import asdict
from fastapi import FastAPI
from sidequest import Sidequest, job

sq = Sidequest(os.environ["SHOP_URL"], polling_interval=30, shutdown_timeout=float(os.environ.get("SHOP_TIMEOUT", 5)))
app = FastAPI(lifespan=sq.lifespan)
VERSION = 1


@job
async def version() -> int:
    return VERSION


@job
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.get("/")
async def look():
    status = await sq.status()
    return {"pid": os.getpid(), "role": status.client.role, "state": status.engine.state, "road": status.wake_up.road,
            "engine": status.engine.pid, "version": VERSION}


@app.post("/version")
async def run_version():
    handle = await version.enqueue()
    return {"pid": os.getpid(), "result": await handle.result(timeout=20)}


@app.post("/late")
async def run_late():
    # its module is one that only a client has imported
    role = (await sq.status()).client.role
    if role == "owner":
        return {"role": role}
    import late
    handle = await late.late.enqueue()
    return {"role": role, "result": await handle.result(timeout=20)}


@app.post("/nap")
async def run_nap(seconds: float):
    return {"id": (await nap.enqueue(seconds)).id}
"""
"""Its engine polls so rarely that a job which runs has been called for."""

AIOHTTP = """
import asyncio, os, sys
from aiohttp import web
from sidequest import Sidequest, job

sq = Sidequest(os.environ["SHOP_URL"], polling_interval=30, shutdown_timeout=5)


@job
async def version() -> int:
    return 1


async def look(request):
    status = await sq.status()
    return web.json_response({"pid": os.getpid(), "role": status.client.role, "state": status.engine.state,
                              "road": status.wake_up.road, "engine": status.engine.pid, "version": 1})


async def run_version(request):
    handle = await version.enqueue()
    return web.json_response({"pid": os.getpid(), "result": await handle.result(timeout=20)})


def make(argv):
    app = web.Application()
    app.router.add_get("/", look)
    app.router.add_post("/version", run_version)
    app.cleanup_ctx.append(sq.lifespan)
    return app
"""


LATE = """
from sidequest import job

@job
async def late() -> str:
    return "better than never"
"""


@dataclass(frozen=True)
class Server:
    """How a web server is started, and how many workers it then has."""

    command: tuple[str, ...]
    workers: int = 1

    def words(self, port: int) -> list[str]:
        return [sys.executable, *(word.format(port=port) for word in self.command)]


UVICORN = ("-m", "uvicorn", "shop:app", "--port", "{port}")
SERVERS = {
    "uvicorn": Server(UVICORN),
    "uvicorn-reload": Server((*UVICORN, "--reload")),
    "uvicorn-workers": Server((*UVICORN, "--workers", "3"), 3),
    "gunicorn": Server(
        ("-m", "gunicorn", "shop:app", "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:{port}"), 2
    ),
    "hypercorn": Server(("-m", "hypercorn", "shop:app", "-w", "2", "-b", "127.0.0.1:{port}"), 2),
    "aiohttp": Server(("-m", "aiohttp.web", "shop:make", "-H", "127.0.0.1", "-P", "{port}")),
}


class Host:
    """A server that runs; the test ends it."""

    def __init__(self, folder: Path, mark: str, server: Server, terminal: int | None = None) -> None:
        self.folder = folder
        self.mark = mark
        self.server = server
        self.port = _free_port()
        self.terminal = terminal
        self.log = folder / f"log-{self.port}"
        self.process: subprocess.Popen[bytes]

    def launch(self, url: str, **environment: str) -> None:
        environ = {**os.environ, "SHOP_URL": url, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.server.words(self.port), cwd=self.folder, env=environ, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL if self.terminal is None else self.terminal, start_new_session=True,
                preexec_fn=None if self.terminal is None else _take_terminal,  # noqa: PLW1509 - there is no other way
            )  # fmt: skip

    async def ask(self, path: str, method: str = "POST") -> dict[str, Any]:
        """What some worker answers: each question has a connection of its own."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=25) as client:
            answer = await client.request(method, path, headers={"Connection": "close"})
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

    async def look(self) -> dict[str, Any] | None:
        try:
            return await self.ask("/", "GET")
        except httpx.TransportError:
            return None

    async def everybody(self, path: str = "/", method: str = "GET", but: Sequence[int] = ()) -> dict[int, dict[str, Any]]:
        """The answers of all workers, by their pids."""
        answers: dict[int, dict[str, Any]] = {}

        async def all_there() -> bool:
            try:
                found = await self.ask(path, method)
            except (httpx.TransportError, httpx.HTTPStatusError):
                return False
            if found["pid"] not in but:
                answers[found["pid"]] = found
            return len(answers) >= self.server.workers

        await eventually(all_there, within=40)
        return answers

    def engines(self) -> list[int]:
        return marked_engines(self.mark)

    async def ended(self, within: float = 15) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), within)


@asynccontextmanager
async def hosted(
    kind: str, folder: Path, url: str, mark: str, *, terminal: int | None = None, **environment: str
) -> AsyncIterator[Host]:
    """The server, when it answers; whatever is left of its process group is killed at the end."""
    (folder / "shop.py").write_text(AIOHTTP if kind == "aiohttp" else ASGI)
    (folder / "late.py").write_text(LATE)
    host = Host(folder, mark, SERVERS[kind], terminal)
    host.launch(url, **environment)
    try:
        await eventually(host.look, within=40)
        yield host
    except BaseException:
        print(host.log.read_text())  # noqa: T201 - what the server said explains what went wrong
        raise
    finally:
        with suppress(ProcessLookupError):  # also of workers that outlive their master
            os.killpg(host.process.pid, signal.SIGKILL)
        host.process.wait()


def open_terminal() -> tuple[int, int]:
    """The end that types, and the one that a program has as its terminal."""
    return pty.openpty()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
