"""ENGINE PROCESS. Answers other processes of this host that ask where a running job is now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from sidequest.engine.lane import Held, Lane
from sidequest.wire.inquiry import InquirySocket
from sidequest.wire.messages import Role

logger = logging.getLogger(__name__)
ATTEMPT_WAIT = 30.0
"""Seconds until a socket that could not be made is tried again."""


class Inquiries:
    """`run` answers `{"stack": id}` with `{"stack": text}` or `{"error": why}`."""

    def __init__(self, engine_id: str, identity: str, held: Callable[[], Mapping[int, Held]]) -> None:
        self._engine_id = engine_id
        self._identity = identity
        self._held = held

    async def run(self) -> None:
        while True:
            try:
                inquiries = InquirySocket(self._identity, self._engine_id)
            except OSError as error:
                logger.debug("this engine cannot be asked where its jobs are: %s", error)
                await anyio.sleep(ATTEMPT_WAIT)
                continue
            try:
                await inquiries.serve(self.answer)
            except OSError as error:  # no more descriptors, for instance
                logger.warning("this engine cannot be asked where its jobs are for now: %s", error)
            finally:
                inquiries.close()
            await anyio.sleep(ATTEMPT_WAIT)

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What is wrong with a question is told, too: it may come from another version of this code."""
        id = question.get("stack") if isinstance(question, Mapping) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if not isinstance(id, int):
            return {"error": "the engine does not know this question"}
        held = self._held().get(id)
        if held is None:
            return {"error": f"job {id} has ended, or is not in this engine any more"}
        lane = held.lane
        if lane is None or not _has_started(held, lane):
            return {"error": f"job {id} has not started: it waits for a worker"}
        return {"stack": await self._stack(held, lane)}

    async def _stack(self, held: Held, lane: Lane) -> str:
        told = await lane.stack(held.job.id)
        threads = await lane.link.stacks()
        head = f"job {held.job.id} ({held.job.name}) in worker {lane.link.pid} of engine {self._engine_id}"
        parts = [head, told or "(the worker does not answer: something holds it up)"]
        if threads:
            parts.append(f"All threads of the worker, the innermost call first:\n\n{threads}")
        return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _has_started(held: Held, lane: Lane) -> bool:
    return lane.role is Role.ASYNC or next(iter(lane.jobs)) == held.job.id
