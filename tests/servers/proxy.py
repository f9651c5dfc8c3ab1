"""A proxy between a driver and its server, for whatever can happen to a line.

It cuts lines, cuts them at a given message (before the server gets it, or before its answer comes
back), cuts after so many bytes, swallows everything without closing, and delays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

AT_ONCE = 1 << 20
"""Bytes read at a time."""


class Proxy:
    """In front of the server at a port of this host; `async with` opens it, and cuts all lines at the end."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        """Where drivers connect in place of the server's port."""
        self.cuts = 0
        """Lines that `cut_once` and `cut_after` have cut."""
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self._server_port = server_port
        self._lines: set[asyncio.StreamWriter] = set()
        self._talks: set[asyncio.Task[Any]] = set()
        self._cut_at: bytes | None = None
        self._before = False
        self._cut_replies: set[asyncio.StreamWriter] = set()
        self._bytes_left: int | None = None
        self._open = asyncio.Event()
        self._open.set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self._open.set()
        self.cut()
        await asyncio.gather(*self._talks, return_exceptions=True)

    # What can happen to the lines

    def cut(self) -> None:
        """Cut all lines now."""
        for line in list(self._lines):
            line.close()

    def cut_once(self, message: bytes, *, before: bool) -> None:
        """Cut the line on which this comes next: before the server gets it, or before its answer comes back."""
        self._cut_at, self._before = message, before

    def cut_after(self, sent: int) -> None:
        """Cut the line that brings the server its `sent`th byte from now on; the bytes before that arrive."""
        self._bytes_left = sent

    def swallow(self) -> None:
        """Let nothing through any more, and keep all lines open: as when a host vanishes from the network."""
        self._open.clear()

    def let_through(self) -> None:
        """Go on after `swallow`, with all that was held back."""
        self._open.set()

    # How it works

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self._lines.add(client)
        try:
            await self._open.wait()
            from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._lines.add(server)
            await asyncio.gather(self._forward(reader, server, client), self._back(from_server, client, server))
            self._lines.discard(server)
        except OSError:  # there is no server
            client.close()
        finally:
            self._lines.discard(client)
            self._talks.discard(talk)

    async def _forward(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        await self._pass_on(reader, server, lambda data: self._sent(data, client))
        if client not in self._cut_replies:
            client.close()
            server.close()

    async def _back(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        await self._pass_on(reader, client, lambda data: None if client in self._cut_replies else data)
        self._cut_replies.discard(client)
        client.close()
        server.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], bytes | None]
    ) -> None:
        """Until the end of the line, or until `look` gives None; what it gives is what arrives."""
        try:
            while data := await reader.read(AT_ONCE):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                passed = look(data)
                if passed is None:
                    return
                writer.write(passed)
                await writer.drain()
                if len(passed) < len(data):
                    return
        except OSError:
            return

    def _sent(self, data: bytes, client: asyncio.StreamWriter) -> bytes | None:
        """What the server gets of this; None: nothing, and the line is over."""
        if self._cut_at is not None and self._cut_at in data:
            self._cut_at = None
            self.cuts += 1
            if self._before:
                return None
            self._cut_replies.add(client)
        if self._bytes_left is not None:
            if len(data) > self._bytes_left:
                data, self._bytes_left = data[: self._bytes_left], None
                self.cuts += 1
                return data
            self._bytes_left -= len(data)
        return data


def through(proxy: Proxy, url: str) -> str:
    """The URL of the same database by way of the proxy."""
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    query = "directConnection=true" if parts.scheme == "mongodb" else parts.query  # or its driver asks where the members are
    return parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}", query=query).geturl()
