"""Sockets, with TLS if the address asks for it; each operation ends at an absolute deadline (monotonic seconds).

The resolver is the one part without a deadline: getaddrinfo takes as long as the system's own configuration lets it.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from urllib.parse import urlsplit


class Channel:
    """An open connection. It is closed by `close`, or with the last reference to it."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.close = weakref.finalize(self, plain.close)

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises TimeoutError at the deadline, and OSError."""
        rest = memoryview(data)
        while rest:
            self._plain.settimeout(_seconds_left(deadline))
            rest = rest[self._plain.send(rest) :]

    def receive(self, size: int, deadline: float) -> bytes:
        """Return at most `size` bytes, none if the server has ended the connection. Raises as `send`."""
        self._plain.settimeout(_seconds_left(deadline))
        return self._plain.recv(size)

    def waiting(self) -> bytes | None:
        """Return a byte that waits to be read, none if the server has ended the connection; None for nothing at all.

        Raises OSError.
        """
        self._plain.settimeout(0)
        try:
            # Not poll(): TLS keeps tickets for later sessions to itself (RFC 8446, 4.6.1).
            return self._plain.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None


def connect(origin: str, tls: ssl.SSLContext, server_name: str | None, deadline: float) -> Channel:
    """Return a connection to `origin` (scheme://host:port), with TLS if its scheme is https.

    `server_name` is the name that the certificate must have, if that is not the host's. The first of the host's
    addresses that accepts a connection is used, and each is given its share of the time. Raises OSError and ValueError.
    """
    parts = urlsplit(origin)
    host, port = parts.hostname or "", parts.port or 0
    # socket.create_connection would give every address of a name the whole time anew.
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError = TimeoutError()
    for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        plain = socket.socket(family, kind, protocol)
        try:
            if parts.scheme == "https":
                # Before it is connected: Python loses track of a socket that the server has reset by the time it is
                # wrapped (ssl.py, SSLSocket._create), and it stays open.
                name = server_name or host
                plain = tls.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
            plain.settimeout(_seconds_left(deadline) / left)
            plain.connect(address)
        except OSError as error:
            plain.close()
            last = error
            continue
        except BaseException:
            plain.close()
            raise
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(plain, ssl.SSLSocket):
                plain.settimeout(_seconds_left(deadline))
                plain.do_handshake()
        except BaseException:
            plain.close()
            raise
        return Channel(plain)
    raise last


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
