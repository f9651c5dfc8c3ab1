"""WORKER PROCESS. What running jobs report: progress goes to the engine, logs to this process's logging."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sidequest.jobs.context import JobContext
from sidequest.jobs.record import Progress
from sidequest.wire.messages import pack_progress

logger = logging.getLogger("sidequest.job")


class FrameReporter:
    """Reports through the channel whose `send` it is given."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def report_progress(self, id: int, progress: Progress) -> None:
        self._send(pack_progress(id, progress))

    def report_log(self, context: JobContext, message: str) -> None:
        logger.info("job %d %s: %s", context.id, context.name, message)
