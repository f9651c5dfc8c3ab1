"""WORKER PROCESS. The client of a running job: it asks the engine, so no worker opens the database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sidequest import errors
from sidequest.jobs.client import CancelAnswer, Client
from sidequest.jobs.definition import Definition
from sidequest.jobs.record import JobEnd, JobRecord, NewJob
from sidequest.wire import records
from sidequest.wire.frames import Kind, pack_json, read_json


class WorkerClient(Client):
    """Enqueues and follows jobs through the worker's channel; usable from any event loop or thread."""

    def __init__(self, send: Callable[[bytes], None], job_defaults: Mapping[str, Any]) -> None:
        self._send = send
        self._job_defaults = job_defaults
        self._lock = threading.Lock()
        self._last = 0
        self._open: dict[int, Future[Any]] = {}

    def __repr__(self) -> str:
        return "<the client of a running job>"

    def answer(self, payload: bytes) -> None:
        """A REPLY frame arrived."""
        reply = read_json(payload)
        with self._lock:
            future = self._open.pop(reply["n"], None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if "error" in reply:
            future.set_exception(_error(reply["error"], reply["message"], reply.get("id")))
        else:
            future.set_result(reply["answer"])

    def _prepare(self, definitions: Iterable[Definition]) -> None:
        """Whatever this worker could import, its siblings can import as well."""

    async def _insert(self, jobs: Sequence[NewJob], connection: object | None = None) -> Sequence[int]:
        if connection is not None:
            raise errors.ConfigError(
                "connection: a running job enqueues through its engine, which cannot join a transaction of this process; "
                "enqueue after your own commit, without connection="
            )
        ids: Sequence[int] = await self._ask("insert", [records.new_job_to_json(job) for job in jobs])
        return ids

    async def _find(self, id: int) -> JobRecord:
        return records.record_from_json(await self._ask("find", id))

    async def _cancel(self, id: int) -> CancelAnswer:
        answer: CancelAnswer = await self._ask("cancel", id)
        return answer

    async def _ended(self, id: int, timeout: float | None) -> JobEnd:
        return records.end_from_json(await self._ask("ended", [id, timeout]))

    async def _ask(self, operation: str, argument: object) -> Any:
        future: Future[Any] = Future()
        with self._lock:
            self._last += 1
            n = self._last
            self._open[n] = future
        self._send(pack_json(Kind.REQUEST, {"n": n, "do": operation, "with": argument}))
        return await asyncio.wrap_future(future)


def _error(name: str, message: str, id: int | None) -> Exception:
    """The engine's error, as the exception that the app's own client would have raised."""
    if name == "JobNotFound" and id is not None:
        return errors.JobNotFound(id)
    kind = TimeoutError if name == "TimeoutError" else getattr(errors, name, errors.SidequestError)
    return kind(message)
