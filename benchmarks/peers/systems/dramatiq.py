"""dramatiq: plain functions in threads of several processes; here on Redis."""

from __future__ import annotations

from benchmarks.peers.contestants import SYNC_ONLY, Argv, Mode, System

WORKER: Argv = ("dramatiq", "benchmarks.peers.apps.dramatiq")

SYSTEM = System(
    name="dramatiq",
    requires=("dramatiq[redis]",),
    databases=("redis",),
    kinds=SYNC_ONLY,
    modes={
        "default": Mode("`dramatiq`: 2 processes, 8 threads each", [WORKER]),
        "tuned": Mode(
            "2 processes, 32 threads each",
            [(*WORKER, "-p", "2", "-t", "32")],
            only=("W1", "W2", "W3 sync", "W4", "W6", "W7", "W8", "start"),
        ),
        "threads": Mode("2 processes, 100 threads each, for jobs that wait", [(*WORKER, "-p", "2", "-t", "100")], only=("W5",)),
    },
    left={"redis": lambda client: int(client.hlen("dramatiq:default.msgs"))},
    bulk=10_000,
    about="It has no call for many jobs: one send after the other.",
)
