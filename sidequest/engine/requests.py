"""ENGINE PROCESS. Answers what running jobs ask: enqueue, look, wait, cancel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sidequest.backends import moves
from sidequest.backends.base import Backend
from sidequest.backends.watch import EndWatch
from sidequest.config import Settings
from sidequest.engine.lane import Lane
from sidequest.errors import SidequestError
from sidequest.wire import records
from sidequest.wire.frames import Kind, pack_json

logger = logging.getLogger(__name__)


class Requests:
    """The engine's side of a running job's client."""

    def __init__(
        self,
        settings: Settings,
        store: Backend,
        ends: EndWatch,
        enqueued: Callable[[], None],
        canceled: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._ends = ends
        self._enqueued = enqueued
        self._canceled = canceled

    async def answer(self, lane: Lane, request: dict[str, Any]) -> None:
        """Do what was asked and send the reply; whatever goes wrong goes back to the job."""
        n = request.get("n")
        if not isinstance(n, int):
            logger.error("a running job sent a request without a number: there is no way to answer it")
            return
        reply: dict[str, Any] = {"n": n}
        try:
            reply["answer"] = await self._do(request["do"], request["with"])
        except (SidequestError, TimeoutError) as error:
            reply |= _told(error)
        except Exception as error:  # the job asked for something strange; that is its trouble, not the engine's
            logger.exception("a running job's request failed")
            reply |= _told(error)
        lane.link.write(pack_json(Kind.REPLY, reply))

    async def _do(self, operation: str, argument: Any) -> Any:
        match operation:
            case "insert":
                jobs = [records.new_job_from_json(job) for job in argument]
                ids = list(await self._store.insert(jobs, self._settings.queue_defaults))
                self._enqueued()
                return ids
            case "find":
                return records.record_to_json(await moves.find(self._store, argument))
            case "ended":
                id, timeout = argument
                return records.end_to_json(await self._ends.wait(id, timeout))
            case "cancel":
                answer = await moves.cancel(self._store, argument)
                self._canceled(argument)
                return answer
            case _:
                raise ValueError(f"there is no operation {operation!r}")


def _told(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error), "id": getattr(error, "id", None)}
