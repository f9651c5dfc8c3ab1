"""oban: coroutines in one process, PostgreSQL, LISTEN/NOTIFY."""

from __future__ import annotations

from benchmarks.peers.contestants import ASYNC_ONLY, Argv, Mode, System

WORKER: Argv = ("oban", "start", "--cron-modules", "benchmarks.peers.apps.oban")
FAST: Argv = (*WORKER, "--queues", "default:100", "--log-level", "WARNING")

SYSTEM = System(
    name="oban",
    requires=("oban", "uvloop"),
    python=(3, 12),
    kinds=ASYNC_ONLY,
    modes={
        "default": Mode(
            "`oban start --queues default:10`, its examples' limit, log level INFO", [(*WORKER, "--queues", "default:10")]
        ),
        "tuned": Mode("two nodes, limit 100 each, uvloop, log level WARNING", [FAST, FAST]),
    },
    environment=lambda url: {"OBAN_DSN": url},
    left={"postgres": "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'scheduled', 'executing', 'retryable')"},
    about="Needs Python 3.12. Runs coroutines only, in its one process; the jobs' module is imported by its option for cron.",
)
