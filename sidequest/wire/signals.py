"""PROCESS BOUNDARY. The signal that an engine sends to its workers."""

from __future__ import annotations

import signal

DUMP_SIGNAL = signal.SIGRTMIN + 8 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR1
"""Makes a worker write the stacks of all its threads, even when a job holds the GIL."""
