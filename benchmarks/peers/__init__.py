"""Sidequest and other job queues, side by side: the same workloads, in turns, in one run.

`apps` and the three modules without dependencies (`marks`, `bodies`, `client`) are imported in the
virtual environment of each peer; everything else runs where the benchmarks run.
"""
