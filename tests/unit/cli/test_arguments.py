"""Arguments are judged before anything is opened; what is wrong is one line that names the argument."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidequest.cli import arguments, connection, engine
from sidequest.cli.failures import Failed, WrongUse, one_line
from sidequest.cli.main import main, parser

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDEQUEST_URL", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])  # `engine` puts the working directory on it


WRONG = [
    ([], "COMMAND"),
    (["jobs"], "COMMAND"),
    (["no-such"], "no-such"),
    (["jobs", "show"], "ID"),
    (["jobs", "show", "x"], "argument ID: id must be an integer, not 'x'"),
    (["jobs", "show", "0"], "argument ID: id must be between 1 and"),
    (["jobs", "show", str(2**63)], "argument ID: id must be between 1 and"),
    (["jobs", "show", "1_0"], "argument ID: id must be an integer"),
    (["jobs", "show", "\uff11"], "argument ID: id must be an integer"),
    (["jobs", "cancel"], "ID"),
    (["jobs", "cancel", "1", "two"], "argument ID"),
    (["jobs", "snooze", "1", "soon"], "argument SECONDS: SECONDS must be a number of seconds, not 'soon'"),
    (["jobs", "snooze", "1", "nan"], "argument SECONDS"),
    (["jobs", "snooze", "1", "inf"], "argument SECONDS"),
    (["jobs", "snooze", "1", "-5"], "argument SECONDS"),
    (["jobs", "list", "--state", "done"], "argument --state: invalid choice: 'done'"),
    (["jobs", "list", "--queue", "a b"], "argument --queue: queue must be 1 to 100 letters"),
    (["jobs", "list", "--queue", ""], "argument --queue"),
    (["jobs", "list", "--name", "x" * 201], "argument --name"),
    (["jobs", "list", "--tag", "日本"], "argument --tag"),
    (["jobs", "list", "--text", ""], "argument --text: text must not be empty"),
    (["jobs", "list", "--limit", "0"], "argument --limit: limit must be between 1 and 1000, not 0"),
    (["jobs", "list", "--limit", "1001"], "argument --limit"),
    (["jobs", "list", "--limit", "1.5"], "argument --limit"),
    (["jobs", "list", "--before", "-1"], "argument --before"),
    (["jobs", "list", "--since", "yesterday"], "argument --since: since must be an ISO 8601 time"),
    (["jobs", "list", "--since", "2026-11-23"], "since must carry an offset, as in 2026-11-23T00:00:00Z"),
    (["jobs", "list", "--until", "0001-01-01T00:00:00Z"], "argument --until"),
    (["jobs", "list", "--since", "999999999d"], "argument --since"),
    (["jobs", "list", "--sta", "failed"], "--sta"),
    (["jobs", "count", "--text", "x"], "--text"),
    (["jobs", "enqueue"], "NAME"),
    (["jobs", "enqueue", "a b"], "argument NAME"),
    (["jobs", "enqueue", "x", "{"], "ARGUMENTS must be JSON"),
    (["jobs", "enqueue", "x", "3"], "ARGUMENTS must be a JSON object"),
    (["jobs", "enqueue", "x", '{"a": Infinity}'], "ARGUMENTS must be JSON: Infinity is not JSON"),
    (["jobs", "enqueue", "x", "[" * 100_000], "ARGUMENTS must not be nested that deep"),
    (["jobs", "enqueue", "x", "[1" + "0" * 5_000 + "]"], "ARGUMENTS must be JSON"),
    (["jobs", "enqueue", "x", '["\\ud800"]'], "arguments of x cannot be stored: $.args[0] contains a lone surrogate"),
    (["jobs", "enqueue", "x", '["\\u0000"]'], "arguments of x cannot be stored: $.args[0] contains a NUL"),
    (["jobs", "enqueue", "x", f'["{"x" * 1_100_000}"]'], "the limit is 1,048,576"),
    (["jobs", "enqueue", "x", "--delay", "-1"], "argument --delay"),
    (["jobs", "enqueue", "x", "--priority", str(2**31)], "argument --priority"),
    (["jobs", "enqueue", "x", "--tag", ""], "argument --tag"),
    (["queues", "set", "mail", "--concurrency", "0"], "argument --concurrency"),
    (["queues", "set", "mail", "--priority", "high"], "argument --priority"),
    (["queues", "create"], "NAME"),
    (["queues", "create", "a/b"], "argument NAME"),
    (["migrate"], "COMMAND"),
    (["migrate", "down"], "down"),
    (["engine"], "MODULE"),
    (["engine", "no_such_module"], "MODULE: there is no module 'no_such_module'"),
    (["engine", "no_such.module"], "MODULE: no_such.module cannot be imported"),
    (["engine", "a-b"], "modules: 'a-b' is no module name"),
    (["engine", ""], "modules"),
    (["engine", "json", "--queues", "a b"], "queues: 'a b' is no queue name"),
    (["engine", "json", "--max-workers", "0"], "argument --max-workers"),
    (["engine", "json", "--max-concurrent-jobs", "x"], "argument --max-concurrent-jobs"),
    (["engine", "json", "--log-level", "loud"], "argument --log-level"),
    (["jobs", "list", "--url", "jobs.db"], "url must look like sqlite:///file.db"),
    (["jobs", "list", "--url", ""], "url must look like"),
    (["migrate", "sql", "--url", "oracle://x/y"], "url: oracle:// is not supported"),
    (["migrate", "up", "--url", "sqlite:///x.db?mode=ro"], "url: 'mode' is not an option"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[" ".join(argv)[:60] or "nothing" for argv, _ in WRONG])
def test_wrong_use_is_exit_2_and_one_line_that_names_the_argument(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _code(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sidequest: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


SECRETS = [
    ["jobs", "list", "--url", "sqlserver://ann:s3cret@host/db"],
    ["jobs", "list", "--url", "postgresql://ann:s3cret@host/db?sslmod=require"],
    ["jobs", "list", "--url", "postgresql://ann:s3cret@host/db?schema=x&schema=y"],
    ["jobs", "list", "--url", "ann:s3cret@host/db"],
    ["jobs", "list", "--url", "postgresql://ann:s3cret@[host/db"],
    ["jobs", "list", "--url", "postgresql://ann:s3cret@host:99999999/db#x"],
    ["jobs", "list", "--ulr", "postgresql://ann:s3cret@host/db"],
    ["jobs", "show", "postgresql://ann:s3cret@host/db"],
]


@pytest.mark.parametrize("argv", SECRETS, ids=" ".join)
def test_a_password_in_a_url_is_never_printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _code(argv) == 2
    out, err = capsys.readouterr()
    assert "s3cret" not in out + err


READING = [
    ["jobs", "list"],
    ["jobs", "count"],
    ["jobs", "show", "1"],
    ["jobs", "cancel", "1"],
    ["queues", "list"],
    ["queues", "create", "mail"],
    ["migrate", "status"],
]


@pytest.mark.parametrize("argv", READING, ids=" ".join)
def test_a_database_that_does_not_exist_is_not_created(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _code([*argv, "--json"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "sidequest: there is no database at sidequest.db; create it with: sidequest migrate up\n")
    assert list(tmp_path.iterdir()) == []


def test_the_url_is_the_argument_else_the_environment_else_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.url_of(parser().parse_args(["jobs", "list"])) == "sqlite:///sidequest.db"
    monkeypatch.setenv("SIDEQUEST_URL", "sqlite:///other.db")
    assert connection.url_of(parser().parse_args(["jobs", "list"])) == "sqlite:///other.db"
    assert connection.url_of(parser().parse_args(["jobs", "list", "--url", "sqlite:///x.db"])) == "sqlite:///x.db"


def test_a_wrong_setting_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEQUEST_MAX_WORKERS", "many")
    with pytest.raises(WrongUse, match="SIDEQUEST_MAX_WORKERS must be a number"):
        connection.make("sqlite:///x.db", engine="off")


def test_only_files_can_be_missing(tmp_path: Path) -> None:
    assert connection.missing(f"sqlite:///{tmp_path}/x.db")
    assert not connection.missing(f"sqlite:///{tmp_path}")
    assert not connection.missing("postgresql://host/db")
    with pytest.raises(Failed, match="there is no database at"):
        connection.refuse_missing(f"sqlite:///{tmp_path}/x.db")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T09:00:00+00:00", datetime(2026, 11, 23, 9, tzinfo=UTC)),
        ("2026-11-23T09:00:00Z", datetime(2026, 11, 23, 9, tzinfo=UTC)),
        ("2026-11-23 09:00+02:00", datetime(2026, 11, 23, 7, tzinfo=UTC)),
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
    ],
)
def test_an_instant_is_iso_8601_or_an_age(text: str, moment: datetime) -> None:
    assert arguments.instant("since", lambda: NOW)(text) == moment


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[]", ([], {})),
        ('[1, "two", null]', ([1, "two", None], {})),
        ("{}", ([], {})),
        ('{"to": "a@b.c", "$type": {"n": 1.5}}', ([], {"to": "a@b.c", "$type": {"n": 1.5}})),
    ],
)
def test_an_array_is_positional_arguments_and_an_object_keyword_arguments(text: str, read: arguments.Arguments) -> None:
    assert arguments.job_arguments(text) == read


def test_only_what_was_given_is_set_on_the_engine() -> None:
    bare = parser().parse_args(["engine", "json"])
    assert engine._settings(bare) == {}
    full = parser().parse_args(
        ["engine", "json", "--queues=mail, img*,-img.slow", "--max-workers=2", "--max-concurrent-jobs=9", "--log-level=info",
         "--no-migrate"]
    )  # fmt: skip
    assert engine._settings(full) == {
        "queues": ["mail", "img*", "-img.slow"],
        "max_workers": 2,
        "max_concurrent_jobs": 9,
        "log_level": "INFO",
        "migrate": False,
    }


def test_a_file_given_as_module_is_told_apart_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shop.py").write_text("raise SystemExit('was imported')")
    with pytest.raises(WrongUse, match=r"'shop\.py' is a file; name the module: shop"):
        engine.refuse_unknown("shop.py")
    engine.refuse_unknown("shop")  # found, not imported


def test_a_package_that_breaks_on_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "brokenpackage").mkdir()
    (tmp_path / "brokenpackage" / "__init__.py").write_text("1 / 0")
    with pytest.raises(WrongUse, match=r"brokenpackage\.jobs cannot be imported: ZeroDivisionError"):
        engine.refuse_unknown("brokenpackage.jobs")


def test_an_error_is_its_first_line_cleaned() -> None:
    assert one_line("\nfirst\x1b[1m\nsecond") == "first\\x1b[1m"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("postgresql://ann:pw@host is away") == "postgresql://***@host is away"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["jobs", "--help"], ["jobs", "list", "--help"], ["engine", "--help"], ["queues", "set", "--help"]):
        assert _code(argv) == 0
        assert "usage: sidequest" in capsys.readouterr().out


def test_drivers_are_not_imported_before_they_are_needed() -> None:
    code = "import sys, sidequest.cli.main as m; m.parser(); sys.exit('aiosqlite' in sys.modules or 'sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def _code(argv: list[str]) -> int | str | None:
    try:
        return main(argv)
    except SystemExit as leaving:
        return leaving.code
