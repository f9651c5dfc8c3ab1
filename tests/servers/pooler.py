"""A PgBouncer in miniature: each transaction of a client runs on another connection to the server.

It speaks just enough of PostgreSQL's protocol for that, without TLS and passwords. Like PgBouncer it
refuses start-up settings that it cannot keep for a client, because the next transaction may be elsewhere.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

PROTOCOL, CANCEL, TLS = 196608, 80877102, 80877103
KNOWN = {"user", "database", "application_name", "client_encoding", "options"}
READY, IDLE = b"Z", b"I"


class Link(NamedTuple):
    """A connection to the server."""

    reader: StreamReader
    writer: StreamWriter


class Pooler:
    """In front of one database of a server that asks for no password."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._idle: asyncio.Queue[Link] = asyncio.Queue()
        self._links: list[Link] = []
        self._greeting = b""

    @asynccontextmanager
    async def running(self, connections: int = 3) -> AsyncIterator[str]:
        """The URL to use in place of the server's."""
        for _ in range(connections):
            await self._connect()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield self._parts._replace(netloc=f"{self._parts.username}@127.0.0.1:{port}").geturl()
        finally:
            server.close()
            for link in self._links:
                link.writer.close()

    async def _connect(self) -> None:
        link = Link(*await asyncio.open_connection(self._parts.hostname, self._parts.port))
        settings = f"user\0{self._parts.username}\0database\0{self._parts.path[1:]}\0\0".encode()
        link.writer.write(struct.pack("!ii", len(settings) + 8, PROTOCOL) + settings)
        greeting = b""
        kind = b""
        while kind != READY:
            kind, message = await _message(link.reader)
            greeting += message
        self._greeting = greeting
        self._links.append(link)
        self._idle.put_nowait(link)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if await self._greet(reader, writer):
                await self._relay(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _greet(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """Whether the client may come in."""
        length, code = struct.unpack("!ii", await reader.readexactly(8))
        if code == TLS:
            writer.write(b"N")
            length, code = struct.unpack("!ii", await reader.readexactly(8))
        if code == CANCEL:
            return False
        words = (await reader.readexactly(length - 8)).decode().split("\0")
        if unknown := {*words[0:-2:2]} - KNOWN:
            error = f"SFATAL\0C08P01\0Munsupported startup parameter: {min(unknown)}\0\0".encode()
            writer.write(b"E" + struct.pack("!i", len(error) + 4) + error)
            return False
        writer.write(self._greeting)
        return True

    async def _relay(self, reader: StreamReader, writer: StreamWriter) -> None:
        answering: asyncio.Task[None] | None = None
        while True:
            kind, message = await _message(reader)
            if kind == b"X":
                return
            if answering is None or answering.done():
                link = await self._idle.get()
                answering = asyncio.ensure_future(self._answer(link, writer))
            link.writer.write(message)

    async def _answer(self, link: Link, writer: StreamWriter) -> None:
        """Pass on what the server says until a transaction is over."""
        while True:
            kind, message = await _message(link.reader)
            writer.write(message)
            if kind == READY and message[-1:] == IDLE:
                self._idle.put_nowait(link)
                return


async def _message(reader: StreamReader) -> tuple[bytes, bytes]:
    """The next message, after its kind."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
