"""Waking engines of this host: who hears it, what is refused, and what is cleaned away."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidequest.wire import wake_socket
from sidequest.wire.runtime_directory import places
from sidequest.wire.wake_socket import FULL, LocalEngines, LookFor, WakeSocket

SHOP = "sqlite|/srv/shop.db|sidequest_"
WORK, CANCELS = frozenset({LookFor.WORK}), frozenset({LookFor.CANCELS})
NOBODY = 65_534
"""A user who is not us."""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a short name: a socket's path must not be long."""
    with tempfile.TemporaryDirectory(prefix="sq") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", f"{folder}/nowhere")
        yield Path(folder)


@pytest.fixture
def engine(runtime: Path) -> Iterator[WakeSocket]:
    made = WakeSocket(SHOP, "engine-1")
    yield made
    made.close()


def aged(path: Path) -> Path:
    os.utime(path, (0, 0), follow_symlinks=False)
    return path


def dead_socket(path: Path) -> Path:
    """What an engine leaves behind when it is killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
    return aged(path)


# Calling


@pytest.mark.parametrize("call", LookFor)
def test_a_call_is_heard_once(engine: WakeSocket, call: LookFor) -> None:
    LocalEngines(SHOP).wake(call)
    assert (engine.heard(), engine.heard()) == ({call}, frozenset())


def test_a_burst_is_heard_as_one_call(engine: WakeSocket) -> None:
    others = LocalEngines(SHOP)
    for call in (LookFor.WORK, LookFor.CANCELS, LookFor.WORK):
        others.wake(call)
    assert (engine.heard(), engine.heard()) == (set(LookFor), frozenset())


def test_every_engine_of_the_database_hears_it_and_no_other(engine: WakeSocket) -> None:
    second, stranger = WakeSocket(SHOP, "engine-2"), WakeSocket(SHOP + "other_", "engine-3")
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert (engine.heard(), second.heard(), stranger.heard()) == (WORK, WORK, frozenset())
    second.close()
    stranger.close()


def test_an_engine_can_be_left_out(engine: WakeSocket) -> None:
    second = WakeSocket(SHOP, "engine-2")
    LocalEngines(SHOP).wake(LookFor.WORK, but="engine-1")
    assert (engine.heard(), second.heard()) == (frozenset(), WORK)
    second.close()


def test_calling_an_engine_that_does_not_read_neither_waits_nor_fails(engine: WakeSocket) -> None:
    others = LocalEngines(SHOP)
    for _ in range(10_000):
        others.wake(LookFor.WORK)
    others.wake(LookFor.CANCELS)
    assert engine.heard() == set(LookFor), "a call may have been turned away: everything is looked for"
    assert engine.heard() == frozenset()


def test_what_is_no_call_is_not_heard(engine: WakeSocket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for nonsense in (b"", b"x", b"work", b"w" * 2_000, b"\0"):
            sender.sendto(nonsense, str(engine.path))
    assert engine.heard() == frozenset()


def test_whoever_sends_without_end_does_not_keep_the_engine(engine: WakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def recv(self, size: int) -> bytes:
            return b"w"

    ours = engine._socket
    monkeypatch.setattr(engine, "_socket", Endless())
    assert engine.heard() == set(LookFor)
    monkeypatch.setattr(engine, "_socket", ours)


def test_without_engines_a_call_goes_nowhere(runtime: Path) -> None:
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert list(runtime.iterdir()) == [], "who only calls makes no directory"


def test_an_engine_that_has_started_since_is_found_a_moment_later(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(wake_socket, "monotonic", lambda: now)
    others = LocalEngines(SHOP)
    others.wake(LookFor.WORK)
    late = WakeSocket(SHOP, "engine-1")
    others.wake(LookFor.WORK)
    before, now = late.heard(), now + 2 * wake_socket.LISTED_FOR
    others.wake(LookFor.WORK)
    assert (before, late.heard()) == (frozenset(), WORK)
    late.close()


def test_a_call_without_any_descriptor_left_is_dropped(engine: WakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(wake_socket.socket, "socket", refuse)
    LocalEngines(SHOP).wake(LookFor.WORK)


# Where, and who may enter


def test_nobody_else_can_enter(engine: WakeSocket, runtime: Path) -> None:
    assert engine.path.parent == runtime / "sidequest"
    assert stat.S_IMODE(engine.path.parent.stat().st_mode) == 0o700


def test_the_name_of_the_database_is_not_readable_in_the_sockets(engine: WakeSocket) -> None:
    assert "shop" not in engine.path.name


def test_a_database_may_be_named_in_any_bytes(runtime: Path) -> None:
    made = WakeSocket("sqlite|/srv/\udcff\u20ac.db|", "engine-1")
    LocalEngines("sqlite|/srv/\udcff\u20ac.db|").wake(LookFor.WORK)
    assert made.heard() == WORK
    made.close()


def test_a_path_has_room_for_a_directory_of_its_own(engine: WakeSocket) -> None:
    longest = WakeSocket(SHOP, "f" * 32)
    assert len(longest.path.name) <= 33
    longest.close()


@pytest.mark.parametrize("given", [None, "", "relative/path", "/nowhere/at/all"])
def test_without_a_runtime_directory_it_is_one_for_temporary_files(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    monkeypatch.delenv("XDG_RUNTIME_DIR") if given is None else monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    assert places()[-1] == runtime / f"sidequest-{os.geteuid()}"
    assert places()[0] in {places()[-1], Path(f"/run/user/{os.geteuid()}/sidequest")}


def test_callers_look_in_both_places(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has no runtime directory, a login shell has: they meet all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    service = WakeSocket(SHOP, "engine-1")
    (runtime / "shell").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "shell"))
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert service.heard() == WORK
    service.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things to another user")
def test_the_runtime_directory_of_another_user_is_not_ours(runtime: Path) -> None:
    os.chown(runtime, NOBODY, NOBODY)
    assert runtime / "sidequest" not in places()


def a_link(place: Path) -> None:
    (place.parent / "real").mkdir(mode=0o700)
    place.symlink_to(place.parent / "real")


def a_file(place: Path) -> None:
    place.touch()


def open_to_the_group(place: Path) -> None:
    place.mkdir()
    place.chmod(0o770)


def open_to_all(place: Path) -> None:
    place.mkdir()
    place.chmod(0o701)


def somebody_elses(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give things to another user")
    place.mkdir(mode=0o700)
    os.chown(place, NOBODY, NOBODY)


@pytest.mark.parametrize("trap", [a_link, a_file, open_to_the_group, open_to_all, somebody_elses])
def test_an_unsafe_directory_is_refused_by_both_sides(runtime: Path, monkeypatch: pytest.MonkeyPatch, trap: object) -> None:
    assert callable(trap)
    trap(runtime / "sidequest")
    with pytest.raises(OSError, match=r"sidequest: it (is not a directory|belongs to another user|is open to others \(mode 7)"):
        WakeSocket(SHOP, "engine-1")
    monkeypatch.setattr(wake_socket, "_send", lambda *_: pytest.fail("called somebody in an unsafe directory"))
    if (runtime / "sidequest").is_dir():
        dead_socket(runtime / "sidequest" / f"{wake_socket._prefix(SHOP)}engine-1")
    LocalEngines(SHOP).wake(LookFor.WORK)


def test_an_unsafe_place_is_left_for_the_next_one(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    a_link(runtime / "sidequest")
    made = WakeSocket(SHOP, "engine-1")
    assert made.path.parent == runtime / f"sidequest-{os.geteuid()}"
    made.close()


def test_a_path_that_is_too_long_is_refused_with_the_reason(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = runtime / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        WakeSocket(SHOP, "engine-1")


def test_a_refused_socket_leaves_no_descriptor(runtime: Path) -> None:
    a_file(runtime / "sidequest")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="not a directory"):
        WakeSocket(SHOP, "engine-1")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


# Cleaning up


def test_closing_leaves_nothing(runtime: Path) -> None:
    made = WakeSocket(SHOP, "engine-1")
    made.close()
    made.close()
    assert list((runtime / "sidequest").iterdir()) == []


def test_the_file_of_a_killed_engine_is_removed_by_the_next_caller(engine: WakeSocket) -> None:
    dead = dead_socket(engine.path.with_name(f"{wake_socket._prefix(SHOP)}killed"))
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert (dead.exists(), engine.heard()) == (False, WORK)


def test_the_files_of_killed_engines_of_all_databases_are_removed_by_the_next_engine(engine: WakeSocket) -> None:
    dead = [dead_socket(engine.path.with_name(f"{n}.killed")) for n in range(3)]
    WakeSocket(SHOP, "engine-2").close()
    assert (sum(path.exists() for path in dead), engine.in_place) == (0, True)


def test_a_socket_that_is_just_being_bound_is_not_taken_for_a_dead_one(engine: WakeSocket) -> None:
    young = dead_socket(engine.path.with_name(f"{wake_socket._prefix(SHOP)}young"))
    young.touch()
    LocalEngines(SHOP).wake(LookFor.WORK)
    WakeSocket(SHOP, "engine-2").close()
    assert young.exists()


def test_an_engine_notices_that_its_file_was_removed(engine: WakeSocket) -> None:
    before = engine.in_place
    engine.path.unlink()
    assert (before, engine.in_place) == (True, False)


def test_a_killed_process_wakes_nobody_and_is_swept(runtime: Path) -> None:
    code = f"from sidequest.wire.wake_socket import WakeSocket; s = WakeSocket({SHOP!r}, 'doomed'); print(s.path); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        process.kill()
    assert path.exists()
    aged(path)
    LocalEngines(SHOP).wake(LookFor.WORK)
    assert not path.exists()


def test_the_shortest_queue_of_linux_is_known() -> None:
    """A full socket must be recognised as one, or calls that were turned away are not made up for."""
    limit = Path("/proc/sys/net/unix/max_dgram_qlen")
    if not limit.exists():
        pytest.skip("not Linux")
    assert int(limit.read_text()) >= FULL
