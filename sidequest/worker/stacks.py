"""WORKER PROCESS. Where jobs are now, as text: for those who ask while they run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sidequest.jobs.outcome import LONGEST_TRACE
from sidequest.worker.attempt import OURS

MOST_FRAMES = 100


def of_thread(ident: int | None) -> str:
    """Where this thread is, from the job's first line on."""
    frame = sys._current_frames().get(ident or 0)
    frames: list[FrameType] = []
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    ours = [n for n, frame in enumerate(frames) if frame.f_globals.get("__name__", "").startswith(OURS)]
    return _told(frames[ours[-1] + 1 if ours and ours[-1] + 1 < len(frames) else 0 :])


def of_coroutine(coroutine: Any) -> str:
    """Where a coroutine waits: its own frame, and those of what it awaits, down to the innermost."""
    return _told(list(_awaited(coroutine)))


def _awaited(awaitable: Any) -> Iterator[FrameType]:
    for _ in range(MOST_FRAMES):
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaitable, f"{kind}_frame")), None)
        if kind is None:
            return  # a future, or what some library wrote in C
        frame = getattr(awaitable, f"{kind}_frame")
        if frame is None:
            return
        yield frame
        awaitable = getattr(awaitable, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _told(frames: list[FrameType]) -> str:
    if not frames:
        return "(it has not begun, or has just ended)"
    summary = traceback.StackSummary.extract(((frame, frame.f_lineno) for frame in frames[-MOST_FRAMES:]), limit=MOST_FRAMES)
    return "The job, the innermost call last:\n\n" + "".join(summary.format())[-LONGEST_TRACE:]
