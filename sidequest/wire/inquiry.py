"""EVERY PROCESS. Asks an engine of this host a question: one line of JSON there, one document back.

The engine's stream socket lies beside its wake socket, where nobody but its user gets in.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio

from sidequest.wire import wake_socket

ANSWER_WAIT = 5.0
"""Seconds that a question and its answer may take."""
LONGEST_QUESTION = 4_096
LONGEST_ANSWER = 1024 * 1024
MOST_AT_ONCE = 8
"""Questions that an engine works on at a time; who comes on top of that is turned away."""

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def ask(identity: str, engine: str, question: dict[str, Any]) -> dict[str, Any] | None:
    """The engine's answer; None when there is nobody on this host who gives one."""
    path = wake_socket.find(_name(identity, engine))
    if path is None:
        return None
    loop = asyncio.get_running_loop()
    with suppress(OSError, ValueError), anyio.move_on_after(ANSWER_WAIT):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, str(path))
            await loop.sock_sendall(caller, json.dumps(question).encode() + b"\n")
            told = await _read(caller, LONGEST_ANSWER, until=b"")
        answer: dict[str, Any] = json.loads(told)
        return answer
    return None


class InquirySocket(wake_socket.LocalSocket):
    """An engine's end."""

    def __init__(self, identity: str, engine: str) -> None:
        super().__init__(socket.SOCK_STREAM, _name(identity, engine))
        self._socket.listen(MOST_AT_ONCE)

    async def serve(self, answer: Answer) -> None:
        """Answer whoever asks, until cancelled. Raises OSError, in a group, when there are no more descriptors."""
        loop = asyncio.get_running_loop()
        asking = 0

        async def attend(caller: socket.socket) -> None:
            nonlocal asking
            try:
                with caller, suppress(OSError, ValueError), anyio.move_on_after(ANSWER_WAIT):
                    question: dict[str, Any] = json.loads(await _read(caller, LONGEST_QUESTION, until=b"\n"))
                    told = json.dumps(await answer(question), ensure_ascii=False).encode("utf-8", "replace")
                    await loop.sock_sendall(caller, told)
            finally:
                asking -= 1

        async with anyio.create_task_group() as tasks:
            while True:
                caller, _ = await loop.sock_accept(self._socket)
                if asking < MOST_AT_ONCE:
                    asking += 1
                    tasks.start_soon(attend, caller)
                else:
                    caller.close()


async def _read(stream: socket.socket, most: int, until: bytes) -> bytes:
    """What comes up to this byte, or up to the end of the stream. Raises ValueError when it is too much."""
    loop = asyncio.get_running_loop()
    got = b""
    while data := await loop.sock_recv(stream, 65_536):
        got += data
        if len(got) > most:
            raise ValueError(f"more than {most} bytes")
        if until and got.endswith(until):
            break
    return got


def _name(identity: str, engine: str) -> str:
    return f"{wake_socket.socket_name(identity, engine)}{wake_socket.STREAM}"
