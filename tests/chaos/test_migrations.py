"""Row 30: many start at once on an empty database, and one of them dies in the middle of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from sidequest import Sidequest, State
from sidequest.backends import make_backend
from sidequest.failpoints import VARIABLE
from tests.chaos.truth import TruthLog

STARTS = 10


async def migrate(url: str, folder: Path, points: str = "") -> tuple[int, str]:
    """`sidequest migrate` in a process of its own: its exit code, and what it said."""
    environ = {**os.environ, VARIABLE: points, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidequest", "migrate", "up", "--url", url,
        env=environ, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_ten_that_start_at_once_on_an_empty_database_all_start(url: str, truth: TruthLog, tmp_path: Path) -> None:
    done: Sequence[tuple[int, str]] = await asyncio.gather(*(migrate(url, tmp_path) for _ in range(STARTS)))
    assert [code for code, _ in done] == [0] * STARTS, "\n".join(words for _, words in done)
    async with Sidequest(url, engine="off", migrate=False) as sq:
        await sq.enqueue_many([])
        assert sum((await sq.jobs.count()).values()) == 0


@pytest.mark.parametrize("point", ["migrate.before_step", "migrate.before_commit", "migrate.after_step"])
async def test_a_migration_that_was_killed_is_taken_up_by_the_next_start(
    point: str, url: str, truth: TruthLog, tmp_path: Path
) -> None:
    code, words = await migrate(url, tmp_path, f"{point}=kill@1")
    assert code == -signal.SIGKILL, words
    await outlive_its_lock(url)
    async with Sidequest(url, engine="off") as sq:
        assert set((await sq.jobs.count()).values()) == {0}
        assert State.WAITING in await sq.jobs.count()
    code, words = await migrate(url, tmp_path)
    assert code == 0, words


async def outlive_its_lock(url: str) -> None:
    """On MongoDB the lock of who died ends after a minute: here, at once. Elsewhere it went with the connection."""
    store = make_backend(url)
    if store.dialect != "mongo":
        return
    await store.open()
    async with store._working(on_collections=False) as database:
        await database.locks.update_many({}, {"$set": {"until": store.now() - timedelta(seconds=1)}})
    await store.close()
