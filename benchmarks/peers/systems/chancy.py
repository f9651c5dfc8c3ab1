"""chancy: coroutines, or functions in a pool of processes, PostgreSQL, LISTEN/NOTIFY."""

from __future__ import annotations

from benchmarks.peers.contestants import Argv, Mode, System

WORKER: Argv = ("chancy", "--app", "benchmarks.peers.apps.chancy.chancy", "worker", "start")

SYSTEM = System(
    name="chancy",
    requires=("chancy[cli]", "psycopg[binary]", "uvloop"),
    modes={
        "default": Mode("Queue() as it is: a pool of processes, as many as cores, a look every 5 s", [WORKER]),
        "tuned": Mode(
            "two workers, eager polling, a look every second; async jobs on the AsyncExecutor, 100 at once, "
            "sync ones in a pool of 2 processes each",
            [WORKER, WORKER],
        ),
    },
    left={"postgres": "SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')"},
    bulk=20_000,
    about="Ends are sent to the database once a second, which is its lag.",
)
