"""What all servers have in common: where they come from, how they live, and a database per test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

from tests.servers.process import Process, Reaper

PATIENCE = 60.0
"""Seconds that a server may take to be set up, and to answer."""
MEMORY = Path("/dev/shm")
"""A file system in memory, on Linux. Containers often have a very small one."""
ROOM = 4 * 1024**3
"""Bytes that it must have free to hold the data of servers."""
Command = Sequence[str | Path]


class Unavailable(Exception):
    """There is no such server on this machine; the message says what is missing."""


class ServerFailed(Exception):
    """A server that is there does not work; the message says why, with the end of its log."""


class NotOurs(Exception):
    """Another's server cannot be stopped, killed or frozen; a test that tries is skipped."""


class Server(ABC):
    """A database server: the one that the environment names, or a private one in a temporary directory.

    A private one keeps its data over `stop`, `kill` and `start`, and ends with the session. Its
    settings trade durability for speed: tests prove behaviour, not power cuts. A `durable` one, for
    measurements, loses nothing and has memory as if it was for production.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable with the URL of a server to use instead of a private one."""
    driver: ClassVar[str]
    """The module by which we talk to it."""
    users: ClassVar[Sequence[str]] = ()
    """Whom a private one runs as when we are root: the first who exists."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """Ends it in order, without waiting for its clients."""

    def __init__(self, reaper: Reaper, url: str = "", *, durable: bool = False) -> None:
        """`url` is that of another's server, instead of what the environment says."""
        self.url = url or ("" if durable else os.environ.get(self.variable, ""))
        self.durable = durable
        self.private = not self.url
        self.port = 0
        self.folder = Path()
        """The temporary directory of a private one."""
        self._reaper = reaper
        self._process: Process | None = None

    def open(self) -> None:
        """Find it, or make a private one, and wait until it answers. Raises Unavailable, ServerFailed."""
        if find_spec(self.driver) is None:
            raise Unavailable(f"{self.name}: the module {self.driver} is not installed")
        if not self.private:
            self._await_answer()
            return
        self.find()
        self.port = free_port()
        self.url = self.private_url()
        self._make_folder()
        if command := self.setup():
            process = self._run(command)
            if process.wait(PATIENCE) != 0:
                raise ServerFailed(f"{self.name} cannot be set up:\n{process.last_words()}")
        self.start()

    # Life

    def start(self) -> None:
        """Let it run and answer again; nothing happens when it does."""
        self._refuse_others()
        if self._process is None:
            self._process = self._run(self.command())
            self._await_answer()
        self.thaw()

    def stop(self) -> None:
        """End it in order, without waiting for its clients."""
        self._refuse_others()
        if self._process is not None:
            self.thaw()
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self._refuse_others()
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """Let it stand still: connections stay open and nothing answers."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after a `freeze`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        self._refuse_others()
        if self._process is not None:
            self._process.send(number)

    def _refuse_others(self) -> None:
        if not self.private:
            raise NotOurs(f"{self.name}: {self.variable} names a server that is not ours to stop, kill or freeze")

    # Databases

    def create_database(self) -> str:
        """The URL of a new and empty database."""
        name = f"sidequest_{uuid4().hex[:12]}"
        self.create(name)
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop_database(self, url: str) -> None:
        """Drop it, whoever is still connected; a private server that was stopped runs again."""
        if self.private:
            self.start()
        self.drop(urlsplit(url).path.removeprefix("/"))

    # What each kind of server says in its own way

    @abstractmethod
    def find(self) -> None:
        """Find its programs on this machine. Raises Unavailable."""

    @abstractmethod
    def private_url(self) -> str:
        """Where a private one listens."""

    @abstractmethod
    def setup(self) -> Command:
        """What makes an empty data directory in `folder`; empty when that is not needed."""

    @abstractmethod
    def command(self) -> Command:
        """What runs it in the foreground, with its data in `folder`."""

    @abstractmethod
    def ping(self) -> None:
        """Raises unless it can be written to now."""

    @abstractmethod
    def create(self, database: str) -> None:
        """Create it. Fails when there is one of that name."""

    @abstractmethod
    def drop(self, database: str) -> None:
        """Drop it if it is there."""

    def missing(self, what: str) -> Unavailable:
        return Unavailable(f"{self.name}: {what}, and {self.variable} is not set")

    # The private one

    @property
    def pid(self) -> int:
        assert self._process is not None, "it runs"
        return self._process.pid

    def _make_folder(self) -> None:
        parent = tempfile.gettempdir()
        if not self.durable and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
            parent = str(MEMORY)  # a database per test is many files: a fourth of the time that a disk takes
        self.folder = Path(tempfile.mkdtemp(prefix=f"sidequest-{self.name}-", dir=parent))
        self._reaper.watch_folder(self.folder)
        if user := self._user():
            shutil.chown(self.folder, user)

    def _run(self, command: Command) -> Process:
        return Process(command, self.folder / "log", self._reaper, self.stop_signal, self._user())

    def _user(self) -> str:
        if os.geteuid() != 0:
            return ""
        known = {entry.pw_name for entry in pwd.getpwall()}
        return next((user for user in self.users if user in known), "")

    def _await_answer(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self.private:
                    socket.create_connection(("127.0.0.1", self.port), 5).close()  # a driver would take longer to see it
                return self.ping()
            except Exception as error:  # whatever the driver raises while it is not ready
                ended = self._process is None or self._process.exit_code is not None
                if ended or time.monotonic() > deadline:
                    words = f"\n{self._process.last_words()}" if self._process is not None else ""
                    raise ServerFailed(f"{self.name} does not answer at {self.url}: {error}{words}") from error
                time.sleep(0.02)


def program(name: str, *places: Path) -> Path | None:
    """The program of this name in the first of the directories that has it, else on the PATH."""
    found = next((place / name for place in places if (place / name).is_file()), None) or shutil.which(name)
    return Path(found).resolve() if found else None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
