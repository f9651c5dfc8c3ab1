"""The command line as people and scripts use it: real processes, their exit codes, their output.

Most of it is the same for every database, and is tested on the default one.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sidequest
from tests.integration.conftest import EVERYWHERE
from tests.integration.waiting import KEPT, eventually, marked_processes

pytestmark = pytest.mark.database("sqlite")
everywhere = pytest.mark.parametrize("database", EVERYWHERE)
of_each_kind = pytest.mark.parametrize("database", ["sqlite", "mongodb"])
"""Where nothing is new but what the command line shows; each of its runs is a process."""
COMMAND = [sys.executable, "-m", "sidequest"]
JOBS = """
import time
from pathlib import Path
from sidequest import job

@job
async def add(a: int, b: int) -> int:
    return a + b

@job
def sleep(seconds: float, started: str) -> str:
    Path(started).touch()
    time.sleep(seconds)
    return "slept"

@job
def stubborn(seconds: float, started: str) -> None:
    Path(started).touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(seconds)
        except BaseException:
            pass

@job
def boom() -> None:
    raise ValueError("no such thing")
"""


class Cli:
    """Runs commands in a folder of its own that holds the module `clijobs`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str) -> tuple[int, str, str]:
        done = subprocess.run([*COMMAND, *argv], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def ok(self, *argv: str) -> str:
        code, out, err = self.run(*argv)
        assert (code, err) == (0, "")
        return out

    def read(self, *argv: str) -> Any:
        return json.loads(self.ok(*argv, "--json"))

    def refused(self, code: int, *argv: str) -> str:
        """The one line that says why."""
        got, out, err = self.run(*argv)
        assert (got, out, err.count("\n")) == (code, "", 1)
        return err

    def enqueue(self, *argv: str) -> int:
        return int(self.ok("jobs", "enqueue", *argv))

    def launch(self, *argv: str) -> subprocess.Popen[bytes]:
        """An engine that is starting; its output is in `engine.log`."""
        with (self.folder / "engine.log").open("wb") as out:
            process = subprocess.Popen([*COMMAND, "engine", "clijobs", *argv], cwd=self.folder, stdout=out, stderr=out)
        self.engines.append(process)
        return process

    async def engine(self, *argv: str) -> subprocess.Popen[bytes]:
        """An engine that is ready."""
        process = self.launch(*argv)
        await eventually(lambda: "is ready" in "".join(self.log) or process.poll() is not None)
        assert process.poll() is None, self.log
        return process

    def pipe(self, *argv: str) -> tuple[int, bytes]:
        """Run it with a reader that takes one byte and goes; exit code and stderr."""
        command = [*COMMAND, *argv]
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        return process.wait(30), err

    def fill(self, *argv: str) -> tuple[int, str]:
        """Run it with its output on a full disk; exit code and stderr."""
        with Path("/dev/full").open("wb") as full:
            command = [*COMMAND, *argv]
            done = subprocess.run(
                command, cwd=self.folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
        return done.returncode, done.stderr

    def state(self, id: int) -> str:
        return str(self.read("jobs", "show", str(id))["state"])

    @property
    def log(self) -> list[str]:
        return (self.folder / "engine.log").read_text().splitlines()


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.fixture
async def cli(
    database: str, url: str, tmp_path: Path, mark: str, nothing_left_behind: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cli]:
    for name in [name for name in os.environ if name.startswith("SIDEQUEST_") and name not in KEPT]:
        monkeypatch.delenv(name)
    if database != "sqlite":
        monkeypatch.setenv("SIDEQUEST_URL", url)
    (tmp_path / "clijobs.py").write_text(JOBS)
    cli = Cli(tmp_path)
    yield cli
    for process in cli.engines:
        if process.poll() is None:
            process.kill()
        process.wait(10)


async def ended(process: subprocess.Popen[bytes], within: float = 15.0) -> int:
    await eventually(lambda: process.poll() is not None, within=within)
    assert process.returncode is not None
    return process.returncode


# Engine


@everywhere
async def test_an_engine_runs_what_another_process_enqueues(cli: Cli) -> None:
    await cli.engine()
    positional = cli.enqueue("clijobs:add", "[1, 2]")
    keywords = cli.enqueue("clijobs:add", '{"a": 20, "b": 22}', "--queue=mail", "--priority=3", "--tag=x", "--tag=y")
    await eventually(lambda: cli.read("jobs", "count")["completed"] == 2)
    assert cli.read("jobs", "show", str(positional))["result"] == 3
    record = cli.read("jobs", "show", str(keywords))
    assert (record["result"], record["queue"], record["priority"], record["tags"]) == (42, "mail", 3, ["x", "y"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_lets_running_jobs_finish(cli: Cli, number: signal.Signals) -> None:
    process = await cli.engine()
    id = cli.enqueue("clijobs:sleep", '[1, "started"]')
    await eventually((cli.folder / "started").exists)
    process.send_signal(number)
    assert await ended(process) == 0
    record = cli.read("jobs", "show", str(id))
    assert (record["state"], record["attempt"], record["result"]) == ("completed", 1, "slept")
    ready, stopped = cli.log
    assert ready.startswith("sidequest: engine ")
    assert ready.endswith("): clijobs")
    assert stopped == "sidequest: the engine has stopped"


@everywhere
async def test_engines_are_listed_with_the_jobs_that_they_hold(cli: Cli) -> None:
    cli.ok("migrate", "up")
    assert cli.read("engines", "list") == {"engines": []}
    process = await cli.engine()
    cli.enqueue("clijobs:sleep", '[60, "started"]')
    await eventually((cli.folder / "started").exists)
    [engine] = cli.read("engines", "list")["engines"]
    assert (engine["running"], engine["queues"], engine["version"]) == (1, "*", sidequest.__version__)
    head, row = cli.ok("engines", "list").splitlines()
    assert head.split() == ["ENGINE", "HOST", "PID", "VERSION", "QUEUES", "RUNNING", "LAST", "BEAT"]
    assert row.startswith(engine["id"])
    process.terminate()
    process.send_signal(signal.SIGINT)  # in a hurry
    await ended(process)


async def test_a_draining_engine_starts_no_more_jobs(cli: Cli) -> None:
    process = await cli.engine()
    cli.enqueue("clijobs:sleep", '[1, "started"]')
    await eventually((cli.folder / "started").exists)
    process.terminate()
    later = cli.enqueue("clijobs:add", "[1, 2]", "--delay=0.1")
    assert await ended(process) == 0
    assert cli.state(later) == "waiting"


@pytest.mark.parametrize(
    ("signals", "last_word", "state"),
    [
        (2, "the engine was stopped in a hurry; its jobs have gone back to waiting", "waiting"),
        # running until another engine sees that its heartbeat has stopped
        (3, "killed; its jobs go back to waiting when another engine notices", "running"),
    ],
)
async def test_a_second_signal_stops_jobs_and_a_third_one_kills(
    cli: Cli, mark: str, signals: int, last_word: str, state: str
) -> None:
    process = await cli.engine()
    id = cli.enqueue("clijobs:stubborn", '[60, "started"]')
    await eventually(lambda: cli.state(id) == "running")
    assert len(marked_processes(mark)) >= 3  # the command, its engine, a worker
    process.terminate()
    await eventually(lambda: cli.enqueue("clijobs:add", "[1, 2]") and process.poll() is None)  # it waits for the job
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    if signals == 3:
        process.send_signal(signal.SIGHUP)
    assert await ended(process, within=5) == 1
    await eventually(lambda: not marked_processes(mark), within=2)
    assert time.monotonic() - before < 5
    assert cli.log[-1] == f"sidequest: {last_word}"
    assert cli.state(id) == state


async def test_signals_while_it_starts_leave_nothing_behind(cli: Cli, mark: str) -> None:
    process = cli.launch()
    await eventually(lambda: len(marked_processes(mark)) >= 2)  # the engine's process is there, and not ready
    process.terminate()
    process.terminate()
    await ended(process, within=5)
    await eventually(lambda: not marked_processes(mark), within=5)
    assert "Traceback" not in "".join(cli.log)


async def test_a_killed_command_takes_its_engine_with_it(cli: Cli, mark: str) -> None:
    process = await cli.engine()
    process.kill()
    await eventually(lambda: not marked_processes(mark), within=15)


async def test_an_engine_serves_only_its_queues(cli: Cli) -> None:
    await cli.engine("--queues=mail*,-mail.slow", "--max-workers=1", "--max-concurrent-jobs=5")
    others = [cli.enqueue("clijobs:add", "[1, 2]", f"--queue={queue}") for queue in ("default", "mail.slow")]
    served = cli.enqueue("clijobs:add", "[1, 2]", "--queue=mail.fast")
    await eventually(lambda: cli.state(served) == "completed")
    assert [cli.state(id) for id in others] == ["waiting", "waiting"]


async def test_an_engine_refuses_what_it_cannot_import(cli: Cli) -> None:
    assert "there is no module 'nosuchjobs'" in cli.refused(2, "engine", "clijobs", "nosuchjobs")
    assert "'clijobs.py' is a file; name the module: clijobs" in cli.refused(2, "engine", "clijobs.py")
    assert not list(cli.folder.glob("*.db"))


async def test_an_engine_that_may_not_migrate_says_what_to_run(cli: Cli) -> None:
    assert "run: sidequest migrate up" in cli.refused(1, "engine", "clijobs", "--no-migrate")


async def test_a_job_may_run_a_command(cli: Cli) -> None:
    (cli.folder / "shelljobs.py").write_text(
        "import subprocess, sys\nfrom sidequest import job\n\n@job\ndef shell() -> str:\n"
        "    return subprocess.check_output([sys.executable, '-m', 'sidequest', 'jobs', 'enqueue', 'x:y'], text=True)\n"
    )
    await cli.engine("shelljobs")
    id = cli.enqueue("shelljobs:shell")
    await eventually(lambda: cli.state(id) == "completed")
    assert cli.read("jobs", "show", str(id))["result"] == f"{id + 1}\n"


# Jobs


@of_each_kind
async def test_jobs_are_listed_newest_first_and_filtered(cli: Cli) -> None:
    cli.ok("migrate", "up")
    first = cli.enqueue("clijobs:add", "[1, 2]", "--tag=a")
    second = cli.enqueue("shop:send", '{"to": "ann"}', "--queue=mail")
    third = cli.enqueue("clijobs:add", "[3, 4]", "--delay=3600")
    cli.ok("jobs", "cancel", str(first))

    def listed(*argv: str) -> list[int]:
        return [record["id"] for record in cli.read("jobs", "list", *argv)["jobs"]]

    assert listed() == [third, second, first]
    assert listed("--state=canceled") == [first]
    assert listed("--state=canceled", "--state=waiting") == [third, second, first]
    assert listed("--queue=mail") == [second]
    assert listed("--name=clijobs:add") == [third, first]
    assert listed("--tag=a") == [first]
    assert listed("--text=ann") == [second]
    assert listed("--text=%") == []
    assert listed("--since=1h") == [third, second, first]
    assert listed("--until=1h") == []
    assert listed(f"--before={third}") == [second, first]
    page = cli.read("jobs", "list", "--limit=2")
    assert (len(page["jobs"]), page["next_before"]) == (2, second)
    assert cli.read("jobs", "list")["next_before"] is None
    head, *rows = cli.ok("jobs", "list").splitlines()
    assert head.split() == ["ID", "STATE", "QUEUE", "NAME", "ATTEMPT", "ENQUEUED", "NOTE"]
    assert [row.split()[0] for row in rows] == [str(third), str(second), str(first)]
    assert " due 20" in rows[0]


@everywhere
async def test_show_has_the_errors_with_their_traces(cli: Cli) -> None:
    await cli.engine()
    id = cli.enqueue("clijobs:boom")
    record = await eventually(lambda: (r := cli.read("jobs", "show", str(id)))["errors"] and r)
    assert isinstance(record, dict)
    error = record["errors"][0]  # on a slow machine the second attempt may be over as well
    assert (error["kind"], error["type"], error["message"], error["attempt"]) == ("error", "ValueError", "no such thing", 1)
    assert "raise ValueError" in error["trace"]
    assert "raise ValueError" in cli.ok("jobs", "show", str(id))


@of_each_kind
async def test_jobs_are_moved_by_hand(cli: Cli) -> None:
    cli.ok("migrate", "up")
    one, two = cli.enqueue("x:y"), cli.enqueue("x:y", "--delay=3600")
    due = cli.read("jobs", "show", str(two))["available_at"]
    assert cli.ok("jobs", "run", str(two)) == f"{two} waiting\n"
    assert cli.read("jobs", "show", str(two))["available_at"] < due
    assert cli.read("jobs", "snooze", str(two), "7200") == {"jobs": [{"id": two, "answer": "waiting", "error": None}]}
    assert cli.read("jobs", "show", str(two))["available_at"] > due
    assert cli.ok("jobs", "cancel", str(one), str(two)) == f"{one} canceled\n{two} canceled\n"
    assert cli.ok("jobs", "retry", str(one)) == f"{one} waiting\n"
    assert cli.read("jobs", "delete", str(one)) == {"jobs": [{"id": one, "answer": "deleted", "error": None}]}
    assert cli.read("jobs", "count") == {
        "waiting": 0, "claimed": 0, "running": 0, "completed": 0, "failed": 0, "canceled": 1,
    }  # fmt: skip


@everywhere
async def test_a_running_job_is_canceled_by_its_engine(cli: Cli) -> None:
    await cli.engine()
    id = cli.enqueue("clijobs:sleep", '[60, "started"]')
    await eventually((cli.folder / "started").exists)
    assert cli.ok("jobs", "cancel", str(id)) == f"{id} requested\n"
    await eventually(lambda: cli.state(id) == "canceled")


async def test_what_cannot_be_moved_does_not_hold_up_the_others(cli: Cli) -> None:
    one, two = cli.enqueue("x:y"), cli.enqueue("x:y")
    code, out, err = cli.run("jobs", "cancel", "99", str(one), str(two))
    assert (code, out, err) == (1, f"{one} canceled\n{two} canceled\n", "sidequest: job 99 does not exist\n")
    code, out, err = cli.run("jobs", "cancel", str(one), "--json")
    assert code == 1
    assert json.loads(out) == {
        "jobs": [{"id": one, "answer": None, "error": f"job {one} has ended already: too late to cancel it"}]
    }


async def test_what_is_not_there_or_in_the_wrong_state_is_exit_1(cli: Cli) -> None:
    id = str(cli.enqueue("x:y"))
    assert cli.refused(1, "jobs", "show", "99") == "sidequest: job 99 does not exist\n"
    assert "job 99 does not exist" in cli.refused(1, "jobs", "delete", "99")
    assert "waiting" in cli.refused(1, "jobs", "retry", id)
    cli.ok("jobs", "cancel", id)
    assert "canceled" in cli.refused(1, "jobs", "run", id)
    assert "canceled" in cli.refused(1, "jobs", "snooze", id, "5")
    assert "queue 'mail' does not exist" in cli.refused(1, "queues", "pause", "mail")
    assert "queue 'mail' does not exist" in cli.refused(1, "queues", "show", "mail")


@everywhere
async def test_injection_looking_values_are_data(cli: Cli) -> None:
    cli.ok("migrate", "up")
    evil = "x'); DROP TABLE sidequest_jobs; --"
    id = cli.enqueue("x:y", json.dumps([evil, "%s :name {0} \\"]))
    assert cli.read("jobs", "show", str(id))["args"] == {"args": [evil, "%s :name {0} \\"]}
    assert [record["id"] for record in cli.read("jobs", "list", f"--text={evil}")["jobs"]] == [id]
    assert "argument NAME" in cli.refused(2, "jobs", "enqueue", evil)


# Queues


@of_each_kind
async def test_queues_are_created_changed_and_purged(cli: Cli) -> None:
    cli.ok("migrate", "up")
    mail = {"name": "mail", "concurrency": 3, "priority": 7, "paused": False}
    assert cli.read("queues", "create", "mail", "--concurrency=3", "--priority=7") == mail
    assert "exists already" in cli.refused(1, "queues", "create", "mail")
    assert cli.read("queues", "pause", "mail") == {**mail, "paused": True}
    assert cli.read("queues", "resume", "mail") == mail
    assert cli.read("queues", "set", "mail", "--concurrency=4") == {**mail, "concurrency": 4}
    assert "nothing to change" in cli.refused(2, "queues", "set", "mail")
    cli.enqueue("x:y", "--queue=mail")
    shown = cli.read("queues", "show", "mail")
    assert (shown["concurrency"], shown["jobs"]["waiting"]) == (4, 1)
    assert cli.read("queues", "list") == {"queues": [{**mail, "concurrency": 4}]}
    assert cli.ok("queues", "list").splitlines() == [
        "QUEUE  CONCURRENCY  PRIORITY  PAUSED",
        "mail   4            7         no",
    ]
    assert cli.ok("queues", "purge", "mail") == "deleted 1 waiting job of mail\n"
    assert cli.read("queues", "purge", "mail") == {"queue": "mail", "deleted": 0}


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(cli: Cli) -> None:
    cli.ok("migrate", "up")
    cli.ok("queues", "create", "mail", "--paused")
    held = cli.enqueue("clijobs:add", "[1, 2]", "--queue=mail")
    await cli.engine()
    other = cli.enqueue("clijobs:add", "[1, 2]")
    await eventually(lambda: cli.state(other) == "completed")
    assert cli.state(held) == "waiting"
    cli.ok("queues", "resume", "mail")
    await eventually(lambda: cli.state(held) == "completed")


# The database


async def test_a_file_that_is_not_there_is_not_made_by_looking(cli: Cli) -> None:
    assert "there is no database" in cli.refused(1, "migrate", "status")
    assert not list(cli.folder.glob("*.db"))


@everywhere
async def test_migrations_are_applied_once_and_shown(cli: Cli) -> None:
    applied = cli.read("migrate", "up")["applied"]
    assert applied
    assert cli.read("migrate", "up") == {"applied": []}
    assert cli.ok("migrate", "up") == "the tables are up to date\n"
    assert cli.read("migrate", "status") == {"applied": applied, "pending": [], "newer": [], "unknown": []}
    assert cli.ok("migrate", "status").splitlines() == [f"applied  {step}" for step in applied]


async def test_the_printed_sql_makes_the_same_schema(cli: Cli) -> None:
    script = cli.ok("migrate", "sql", "--url", "sqlite:///by-hand.db?prefix=q_")
    assert not list(cli.folder.glob("*.db"))
    with sqlite3.connect(cli.folder / "by-hand.db") as connection:
        connection.executescript(script)
    connection.close()
    assert cli.read("migrate", "status", "--url", "sqlite:///by-hand.db?prefix=q_")["pending"] == []
    cli.ok("jobs", "enqueue", "x:y", "--url", "sqlite:///by-hand.db?prefix=q_")


@everywhere
async def test_tables_that_are_missing_are_made_by_migrate_up_alone(cli: Cli) -> None:
    (cli.folder / "sidequest.db").touch()
    for argv in (["jobs", "list"], ["jobs", "enqueue", "x:y"], ["queues", "create", "mail"]):
        assert "run: sidequest migrate up" in cli.refused(1, *argv)
    assert cli.read("migrate", "status")["applied"] == []
    cli.ok("migrate", "up")
    assert cli.read("jobs", "list") == {"jobs": [], "next_before": None}


async def test_a_folder_is_exit_1(cli: Cli) -> None:
    assert "it is a directory" in cli.refused(1, "jobs", "list", "--url", f"sqlite:///{cli.folder}")


async def test_what_is_no_database_is_exit_1(cli: Cli) -> None:
    (cli.folder / "text.db").write_text("no database, but long enough to be taken for one" * 100)
    assert "text.db cannot be used" in cli.refused(1, "jobs", "list", "--url", "sqlite:///text.db")


# Output


async def test_a_reader_that_stops_reading_is_no_error(cli: Cli) -> None:
    cli.enqueue("x:y", json.dumps(["x" * 100_000]))  # more than a pipe holds
    assert cli.pipe("jobs", "list", "--json") == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_output_that_cannot_be_written_is_exit_1(cli: Cli) -> None:
    cli.enqueue("x:y")
    code, err = cli.fill("jobs", "list")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("sidequest: cannot write the output")


async def test_an_ascii_terminal_gets_json_that_is_whole(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    id = cli.enqueue("x:y", '["日本"]')
    assert cli.read("jobs", "show", str(id))["args"] == {"args": ["日本"]}
    assert "\\u65e5" in cli.ok("jobs", "show", str(id))


async def test_the_installed_command_is_the_same(cli: Cli) -> None:
    assert cli.ok("--version").startswith("sidequest 0.")
