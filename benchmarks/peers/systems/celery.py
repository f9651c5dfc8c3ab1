"""Celery: plain functions in forked processes or threads; here on Redis."""

from __future__ import annotations

from benchmarks.peers.contestants import SYNC_ONLY, Argv, Mode, System

WORKER: Argv = ("celery", "--app", "benchmarks.peers.apps.celery", "worker")
QUIET: Argv = (*WORKER, "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")

SYSTEM = System(
    name="celery",
    requires=("celery[redis]",),
    databases=("redis",),
    kinds=SYNC_ONLY,
    modes={
        "default": Mode(
            "`celery worker`: prefork, as many processes as cores, prefetch 4, acknowledged before it runs", [WORKER]
        ),
        "tuned": Mode(
            "prefork of 2, prefetch 64, no gossip, mingle or heartbeat, log level WARNING, acknowledged before it runs",
            [(*QUIET, "--concurrency", "2", "--prefetch-multiplier", "64")],
            only=("W1", "W2", "W3 sync", "W4", "W6", "W7", "W8", "start"),
        ),
        "threads": Mode(
            "--pool threads, 100 of them, for jobs that wait",
            [(*QUIET, "--pool", "threads", "--concurrency", "100")],
            only=("W5",),
        ),
    },
    bulk=10_000,
    about="No result backend. A task is acknowledged before it runs, so there is no lag to report. It has no call for many "
    "jobs: one send after the other by one producer.",
)
