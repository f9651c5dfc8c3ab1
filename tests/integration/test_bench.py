"""`sidequest bench` as people run it: on a database that holds jobs of theirs, which it must leave as they are."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidequest.backends import make_backend
from sidequest.backends.base import JobFilter
from sidequest.cli.bench_figures import TITLES
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord, NewJob
from tests.integration.waiting import KEPT, eventually, marked_processes

COMMAND = [sys.executable, "-m", "sidequest", "bench"]
TINY = ("--jobs=60", "--seconds=0.2")
LONG = ("--jobs=1000000", "--seconds=60")
RUN = re.compile(r"sidequest_bench_\d{12}_[0-9a-f]{6}")


class Bench:
    """Runs the command in a folder of its own, on a database that has tables with jobs in them."""

    def __init__(self, folder: Path, url: str, mark: str) -> None:
        self.folder = folder
        self.url = url
        self.mark = mark
        self.running: list[subprocess.Popen[bytes]] = []

    def run(self, *argv: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*COMMAND, *argv],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def read(self, *argv: str) -> tuple[Any, str]:
        """The JSON document of a run that has gone well, and what was said meanwhile."""
        code, out, err = self.run(*argv, "--json")
        assert code == 0, err
        return json.loads(out), err

    async def begin(self, measurement: str, number: int = 0) -> subprocess.Popen[bytes]:
        """A long run that is in the middle of that measurement; what it says is in `said(number)`."""
        with (self.folder / f"said{number}").open("wb") as out:
            argv = [*COMMAND, *LONG, f"--only={measurement}"]
            process = subprocess.Popen(argv, cwd=self.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.running.append(process)
        await eventually(lambda: "measuring: " in self.said(number) or process.poll() is not None)
        if measurement in ("start-latency", "drain-sync"):
            await eventually(lambda: len(marked_processes(self.mark)) > 2 or process.poll() is not None)  # engine, worker
        assert process.poll() is None, self.said(number)
        return process

    def said(self, number: int = 0) -> str:
        return (self.folder / f"said{number}").read_text()

    async def tables(self) -> Sequence[str]:
        """All tables of the database; on SQLite also all files beside the user's, as the runs' tables are there."""
        store = make_backend(self.url)
        await store.open()
        try:
            found = list(await store.table_names(""))
        finally:
            await store.close()
        return found + [path.name for path in self.folder.glob("*sidequest_bench*")]

    async def runs(self) -> set[str]:
        """The runs of which there is anything."""
        return {found[0] for table in await self.tables() if (found := RUN.search(table))}

    async def jobs(self) -> Sequence[JobRecord]:
        store = make_backend(self.url)
        await store.open()
        try:
            return await store.list_jobs(JobFilter(), 100)
        finally:
            await store.close()


@pytest.fixture
async def bench(
    url: str, tmp_path: Path, mark: str, nothing_left_behind: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    for name in [name for name in os.environ if name.startswith("SIDEQUEST_") and name not in KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SIDEQUEST_URL", url)
    store = make_backend(url)
    await store.open()
    await store.migrate()
    await store.insert([NewJob("shop:pay", '{"args":[1]}'), NewJob("shop:send", queue="mail")], QueueRecord("*"))
    await store.close()
    bench = Bench(tmp_path, url, mark)
    jobs, tables = await bench.jobs(), await bench.tables()
    yield bench
    for process in bench.running:
        if process.poll() is None:
            process.kill()
        process.wait(10)
    assert await bench.jobs() == jobs
    assert await bench.tables() == tables


async def ended(process: subprocess.Popen[bytes], within: float = 30.0) -> int:
    await eventually(lambda: process.poll() is not None, within=within)
    assert process.returncode is not None
    return process.returncode


async def test_everything_is_measured_and_nothing_is_left(bench: Bench, database: str) -> None:
    report, err = bench.read(*TINY)
    assert list(report["measured"]) == list(TITLES)
    for name, figures in report["measured"].items():
        assert all(value > 0 or name == "start-latency" for value in figures.values()), (name, figures)
    for spread in ("round-trip", "enqueue", "enqueue-32", "start-latency"):
        assert report["measured"][spread]["p50_ms"] <= report["measured"][spread]["p99_ms"]
    for bounded in ("enqueue", "enqueue-many", "start-latency"):
        assert report["measured"][bounded]["count"] <= 60
    for drained in ("drain-async", "drain-sync"):
        assert report["measured"][drained]["count"] == 61  # and the one that tells when the others have ended
    assert report["measured"]["start-up"]["ready_ms"] < report["measured"]["start-up"]["first_job_ms"]
    assert report["database"]["version"]
    assert (report["settings"]["max_concurrent_jobs"], report["asked"]["jobs"]) == (100, 60)
    assert report["removed"] == []
    assert ("fsync=off" in " ".join(report["remarks"])) == (database == "postgres")  # as these tests start it
    assert "your own tables and jobs are neither read nor changed" in err


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("database", ["sqlite"])
async def test_people_get_a_table(bench: Bench) -> None:
    code, out, err = bench.run(*TINY, "--only=round-trip", "--only=drain-async")
    assert code == 0
    versions, database, _, head, *rows = out.splitlines()
    assert versions.startswith("sidequest 0.")
    assert re.match(r"sqlite 3\.\d+\.\d+: journal_mode=wal, synchronous=full", database)
    assert head.split() == ["MEASURED", "MEDIAN", "99", "%", "PER", "SECOND"]
    assert re.match(r"round trip to the server +\d+\.\d\d ms +\d", rows[0])
    assert re.match(r"run async jobs that do nothing +[\d,]+$", rows[1])
    assert [line for line in err.splitlines() if "measuring" in line] == [
        "sidequest: measuring: round trip to the server", "sidequest: measuring: run async jobs that do nothing",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("measurement", ["enqueue-32", "start-latency"])
async def test_a_signal_in_the_middle_leaves_nothing(bench: Bench, measurement: str, number: signal.Signals) -> None:
    process = await bench.begin(measurement)
    assert len(await bench.runs()) == 1
    process.send_signal(number)
    assert await ended(process) == 128 + number
    assert "Traceback" not in bench.said()
    assert bench.said().splitlines()[-1] == "sidequest: stopped; nothing is left in the database"
    assert await bench.runs() == set()


@pytest.mark.parametrize("measurement", ["enqueue", "start-latency"])
async def test_what_a_killed_run_has_left_is_removed_by_the_next_one(bench: Bench, measurement: str) -> None:
    process = await bench.begin(measurement)
    process.kill()
    await ended(process)
    await eventually(lambda: not marked_processes(bench.mark))  # its engine hears of it, and ends
    (left,) = await bench.runs()
    report, err = bench.read(*TINY, "--only=round-trip")
    assert report["removed"] == [left]
    assert "removed what a run that was killed had left" in err
    assert left in err
    assert await bench.runs() == set()


async def test_tables_that_only_look_like_a_runs_are_left_alone(bench: Bench, database: str) -> None:
    lookalikes = ("sidequest_bench_", "sidequest_bench_991399999999_0a1b2c_", "sidequest_bench_201123123059_0a1b2c_")
    *strangers, old_run = [
        make_backend(f"{bench.url}{'&' if '?' in bench.url else '?'}prefix={prefix}") for prefix in lookalikes
    ]
    for store in (*strangers, old_run):
        await store.open()
        await store.migrate()
    try:
        before = await bench.tables()
        report, _ = bench.read(*TINY, "--only=round-trip")
        # on SQLite a run has a file, and no table of the user's file is ever looked at
        assert report["removed"] == ([] if database == "sqlite" else ["sidequest_bench_201123123059_0a1b2c"])
        gone = () if database == "sqlite" else lookalikes[2:]
        assert await bench.tables() == [table for table in before if not table.startswith(gone)]
    finally:
        for store in (*strangers, old_run):
            await store.drop_tables()
            await store.close()


async def test_a_run_leaves_another_one_alone(bench: Bench) -> None:
    process = await bench.begin("enqueue")
    (others,) = await bench.runs()
    report, err = bench.read(*TINY, "--only=enqueue")
    assert report["removed"] == []
    assert "another run is under way" in err
    assert await bench.runs() == {others}
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert await ended(process) == 130


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("database", ["sqlite"])
async def test_what_the_environment_says_of_queues_and_modules_is_for_the_app_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDEQUEST_QUEUES", "mail")
    monkeypatch.setenv("SIDEQUEST_MODULES", "mine")
    (bench.folder / "mine.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    monkeypatch.setenv("SIDEQUEST_MAX_WORKERS", "1")
    report, _ = bench.read(*TINY, "--only=drain-sync")
    assert report["measured"]["drain-sync"]["count"] == 61
    assert report["settings"]["max_workers"] == 1
    assert not (bench.folder / "imported").exists()


@pytest.mark.parametrize("database", ["sqlite", "postgres", "mysql", "mongodb"])
async def test_a_database_that_cannot_be_used_is_exit_1_and_says_so(bench: Bench, database: str) -> None:
    urls = {
        "sqlite": f"sqlite:///{bench.folder}/no/such/jobs.db",
        "postgres": "postgresql://nobody:s3cret@127.0.0.1:1/nowhere?connect_timeout=1",
        "mysql": "mysql://nobody:s3cret@127.0.0.1:1/nowhere?connect_timeout=1",
        "mongodb": "mongodb://nobody:s3cret@127.0.0.1:1/nowhere?connect_timeout=1",
    }
    code, out, err = bench.run(*TINY, "--url", urls[database])
    assert (code, out) == (1, "")
    *_, last = err.splitlines()
    assert last.startswith("sidequest: ")
    assert ("no/such does not exist" if database == "sqlite" else "127.0.0.1:1") in last
    assert "s3cret" not in err


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 0)])
async def test_somebody_at_a_terminal_is_asked_first(bench: Bench, answer: bytes, code: int) -> None:
    ours, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *TINY, "--only=round-trip"], cwd=bench.folder, stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL
        )
        bench.running.append(process)
        said = b""
        while b"go on? [Y/n]" not in said:
            said += os.read(ours, 1000)
        assert await bench.runs() == set()
        os.write(ours, answer)
        assert await ended(process) == code
    finally:
        os.close(ours)
        os.close(terminal)
