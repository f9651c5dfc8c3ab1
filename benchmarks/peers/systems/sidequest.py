"""Sidequest: the engine alone, as `sidequest engine` runs it, and an app without an engine that enqueues."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.contestants import BOTH, Argv, Mode, System

ENGINE: Argv = ("python", "-m", "sidequest", "engine", "benchmarks.peers.apps.sidequest")
UNENDED = "SELECT count(*) FROM sidequest_jobs WHERE state IN ('waiting', 'claimed', 'running')"
WIDE = "2500"


def _unended(database: Any) -> int:
    return int(database.sidequest_jobs.count_documents({"state": {"$in": ["waiting", "claimed", "running"]}}))


SYSTEM = System(
    name="sidequest",
    databases=("postgres", "sqlite", "mariadb", "mysql", "mongodb"),
    kinds=(*BOTH, "hold"),
    modes={
        "default": Mode("`sidequest engine MODULE`; every setting at its default: 10 jobs of a queue at once", [ENGINE]),
        "tuned": Mode(
            f"queue concurrency and max_concurrent_jobs {WIDE}, 2 workers at most, replaced after a million jobs",
            [ENGINE],
            {
                "SIDEQUEST_MAX_CONCURRENT_JOBS": WIDE,
                "SIDEQUEST_MAX_WORKERS": "2",
                "BENCH_CONCURRENCY": WIDE,
                "SIDEQUEST_MAX_JOBS_PER_WORKER": "1000000",
            },
        ),
        "wide": Mode(
            "queue concurrency and max_concurrent_jobs 10 000",
            [ENGINE],
            {"SIDEQUEST_MAX_CONCURRENT_JOBS": "10000", "BENCH_CONCURRENCY": "10000"},
            only=("W5 held",),
        ),
    },
    environment=lambda url: {"SIDEQUEST_URL": url},
    left={"postgres": UNENDED, "sqlite": UNENDED, "mariadb": UNENDED, "mysql": UNENDED, "mongodb": _unended},
)
