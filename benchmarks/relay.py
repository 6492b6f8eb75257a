"""A TCP relay on loopback, in threads of this process, that counts the bytes which pass in both directions."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Relay:
    """Where it listens, and how many bytes have passed, TLS and all."""

    port: int = 0
    passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self._lock:
            self.passed += count


@contextlib.contextmanager
def relaying(to: int) -> Iterator[Relay]:
    """Pass on to the port `to` of loopback until the block ends."""
    relay = Relay()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", to)) as server:
                back = threading.Thread(target=_pump, args=(server, self.request, relay), daemon=True)
                back.start()
                _pump(self.request, server, relay)
                back.join()

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Listener(("127.0.0.1", 0), Handler) as listener:
        relay.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown()
            thread.join()


def _pump(source: socket.socket, sink: socket.socket, relay: Relay) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            relay.add(len(data))
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
