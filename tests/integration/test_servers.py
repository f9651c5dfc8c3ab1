"""The servers that tests run on: promised ones must be there, and nothing is left of private ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.waiting import eventually
from tests.servers import plugin
from tests.servers.plugin import Servers
from tests.servers.postgres import Postgres
from tests.servers.server import Command, NotOurs

pytestmark = pytest.mark.database("sqlite")
ROOT = Path(__file__).parent.parent.parent
SESSION = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # those who run tests may have it ignored
from tests.integration.test_servers import Sleeper
from tests.servers.process import Reaper
server = Sleeper(Reaper())
server.open()
server.freeze()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


class Sleeper(Postgres):
    """A server that serves nothing, and is always there."""

    name = "sleeper"
    variable = "SIDEQUEST_TEST_SLEEPER_URL"
    users = ()
    stop_signal = signal.SIGTERM

    def find(self) -> None:
        """It needs no program but Python."""

    def setup(self) -> Command:
        return ()

    def command(self) -> Command:
        text = f"import socket, time; taken = socket.create_server(('127.0.0.1', {self.port})); time.sleep(600)"
        return [sys.executable, "-c", text]

    def ping(self) -> None:
        if not self.private:
            raise ConnectionError("nobody there")


class Missing(Sleeper):
    def find(self) -> None:
        raise self.missing("there is no such thing")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(plugin, "KINDS", [Sleeper])
    servers = Servers()
    yield servers
    servers.close()


async def test_a_server_that_is_not_on_this_machine_is_a_reason_to_skip(servers, monkeypatch):
    monkeypatch.setattr(plugin, "KINDS", [Missing])
    with pytest.raises(pytest.skip.Exception, match="no such thing, and SIDEQUEST_TEST_SLEEPER_URL is not set"):
        servers.get("sleeper")


async def test_in_ci_it_is_a_failure(servers, monkeypatch):
    monkeypatch.setattr(plugin, "KINDS", [Missing])
    monkeypatch.setenv("CI", "true")
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception, match="no such thing, and SIDEQUEST_TEST_SLEEPER_URL is not set"):
            servers.get("sleeper")


async def test_a_server_that_was_named_and_does_not_answer_is_a_failure(servers, monkeypatch):
    monkeypatch.setenv("SIDEQUEST_TEST_SLEEPER_URL", "postgresql://127.0.0.1:1/")
    with pytest.raises(pytest.fail.Exception, match="does not answer at postgresql://127.0.0.1:1/: nobody there"):
        servers.get("sleeper")


async def test_the_end_of_the_log_says_why_a_server_does_not_start(servers, monkeypatch):
    monkeypatch.setattr(Sleeper, "setup", lambda self: ["sh", "-c", "echo no space; exit 1"])
    with pytest.raises(pytest.fail.Exception, match="sleeper cannot be set up:\nno space"):
        servers.get("sleeper")


async def test_a_server_can_be_stopped_killed_and_frozen_and_started_again(servers):
    server = servers.get("sleeper")
    pids = [server.pid]
    for end in (server.stop, server.kill):
        server.freeze()
        end()
        assert not Path(f"/proc/{pids[-1]}").exists()
        server.start()
        server.start()
        pids.append(server.pid)
    assert len({*pids}) == 3


async def test_another_s_server_is_left_alone(servers, monkeypatch):
    monkeypatch.setenv("SIDEQUEST_TEST_SLEEPER_URL", "postgresql://127.0.0.1:1/")
    monkeypatch.setattr(Sleeper, "ping", lambda self: None)
    server = servers.get("sleeper")
    for refused in (server.start, server.stop, server.kill, server.freeze, server.thaw):
        with pytest.raises(NotOurs, match="SIDEQUEST_TEST_SLEEPER_URL"):
            refused()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_however_a_session_ends_its_servers_and_their_files_go_with_it(number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    session = subprocess.Popen([sys.executable, "-c", SESSION], env=environment, stdout=subprocess.PIPE, text=True)
    assert session.stdout is not None
    pid, folder = session.stdout.readline().split()
    assert Path("/proc", pid).exists()
    assert Path(folder).exists()
    session.send_signal(number)
    session.communicate()
    await eventually(lambda: not Path("/proc", pid).exists() and not Path(folder).exists())


async def test_an_unknown_database_is_refused_by_name():
    command = [sys.executable, "-m", "pytest", "--databases", "sqlite,postgre", str(ROOT / "tests/conformance")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no postgre; there are sqlite, postgres, mariadb" in refused.stderr
