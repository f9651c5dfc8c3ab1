"""huey: plain functions in threads or processes; here on SQLite."""

from __future__ import annotations

from benchmarks.peers.contestants import SYNC_ONLY, Argv, Mode, System

WORKER: Argv = ("huey_consumer", "benchmarks.peers.apps.huey.huey")

SYSTEM = System(
    name="huey",
    requires=("huey",),
    databases=("sqlite",),
    kinds=SYNC_ONLY,
    modes={
        "default": Mode("`huey_consumer`: one thread, looks every 0.1 to 10 s, WAL, SQLite's own synchronous=FULL", [WORKER]),
        "tuned": Mode(
            "two worker processes, looks every 5 to 50 ms, minimal logging",
            [(*WORKER, "-q", "-k", "process", "-w", "2", "-d", "0.005", "-m", "0.05")],
            only=("W1", "W2", "W3 sync", "W4", "W6", "W7", "W8", "start"),
        ),
        "threads": Mode(
            "100 threads, looks every 5 to 50 ms, minimal logging: its documentation's way for jobs that wait",
            [(*WORKER, "-q", "-k", "thread", "-w", "100", "-d", "0.005", "-m", "0.05")],
            only=("W5",),
        ),
    },
    bulk=5_000,
    about="A job leaves the database when it starts, and nothing is written when it ends: there is no lag to report, "
    "and a job that dies is lost. It has no call for many jobs.",
)
