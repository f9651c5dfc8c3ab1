"""The lock that elects: one holder on a host, and in a process; gone with its process; kept from no child."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidequest.app import host_lock
from sidequest.app.host_lock import HostLock, app_key
from sidequest.config import Settings

HOLD = """
import sys
from sidequest.app.host_lock import HostLock
lock = HostLock("shop")
print(lock.take(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        for lock in list(host_lock._taken.values()):
            lock.release()


@pytest.fixture
def holder(runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def held(lock: HostLock) -> bool:
    return lock in host_lock._taken.values()


def files(runtime: Path) -> list[str]:
    return [path.name for path in runtime.glob("sidequest/*")]


def taken_in_a_fork(lock: HostLock) -> bool:
    """What a forked child gets when it tries."""
    child = os.fork()
    if child == 0:
        os._exit(10 + lock.take())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


def test_one_of_two_in_a_process_holds_it(runtime: Path) -> None:
    one, two = HostLock("shop"), HostLock("shop")
    assert (one.take(), two.take(), one.take(), held(one), held(two)) == (True, False, True, True, False)
    two.release()
    assert two.take() is False
    one.release()
    assert (two.take(), one.take()) == (True, False)


def test_other_keys_have_other_locks(runtime: Path) -> None:
    assert HostLock("shop").take()
    assert HostLock("bank").take()


def test_what_another_process_holds_cannot_be_taken_until_it_ends(holder: subprocess.Popen[str]) -> None:
    lock = HostLock("shop")
    assert lock.take() is False
    holder.kill()
    holder.wait()
    assert lock.take() is True


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(runtime: Path) -> None:
    lock = HostLock("shop")
    lock.take()
    assert len(files(runtime)) == 1
    lock.release()
    lock.release()
    assert files(runtime) == []
    assert lock.take()


def test_a_try_that_fails_takes_nothing_from_the_holder(holder: subprocess.Popen[str]) -> None:
    for _ in range(3):
        assert HostLock("shop").take() is False
        assert HostLock("shop").read() == {}


def test_a_forked_child_does_not_hold_it_and_takes_nothing_from_its_parent(runtime: Path) -> None:
    lock = HostLock("shop")
    lock.take()
    assert taken_in_a_fork(lock) is False
    assert taken_in_a_fork(HostLock("shop")) is False
    assert held(lock)
    lock.release()
    assert taken_in_a_fork(lock) is True


def test_a_file_that_its_last_holder_removes_meanwhile_is_not_taken_for_the_lock(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = host_lock._is
    asked: list[Path] = []

    def removed_the_first_time(path: Path, file: int) -> bool:
        if not asked:
            path.unlink()
        asked.append(path)
        return real(path, file)

    monkeypatch.setattr(host_lock, "_is", removed_the_first_time)
    lock = HostLock("shop")
    assert lock.take() is True
    assert len(asked) == 2
    assert files(runtime) == [asked[0].name]


def test_a_lock_whose_file_was_cleaned_up_is_made_again(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = HostLock("shop")
    lock.take()
    lock.write({"pid": 1})
    for path in runtime.glob("sidequest/*"):
        path.unlink()
    lock.renew()
    assert files(runtime) == [], "it was renewed a moment ago"
    monkeypatch.setattr(host_lock, "RENEW_AFTER", 0)
    lock.renew()
    assert held(lock)
    assert len(files(runtime)) == 1
    assert HostLock("shop").read() == {"pid": 1}
    assert taken_in_a_fork(HostLock("shop")) is False


def test_a_renewed_file_is_young(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_lock, "RENEW_AFTER", 0)
    lock = HostLock("shop")
    lock.take()
    [path] = runtime.glob("sidequest/*")
    os.utime(path, (0, 0))
    lock.renew()
    assert path.stat().st_mtime > 0


def test_the_holders_note_is_read_by_others(runtime: Path) -> None:
    lock = HostLock("shop")
    assert lock.read() == {}
    lock.take()
    lock.write({"pid": 12_345_678})
    lock.write({"pid": 7})
    assert HostLock("shop").read() == {"pid": 7}
    assert held(lock)


def test_no_place_for_it_is_an_error_that_says_why(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    for name in ("sidequest", f"sidequest-{os.geteuid()}"):
        (runtime / name).touch()
    with pytest.raises(OSError, match="not a directory"):
        HostLock("shop").take()
    assert HostLock("shop").read() == {}


def test_threads_agree_on_one_holder(runtime: Path) -> None:
    locks = [HostLock("shop") for _ in range(20)]
    threads = [threading.Thread(target=lock.take) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held(lock) for lock in locks) == 1


# What is one app


def key(url: str = "sqlite:////srv/shop.db", **settings: object) -> str:
    return app_key(Settings.collect(url, settings, {}))


def test_two_processes_of_one_command_are_one_app() -> None:
    assert key(max_workers=2) == key(max_workers=2)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("command line", lambda patch, folder: patch.setattr(sys, "argv", [*sys.argv, "--other"])),
        ("interpreter", lambda patch, folder: patch.setattr(sys, "executable", "/opt/python")),
        ("working directory", lambda patch, folder: patch.chdir(folder)),
    ],
)
def test_another_process_environment_is_another_app(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, change: object
) -> None:
    before = key()
    change(monkeypatch, tmp_path)
    assert key() != before, what


def test_other_settings_or_tables_are_another_app() -> None:
    keys = [
        key(),
        key(max_workers=2),
        key(queues=["mail"]),
        key("sqlite:////srv/bank.db"),
        key("sqlite:////srv/shop.db?prefix=x_"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_working_directory_that_is_gone_has_a_key_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert key()
