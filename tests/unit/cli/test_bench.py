"""`sidequest bench` without a database: arguments, names, arithmetic, and what is said about the figures."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidequest.cli import bench, bench_figures, bench_runs, bench_tables
from sidequest.cli.bench_figures import TITLES, percentile, rate, remarks, rounded, row, spread
from sidequest.cli.bench_tables import Beside, Prefixed, begun, ground, new_name
from sidequest.cli.failures import Failed, WrongUse
from sidequest.cli.main import main
from sidequest.config import DatabaseURL

NOON = datetime(2026, 11, 23, 12, 30, 59, tzinfo=UTC)
RUN = "sidequest_bench_261123123059_0a1b2c"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEQUEST_URL", raising=False)


# Arguments

WRONG = [
    (["--only", "everything"], "argument --only: invalid choice: 'everything'"),
    (["--jobs", "0"], "argument --jobs: jobs must be between 1 and 1000000, not 0"),
    (["--jobs", "1e3"], "argument --jobs: jobs must be an integer"),
    (["--seconds", "0"], "argument --seconds: seconds must be between 0.05 and 60, not '0'"),
    (["--seconds", "61"], "argument --seconds: seconds must be between 0.05 and 60"),
    (["--seconds", "nan"], "argument --seconds"),
    (["--seconds", "soon"], "argument --seconds: seconds must be a number of seconds, not 'soon'"),
    (["--url", "jobs.db"], "url must look like sqlite:///file.db"),
    (["--url", "sqlite:///x.db?mode=ro"], "url: 'mode' is not an option"),
    (["--url", f"sqlite:///x.db?prefix={RUN}_"], f"url: the prefix {RUN}_ is one of bench's own"),
    (["now"], "unrecognized arguments: now"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_use_is_exit_2_and_one_line_and_makes_nothing(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _code(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("sidequest: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_setting_of_the_environment_that_is_wrong_is_exit_2_before_anything_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIDEQUEST_MAX_WORKERS", "0")
    assert _code(["--only=round-trip"]) == 2
    assert capsys.readouterr().err == "sidequest: max_workers must be between 1 and 1000, not 0\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_going_to_happen_is_said_before() -> None:
    url = "postgresql://ann:s3cret@db/shop?schema=jobs"
    plan = bench.Plan(url, ground(url), RUN, ["round-trip", "enqueue"], 20_000, 3)
    assert plan.lines() == [
        f"bench works in postgresql://ann@db/shop?schema=jobs, in tables of its own ({RUN}_…), and removes what it made",
        "your own tables and jobs are neither read nor changed",
        "2 measurements of about 3 s and at most 20,000 jobs each keep the database busy meanwhile, and take up to 40 MB",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["\n", "y\n", "YES\n"])
def test_somebody_at_a_terminal_may_agree(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", said := Terminal())
    bench._ask()
    assert said.getvalue() == "sidequest: go on? [Y/n] "


@pytest.mark.parametrize("answer", ["", "n\n", "what?\n"])
def test_somebody_at_a_terminal_may_refuse_and_then_nothing_is_done(
    answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", said := Terminal())
    assert _code([]) == 1
    assert said.getvalue().endswith("go on? [Y/n] sidequest: nothing was done\n")
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for stdin, stderr in ((io.StringIO("n\n"), Terminal()), (Terminal("n\n"), io.StringIO()), (None, Terminal())):
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        bench._ask()
        assert stderr.getvalue() == ""


# Names


def test_a_run_is_named_for_the_moment_at_which_it_began() -> None:
    name = new_name(NOON.astimezone())
    assert name.startswith("sidequest_bench_261123123059_")
    assert begun(name) == NOON
    assert new_name(NOON) != new_name(NOON)
    DatabaseURL.parse(f"sqlite:///x.db?prefix={name}_")  # fits where a prefix must


@pytest.mark.parametrize(
    "name",
    ["sidequest_", "sidequest_bench_", "sidequest_bench_jobs", "sidequest", "", f"x{RUN}", f"{RUN}_", f"{RUN}\n",
     "sidequest_bench_261123123059_0A1B2C", "sidequest_bench_991399999999_0a1b2c"],
)  # fmt: skip
async def test_nothing_is_ever_removed_but_what_has_the_name_of_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    for where in (Beside(f"sqlite:///{tmp_path}/jobs.db"), Prefixed("postgresql://127.0.0.1:1/nowhere")):
        with pytest.raises(ValueError, match="is no name of a run"):
            await where.remove(name)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


@pytest.mark.parametrize(
    ("url", "of_run"),
    [
        ("postgresql://a:b@h/d", f"postgresql://a:b@h/d?prefix={RUN}_"),
        ("postgresql://h/d?schema=s&prefix=mine_&sslmode=require", f"postgresql://h/d?schema=s&sslmode=require&prefix={RUN}_"),
        ("mongodb://h/d?replicaSet=rs0", f"mongodb://h/d?replicaSet=rs0&prefix={RUN}_"),
        ("mysql://h/d?", f"mysql://h/d?prefix={RUN}_"),
        ("sqlite:///jobs.db", f"sqlite:///jobs.db.{RUN}"),
        ("sqlite:////srv/a%20b.db?synchronous=normal", f"sqlite:////srv/a%20b.db.{RUN}?synchronous=normal"),
    ],
)
def test_a_run_has_the_options_of_the_url_and_a_place_of_its_own(url: str, of_run: str) -> None:
    where = ground(url)
    assert where.url_of(RUN) == of_run
    mine, theirs = DatabaseURL.parse(url), DatabaseURL.parse(of_run)
    assert mine.identity != theirs.identity
    assert dict(mine.options) == dict(theirs.options)


def test_tables_of_a_run_are_nobodys_own() -> None:
    with pytest.raises(WrongUse, match="its tables would be dropped"):
        ground(f"postgresql://h/d?prefix={RUN}_")
    ground("postgresql://h/d?prefix=sidequest_bench_")  # no run's, however much it looks like one


async def test_runs_are_found_by_their_files_and_nothing_else_is(tmp_path: Path) -> None:
    older = "sidequest_bench_251123123059_ffffff"
    files = [
        "jobs.db", "jobs.db-wal", f"jobs.db.{RUN}", f"jobs.db.{RUN}-wal", f"jobs.db.{older}-shm", f"other.db.{RUN[:-1]}d",
        "jobs.db.sidequest_bench_mine", f"jobs.db.{RUN}.bak", RUN, "jobs.db.sidequest_bench_991399999999_0a1b2c",
    ]  # fmt: skip
    for file in files:
        (tmp_path / file).touch()
    where = Beside(f"sqlite:///{tmp_path}/jobs.db")
    assert await where.names() == [older, RUN]
    await where.remove(RUN)
    await where.remove(older)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*files} - {f"jobs.db.{RUN}", f"jobs.db.{RUN}-wal", f"jobs.db.{older}-shm"}


# Arithmetic


def test_a_percentile_is_one_of_the_values() -> None:
    hundred = list(range(100, 0, -1))
    assert [percentile(hundred, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert [percentile([3.0], share) for share in (0.0, 0.5, 0.99)] == [3.0, 3.0, 3.0]
    assert percentile([1.0, 2.0], 0.99) == 2.0
    with pytest.raises(ValueError, match="nothing to rank"):
        percentile([], 0.5)


def test_seconds_become_milliseconds_and_counts_become_rates() -> None:
    assert spread([0.004, 0.001, 0.002]) == {"p50_ms": 2.0, "p99_ms": 4.0, "count": 3}
    assert rate(500, 0.25) == {"per_second": 2000.0, "count": 500, "seconds": 0.25}


def test_programs_get_four_digits_and_whole_counts() -> None:
    assert rounded({"p50_ms": 0.123456, "per_second": 123456.7, "count": 12345}) == {
        "p50_ms": 0.1235, "per_second": 123500.0, "count": 12345,
    }  # fmt: skip


def test_a_row_has_what_was_measured() -> None:
    assert row("a", {"p50_ms": 0.123, "p99_ms": 12.34, "count": 9}) == ("a", "0.12 ms", "12 ms", "")
    assert row("b", {"per_second": 12345.6, "count": 9, "seconds": 1}) == ("b", "", "", "12,346")
    assert row("c", {"ready_ms": 98.7, "first_job_ms": 12_345, "count": 3}) == ("c", "99 ms", "", "first job after 12 s")
    assert len(row("d", {})) == len(bench_figures.HEAD)


# What the figures mean

SAFE = {"version": "15", "fsync": "on", "synchronous_commit": "on"}
FAST = {
    "round-trip": {"p50_ms": 0.1, "p99_ms": 0.3, "count": 1000},
    "enqueue": {"p50_ms": 0.4, "p99_ms": 1.5, "count": 1000, "per_second": 2500},
    "enqueue-many": {"per_second": 50_000, "count": 20_000, "seconds": 0.4},
    "start-latency": {"p50_ms": 1.3, "p99_ms": 4.0, "count": 300},
}
SLOW_DISK = FAST | {"enqueue": {"p50_ms": 8.1, "p99_ms": 12, "count": 300, "per_second": 120}}


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert remarks(FAST, SAFE) == []
    assert remarks({}, {}) == []
    assert remarks({"round-trip": FAST["round-trip"]}, SAFE) == []


def test_a_slow_commit_is_named_with_what_it_costs_and_who_shares_it() -> None:
    measured = SLOW_DISK | {"enqueue-32": {"p50_ms": 20, "p99_ms": 40, "count": 999, "per_second": 1600}}
    assert remarks(measured, SAFE) == [
        "A commit takes 7.98 ms here: the disk's fsync is what limits single enqueues; those who share one are not held up "
        "by it (32 clients at once reach 1,600 jobs/s, calls of enqueue_many reach 50,000 jobs/s)."
    ]


def test_the_disk_is_not_blamed_where_nobody_waits_for_it() -> None:
    unsafe, commit = remarks({"enqueue": SLOW_DISK["enqueue"]}, {"fsync": "off"})
    assert "does not wait for the disk here (fsync=off)" in unsafe
    assert commit == "A commit takes 8.10 ms here: the commit is what limits single enqueues."


def test_neither_the_way_nor_the_work_counts_as_commit() -> None:
    far = {"round-trip": {"p50_ms": 7.0, "p99_ms": 9, "count": 300}, "enqueue": SLOW_DISK["enqueue"]}
    (remark,) = remarks(far, SAFE)
    assert remark.startswith("A mere round trip to the server takes 7.00 ms")
    hard = SLOW_DISK | {"enqueue-many": {"per_second": 150, "count": 450, "seconds": 3}}
    assert remarks(hard, SAFE) == []


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"fsync": "off"}, "fsync=off"),
        ({"synchronous_commit": "off"}, "synchronous_commit=off"),
        ({"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit=2"),
        ({"synchronous": "normal", "journal_mode": "wal"}, "synchronous=normal"),
        ({"journal": "false", "replica_set": "rs0"}, "journal=false"),
    ],
)
def test_settings_that_may_lose_a_commit_are_named(facts: dict[str, str], named: str) -> None:
    (remark,) = remarks(FAST, facts)
    assert f"({named})" in remark


@pytest.mark.parametrize(
    "facts",
    [{"synchronous_commit": "remote_apply"}, {"synchronous": "extra"}, {"innodb_flush_log_at_trx_commit": "1"},
     {"journal": "true", "replica_set": "rs0"}],
)  # fmt: skip
def test_settings_that_lose_nothing_are_not_complained_about(facts: dict[str, str]) -> None:
    assert remarks(FAST, facts) == []


def test_a_server_without_transactions_is_named() -> None:
    (remark,) = remarks(FAST, {"replica_set": "none"})
    assert remark.startswith("This server is no replica set")


def test_a_slow_hundredth_is_named_when_there_are_enough_to_tell() -> None:
    uneven = {"p50_ms": 1.5, "p99_ms": 300.0, "count": 300}
    (remark,) = remarks({"start-latency": uneven}, SAFE)
    assert remark.startswith("One in a hundred starts takes 300 ms instead of 1.50 ms")
    assert remarks({"start-latency": uneven | {"count": 20}}, SAFE) == []
    assert remarks({"start-latency": uneven | {"p99_ms": 40.0}}, SAFE) == []


# Signals


async def test_the_first_signal_cancels_the_second_waits_and_the_third_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaning, cleaned = asyncio.Event(), asyncio.Event()
    left: list[int] = []
    gone = asyncio.Event()

    def leave(stoppable: bench._Stoppable) -> None:
        left.append(stoppable.exit_code)
        gone.set()

    async def work() -> bench.Report:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()
        raise AssertionError("it was cancelled")

    stoppable = bench._Stoppable()
    monkeypatch.setattr(bench._Stoppable, "_leave", leave)
    running = asyncio.create_task(stoppable.run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        signal.raise_signal(signal.SIGTERM)
        await cleaning.wait()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await gone.wait()
        assert not running.done()
        cleaned.set()
        assert await running is None
    assert left == [stoppable.exit_code] == [143]


async def test_what_goes_wrong_while_it_is_stopped_is_told() -> None:
    async def work() -> bench.Report:
        try:
            await asyncio.Event().wait()
        finally:
            raise Failed("the database has gone")

    stoppable = bench._Stoppable()
    running = asyncio.create_task(stoppable.run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Failed, match="the database has gone"):
        await asyncio.wait_for(running, 10)


# A failure in the middle; and whose run is over


def test_a_failure_in_the_middle_is_exit_1_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    async def fail(site: bench_runs.Site) -> bench_figures.Figures:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise Failed("no job has ended")

    monkeypatch.setitem(bench_runs.RUNS, "enqueue", fail)  # type: ignore[arg-type]
    assert _code(["--only=enqueue"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", "sidequest: no job has ended")
    assert any(name.startswith("sidequest.db.sidequest_bench_") for name in seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("age", "over"), [(timedelta(0), False), (bench_tables.SILENT, False), (bench_tables.SILENT + timedelta(minutes=1), True)]
)
async def test_a_run_of_another_host_is_over_when_it_has_not_beaten_for_long(age: timedelta, over: bool) -> None:
    from sidequest.backends.sqlite.backend import SqliteBackend
    from sidequest.clock import utc_now

    where = Beside("sqlite:///jobs.db")
    now = utc_now()
    name = new_name(now - timedelta(days=1))
    store = SqliteBackend(DatabaseURL.parse(where.url_of(name)), clock=lambda: now - age + timedelta(seconds=5))
    await store.open()
    await store.migrate()
    await store.register_engine(bench_tables.RUNNER, "elsewhere", 1, "0", "")
    await store.close()
    assert await where.is_over(name) is over
    await where.remove(name)


@pytest.mark.parametrize(("age", "over"), [(timedelta(minutes=1), False), (timedelta(minutes=11), True)])
async def test_a_run_that_was_killed_before_it_noted_itself_is_over_some_time_later(age: timedelta, over: bool) -> None:
    from sidequest.clock import utc_now

    where = Beside("sqlite:///jobs.db")
    name = new_name(utc_now() - age)
    Path(f"jobs.db.{name}").touch()
    assert await where.is_over(name) is over
    Path(f"jobs.db.{name}").write_text("no database, but long enough to be taken for one" * 100)
    assert await where.is_over(name) is over


# Which process imports what


def test_everything_that_has_a_title_can_be_measured() -> None:
    assert list(bench_runs.RUNS) == list(TITLES)


@pytest.mark.parametrize(
    ("imported", "kept_out"),
    [
        ("sidequest.cli.bench_jobs", ("sidequest.app", "sidequest.backends", "sidequest.cli.bench_runs", "argparse")),
        ("sidequest.cli.main", ("sidequest.cli.bench_jobs", "sidequest.cli.bench_runs")),
    ],
)  # fmt: skip
def test_workers_import_the_jobs_alone_and_other_commands_do_not_have_them(imported: str, kept_out: tuple[str, ...]) -> None:
    program = f"import sys, {imported}; print(*(m for m in {kept_out!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def _code(argv: list[str]) -> int:
    try:
        return main(["bench", *argv])
    except SystemExit as exit:
        return int(exit.code or 0)
