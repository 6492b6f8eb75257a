"""A TCP proxy on loopback that adds the delay of a network to every round trip; run as a process of its own.

`python -m benchmarks.proxy PORT SECONDS` listens on a free port, prints its number, and passes all bytes on to PORT.
What a client sends is held for SECONDS, what comes back is not, so one round trip takes SECONDS longer. A new
connection waits as long before its first byte, as it would for the SYN.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast


class _Server(asyncio.Protocol):
    """The side that faces the real server."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._client.reached(self.transport)

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.transport.close()


class _Client(asyncio.Protocol):
    """The side that faces the client under measurement."""

    def __init__(self, port: int, delay: float) -> None:
        self._port, self._delay = port, delay
        self._loop = asyncio.get_running_loop()
        self._early: list[bytes] = []
        self._server: asyncio.Transport | None = None
        self._dial: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._opened = self._loop.time()
        self._dial = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        await self._loop.create_connection(lambda: _Server(self), "127.0.0.1", self._port)

    def data_received(self, data: bytes) -> None:
        self._loop.call_at(max(self._loop.time(), self._opened + self._delay) + self._delay, self._pass_on, data)

    def reached(self, server: asyncio.Transport) -> None:
        self._server = server
        for data in self._early:
            server.write(data)

    def _pass_on(self, data: bytes) -> None:
        if self._server is None:
            self._early.append(data)
        else:
            self._server.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._server is not None:
            self._loop.call_later(self._delay, self._server.close)


async def _serve(port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Client(port, delay), "127.0.0.1", 0, backlog=64)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
