"""SAQ: coroutines, and plain functions in threads; Redis or PostgreSQL."""

from __future__ import annotations

from benchmarks.peers.contestants import Argv, Mode, System

WORKER: Argv = ("saq", "benchmarks.peers.apps.saq.settings")

SYSTEM = System(
    name="saq",
    requires=("saq[redis,postgres,hiredis]", "psycopg[binary]", "uvloop"),
    databases=("redis", "postgres"),
    modes={
        "default": Mode("`saq`: one process, concurrency 10", [WORKER], {"BENCH_CONCURRENCY": "10"}),
        "tuned": Mode(
            "`saq --workers 2 --quiet`, concurrency 100 each",
            [(*WORKER, "--workers", "2", "--quiet")],
            {"BENCH_CONCURRENCY": "100"},
        ),
    },
    left={
        "redis": lambda client: int(client.zcard("saq:default:incomplete")),
        "postgres": "SELECT count(*) FROM saq_jobs WHERE status IN ('new', 'queued', 'active')",
    },
    bulk=5_000,
    about="It has no call for many jobs: 32 enqueues at once. A job that ran longer than 10 s, or whose worker died, is "
    "not tried again by default.",
)
