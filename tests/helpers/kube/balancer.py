"""A load balancer before the API servers of a cluster: it passes TCP on, and asks each of them whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakSet

from helpers.kube.machines import OUTSIDE, Machine

LOOK_SECONDS = 0.5
# One that is asked while much else runs may take its time; one that is not ready says so at once.
ANSWER_SECONDS = 4.0
# One that has just started answers with 403 for a moment.
READY_ANSWERS = 2
_MOST = 1 << 16
_SETTLE_SECONDS = 0.1


@dataclass(slots=True)
class Balancer:
    """Sends each new connection to the next server that is ready, and leaves those that it has alone.

    As a balancer in the mode TCP does: nothing is sent twice, but a connection that no server has taken is tried at the
    next one. A server is out after one answer that is not 200, and in after two that are. If all are out, a connection
    is tried at each of them all the same, but for those that were down and have not been ready since: they refuse who
    they will let in once they have started. `away` has from when until when each was out (Unix time), `none_ready` says
    when a connection came while all were, and `none_took` when no server took one.
    """

    machine: Machine
    servers: Mapping[str, str]
    port: int
    ready: set[str] = field(default_factory=set)
    starting: set[str] = field(default_factory=set)
    away: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    none_ready: list[float] = field(default_factory=list)
    none_took: list[float] = field(default_factory=list)
    turn: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    writers: WeakSet[asyncio.StreamWriter] = field(default_factory=WeakSet)

    @property
    def at(self) -> tuple[str, int]:
        return OUTSIDE, self.port

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        standing, ending = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._run, args=(standing, ending), daemon=True)
        thread.start()
        assert standing.wait(10), "the balancer does not start"
        try:
            yield
        finally:
            ending.set()
            thread.join(10)

    def _run(self, standing: threading.Event, ending: threading.Event) -> None:
        # A network is of a thread, and this one has no other.
        with self.machine.network():
            asyncio.run(self._serve(standing, ending))

    async def _serve(self, standing: threading.Event, ending: threading.Event) -> None:
        own = socket.create_server(self.at)
        listening = await asyncio.start_server(self._accepted, sock=own)
        looks = [asyncio.create_task(self._look(name)) for name in self.servers]
        async with listening:
            standing.set()
            await asyncio.to_thread(ending.wait)
            # What was accepted before the end becomes a task now; a server that is closed first would leave it open.
            asyncio.get_running_loop().remove_reader(own)
            await asyncio.sleep(_SETTLE_SECONDS)
        tasks = (*looks, *self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Data that nobody reads would keep a connection open beyond the loop.
        for writer in list(self.writers):
            writer.transport.abort()
        await asyncio.sleep(_SETTLE_SECONDS)

    async def _look(self, name: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        well = 0
        while True:
            said = b""
            try:
                said = await asyncio.wait_for(self._ask(name, context), ANSWER_SECONDS)
            except ConnectionRefusedError:
                self.starting.add(name)
            except OSError:
                # Also one that does not answer in time.
                pass
            well = well + 1 if said == b"200" else 0
            times = self.away.setdefault(name, [])
            if well >= READY_ANSWERS and name not in self.ready:
                self.ready.add(name)
                self.starting.discard(name)
                if times:
                    times[-1] = (times[-1][0], time.time())
            elif not well and name in self.ready:
                self.ready.remove(name)
                times.append((time.time(), math.inf))
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self, name: str, context: ssl.SSLContext) -> bytes:
        reader, writer = await asyncio.open_connection(self.servers[name], self.port, ssl=context)
        self.writers.add(writer)
        with contextlib.closing(writer):
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.transport.abort()
        return line.split(b" ")[1] if line.count(b" ") > 1 else b""

    def _accepted(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        """Note a connection at once: a task that is cancelled before it begins would not close it."""
        self.writers.add(near_writer)
        task = asyncio.create_task(self._pass_on(near, near_writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _pass_on(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(near_writer):
            far = await self._connect()
            if far is None:
                near_writer.transport.abort()
                return
            reader, writer = far
            self.writers.add(writer)
            with contextlib.closing(writer):
                await asyncio.gather(_copy(near, writer), _copy(reader, near_writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        self.turn += 1
        names = [name for name in self.servers if name in self.ready]
        if not names:
            self.none_ready.append(time.time())
            names = [name for name in self.servers if name not in self.starting] or list(self.servers)
        for each in range(len(names)):
            address = self.servers[names[(self.turn + each) % len(names)]]
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(address, self.port), ANSWER_SECONDS)
        self.none_took.append(time.time())
        return None


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_MOST):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        if target.can_write_eof():
            target.write_eof()
