"""ENGINE PROCESS. Answers other processes of this host that ask where a running job is now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from sidequest.engine.lane import Held, Lane
from sidequest.errors import first_cause
from sidequest.wire.inquiry import InquirySocket
from sidequest.wire.messages import Role

logger = logging.getLogger(__name__)
ATTEMPT_WAIT = 30.0
"""Seconds until a socket that could not be made, or has failed, is tried again."""
CHECK_INTERVAL = 5.0
"""Seconds between two looks whether it is still where others look for it."""


class Inquiries:
    """`run` answers `{"stack": id}` with `{"stack": text}` or `{"error": why}`."""

    def __init__(self, engine_id: Callable[[], str], identity: str, held: Callable[[], Mapping[int, Held]]) -> None:
        """The engine goes on under another id when others gave it up."""
        self._engine_id = engine_id
        self._identity = identity
        self._held = held

    async def run(self) -> None:
        while True:
            try:
                await self._serve()
            except* OSError as errors:  # no place for a socket, or no more descriptors
                logger.debug("this engine cannot be asked where its jobs are: %s", first_cause(errors))
                await anyio.sleep(ATTEMPT_WAIT)

    async def _serve(self) -> None:
        """Answer as long as the socket is where others look for it."""
        engine_id = self._engine_id()
        inquiries = InquirySocket(self._identity, engine_id)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(inquiries.serve, self.answer)
                while inquiries.in_place and self._engine_id() == engine_id:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(CHECK_INTERVAL)
                tasks.cancel_scope.cancel()
        finally:
            inquiries.close()

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
        head = f"job {held.job.id} ({held.job.name}) in worker {lane.link.pid} of engine {self._engine_id()}"
        parts = [head, told or "(the worker does not answer: something holds it up)"]
        if threads:
            parts.append(f"All threads of the worker, the innermost call first:\n\n{threads}")
        return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _has_started(held: Held, lane: Lane) -> bool:
    return lane.role is Role.ASYNC or next(iter(lane.jobs)) == held.job.id
