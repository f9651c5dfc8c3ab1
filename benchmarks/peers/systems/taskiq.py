"""taskiq: coroutines, plain functions in threads or a pool of processes; here on Redis streams."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.contestants import Argv, Mode, System

WORKER: Argv = ("taskiq", "worker", "benchmarks.peers.apps.taskiq:broker")
QUIET: Argv = (*WORKER, "--no-parse", "--log-level", "WARNING")


def _unacknowledged(client: Any) -> int:
    [group] = client.xinfo_groups("taskiq")
    return int(group["pending"]) + int(group["lag"] or 0)


SYSTEM = System(
    name="taskiq",
    requires=("taskiq", "taskiq-redis", "uvloop"),
    databases=("redis",),
    modes={
        "default": Mode("`taskiq worker`: 2 processes, 100 async tasks each, RedisStreamBroker", [WORKER]),
        "tuned": Mode(
            "2 processes, 300 async tasks and 300 prefetched each, --no-parse, log level WARNING, RedisStreamBroker",
            [(*QUIET, "--max-async-tasks", "300", "--max-prefetch", "300")],
        ),
        "isolated": Mode(
            "1 worker with a pool of 2 processes, --no-parse, log level WARNING: its way to run sync tasks apart",
            [(*QUIET, "--workers", "1", "--use-process-pool", "--max-process-pool-processes", "2")],
            only=("W3 sync", "W6"),
        ),
    },
    left={"redis": _unacknowledged},
    bulk=10_000,
    about="It has no call for many jobs: 32 enqueues at once. No result backend.",
)
