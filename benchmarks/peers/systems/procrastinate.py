"""procrastinate: coroutines, and plain functions in threads, PostgreSQL, LISTEN/NOTIFY."""

from __future__ import annotations

from benchmarks.peers.contestants import Argv, Mode, System

APP = "--app=benchmarks.peers.apps.procrastinate.app"
WORKER: Argv = ("procrastinate", APP, "worker")
FAST: Argv = ("procrastinate", APP, "--log-level=warning", "worker", "--concurrency=30")

SYSTEM = System(
    name="procrastinate",
    requires=("procrastinate", "psycopg[binary]", "uvloop"),
    modes={
        "default": Mode("`procrastinate worker`: one process, one job at a time, log level INFO", [WORKER]),
        "tuned": Mode(
            "two processes, concurrency 30 (its documentation's example), pools of 20, log level WARNING",
            [FAST, FAST],
            {"BENCH_POOL": "20"},
        ),
    },
    left={"postgres": "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"},
    bulk=20_000,
)
