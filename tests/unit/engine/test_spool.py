"""Ends of jobs on disk: what survives, what is written later, what is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidequest.engine import spool as spools
from sidequest.engine.spool import BATCH, Spool, from_line, to_line
from sidequest.errors import BackendUnavailable
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change
from tests.unit.engine.fakes import FakeStore

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


def end(id: int = 1, **columns: object) -> Change:
    written = {"result": '"ä\n"', "finished_at": AT} | columns
    return Change(id, "lease-1", (State.CLAIMED, State.RUNNING), State.COMPLETED, written)


SPOILED: list[Callable[[bytes], bytes]] = [
    lambda line: line[:-1],
    lambda line: line[:-9] + b"\n",
    lambda line: line.replace(b"lease", b"leash"),
    lambda line: b"\n",
]


def spool(folder: Path, engine: str, identity: str = "sqlite|/jobs.db") -> Spool:
    return Spool(str(folder / "spool"), identity, engine)


def die(dead: Spool) -> Path:
    """Its process ends, and with it the lock on its file."""
    assert dead._file is not None
    os.close(dead._file)
    return dead._path


@pytest.mark.parametrize(
    "change", [end(), end(errors=None, attempt=3, isolated=True), Change(1, None, (State.WAITING,), None, {})]
)
def test_a_change_comes_back_from_its_line_as_it_was(change: Change) -> None:
    assert from_line(to_line(change)) == change


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_line_that_is_torn_or_damaged_is_refused(spoil) -> None:
    with pytest.raises(ValueError, match="checksum"):
        from_line(spoil(to_line(end(11))))


async def test_the_ends_of_a_dead_engine_are_written_and_its_file_is_removed(tmp_path: Path, caplog) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(1), end(2)])
    await dead.keep([end(3)])
    path = die(dead)
    store.refuse = frozenset({2})
    await spool(tmp_path, "new").replay(store.backend)
    assert (store.applied, list(path.parent.iterdir())) == ([[end(1), end(2), end(3)]], [])
    assert "wrote the ends of 3 jobs" in caplog.text
    assert "1 had been written before or belong to others" in caplog.text


async def test_many_ends_are_written_in_batches(tmp_path: Path) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(id) for id in range(BATCH + 1)])
    die(dead)
    await spool(tmp_path, "new").replay(store.backend)
    assert [len(batch) for batch in store.applied] == [BATCH, 1]


async def test_the_file_of_an_engine_that_lives_is_left_alone(tmp_path: Path) -> None:
    alive, store = spool(tmp_path, "alive"), FakeStore()
    await alive.keep([end(1)])
    await spool(tmp_path, "new").replay(store.backend)
    await alive.replay(store.backend)
    assert (store.applied, alive._path.exists()) == ([], True)


async def test_the_ends_of_jobs_in_another_database_are_left_alone(tmp_path: Path) -> None:
    dead, store = spool(tmp_path, "dead", "sqlite|/other.db"), FakeStore()
    await dead.keep([end(1)])
    path = die(dead)
    await spool(tmp_path, "new").replay(store.backend)
    assert (store.applied, path.exists()) == ([], True)


async def test_a_torn_last_line_is_told_and_the_others_are_written(tmp_path: Path, caplog) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(1), end(2)])
    path = die(dead)
    path.write_bytes(path.read_bytes()[:-5])
    await spool(tmp_path, "new").replay(store.backend)
    assert store.applied == [[end(1)]]
    assert "line 2 of" in caplog.text
    assert "cannot be used, its job will run again" in caplog.text


async def test_what_cannot_be_written_stays_and_is_written_by_the_next(tmp_path: Path) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(1)])
    die(dead)
    store.away = True
    with pytest.raises(BackendUnavailable):
        await spool(tmp_path, "new").replay(store.backend)
    store.away = False
    await spool(tmp_path, "newer").replay(store.backend)
    assert store.applied == [[end(1)]]


async def test_two_engines_that_start_together_both_return_when_all_is_written_and_it_is_written_once(tmp_path: Path) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(1)])
    die(dead)
    store.hold = asyncio.Event()
    both = [asyncio.ensure_future(spool(tmp_path, f"new-{n}").replay(store.backend)) for n in range(2)]
    while "apply" not in store.calls:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)
    done, _ = await asyncio.wait(both, timeout=0.3)
    store.hold.set()
    await asyncio.gather(*both)
    assert (done, store.applied) == (set(), [[end(1)]])


async def test_a_cleared_file_is_removed_and_made_again_when_there_is_something_to_keep(tmp_path: Path) -> None:
    own = spool(tmp_path, "own")
    await own.keep([end(1)])
    await own.clear()
    gone = not own._path.exists()
    await own.keep([end(2)])
    assert (gone, own._path.read_bytes()) == (True, to_line(end(2)))
    await own.clear()
    await own.clear()


async def test_nothing_is_made_before_there_is_something_to_keep(tmp_path: Path) -> None:
    await spool(tmp_path, "own").replay(FakeStore().backend)
    assert list(tmp_path.iterdir()) == []


async def test_only_its_owner_may_read_what_is_kept(tmp_path: Path) -> None:
    own = spool(tmp_path, "own")
    await own.keep([end(1)])
    assert (own._path.stat().st_mode & 0o777, own._path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    await own.clear()


async def test_an_end_that_the_database_does_not_take_costs_no_other_one(tmp_path: Path, caplog) -> None:
    dead, store = spool(tmp_path, "dead"), FakeStore()
    await dead.keep([end(1), end(2, result="bad"), end(3)])
    path = die(dead)
    store.unfit = "bad"
    await spool(tmp_path, "new").replay(store.backend)
    assert [change.id for batch in store.applied for change in batch] == [1, 3]
    assert "the end of job 2, which a dead engine had kept, cannot be stored" in caplog.text
    assert not path.exists()


async def test_a_file_that_cannot_be_read_ends_no_engine_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    for name in ("dead-1", "dead-2"):
        dead = spool(tmp_path, name)
        await dead.keep([end(int(name[-1]))])
        die(dead)
    store, real = FakeStore(), spools._locked

    def refused(path: Path, **options: bool) -> int | None:
        if "dead-1" in path.name:
            raise PermissionError(f"{path} is somebody else's")
        return real(path, **options)

    monkeypatch.setattr(spools, "_locked", refused)
    await spool(tmp_path, "new").replay(store.backend)
    assert store.applied == [[end(2)]]
    assert "these jobs will run again" in caplog.text
