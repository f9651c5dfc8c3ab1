"""A line to a server on which things go wrong: for tests of what is lost on the way, and of what takes long."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire:
    """A proxy in front of a server of this host, which cuts its lines, or lets them take their time, when it is told to."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._lines: set[asyncio.StreamWriter] = set()
        self._talks: set[asyncio.Task[Any]] = set()
        self._cut_at: bytes | None = None
        self._before = False
        self._cut_replies: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.delay = 0.0
        """Seconds that whatever the server answers is on its way."""

    @property
    def lines(self) -> int:
        """How many connections there are."""
        return len(self._talks)

    async def __aenter__(self) -> Wire:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self.cut()
        await asyncio.gather(*list(self._talks), return_exceptions=True)

    def cut(self) -> None:
        """Cut all lines now."""
        for line in list(self._lines):
            line.close()

    def cut_once(self, command: bytes, *, before: bool) -> None:
        """Cut the line on which this command comes: before the server gets it, or before its answer comes back."""
        self._cut_at, self._before = command, before

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self._lines.add(client)
        from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._lines.add(server)
        try:
            await asyncio.gather(self._forward(reader, server, client), self._back(from_server, client, server))
        finally:
            self._talks.discard(talk)
            self._lines -= {client, server}

    async def _forward(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 20):
                if self._cut_at is not None and self._cut_at in data:
                    self._cut_at = None
                    self.cuts += 1
                    if self._before:
                        break
                    self._cut_replies.add(client)
                server.write(data)
                await server.drain()
        except OSError:
            pass
        if client not in self._cut_replies:
            client.close()
            server.close()

    async def _back(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 20):
                if client in self._cut_replies:
                    break
                if self.delay:
                    await asyncio.sleep(self.delay)
                client.write(data)
                await client.drain()
        except OSError:
            pass
        client.close()
        server.close()
