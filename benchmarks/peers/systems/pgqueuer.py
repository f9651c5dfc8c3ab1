"""pgqueuer: coroutines in one process, PostgreSQL, LISTEN/NOTIFY."""

from __future__ import annotations

from benchmarks.peers.contestants import ASYNC_ONLY, Argv, Mode, System

WORKER: Argv = ("python", "-m", "benchmarks.peers.apps.pgqueuer")
"""Its run function: the log level that `pgq run` parses is text, and 1.6.0 takes it for an enum and ends."""

SYSTEM = System(
    name="pgqueuer",
    requires=("pgqueuer[asyncpg]", "uvloop"),
    kinds=(*ASYNC_ONLY, "sync_noop"),
    modes={
        "default": Mode(
            "pgqueuer.run(…): one process, batches of 10, uvloop, log level INFO, durable tables", [(*WORKER, "10", "INFO")]
        ),
        "tuned": Mode(
            "two processes, batches of 100, log level WARNING, uvloop, durable tables", [(*WORKER, "100", "WARNING")] * 2
        ),
    },
    environment=lambda url: {"PGDSN": url, "PGQUEUER_DSN": url},
    left={"postgres": "SELECT count(*) FROM pgqueuer"},
    about="Runs coroutines only, in its one process: sync no-ops go through asyncio.to_thread, as its error message says.",
)
