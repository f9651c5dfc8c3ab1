"""HARNESS. All workloads, in the order in which they are measured and shown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.workloads import scale, start
from benchmarks.peers.workloads import w1_enqueue as w1
from benchmarks.peers.workloads import w2_bulk as w2
from benchmarks.peers.workloads import w3_drain as w3
from benchmarks.peers.workloads import w4_latency as w4
from benchmarks.peers.workloads import w5_waiting as w5
from benchmarks.peers.workloads import w6_cpu as w6
from benchmarks.peers.workloads import w7_idle as w7
from benchmarks.peers.workloads import w8_crash as w8
from benchmarks.peers.workloads.workload import Workload

WORKLOADS: Sequence[Workload] = (
    w1.WORKLOAD,
    w2.WORKLOAD,
    *w3.WORKLOADS,
    w4.WORKLOAD,
    *w5.WORKLOADS,
    w6.WORKLOAD,
    w7.WORKLOAD,
    w8.WORKLOAD,
    start.WORKLOAD,
    *scale.WORKLOADS,
)
