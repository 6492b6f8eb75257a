"""Sends one request on a connection of its own, and reads the answer within a time and a size.

A client's certificate is loaded for it from memory.
"""

from __future__ import annotations

import http.client
import io
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from vaultpki.vault.sockets import Channel


def get(
    channel: Channel, host: str, target: str, headers: Mapping[str, str], deadline: float, largest: int
) -> tuple[int, bytes]:
    """Return the status and the body; `host` is the Host header, and `deadline` is monotonic seconds.

    Raises OSError, `http.client.HTTPException`, or ValueError for a URL or a header that cannot be sent and for an
    answer of more than `largest` bytes.
    """
    return send(channel, "GET", host, target, headers, b"", deadline, largest)


def send(
    channel: Channel,
    method: str,
    host: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    deadline: float,
    largest: int,
) -> tuple[int, bytes]:
    """Return the same of a request with another method, and with a body unless that is empty."""
    answer = _answer(channel, method, host, target, headers, body, deadline, largest)
    return answer.status, answer.read()


def stream(
    channel: Channel, host: str, target: str, headers: Mapping[str, str], deadline: float, largest: int
) -> tuple[int, Iterator[bytes]]:
    """Return the status of a GET, and its answer line by line as they arrive; raises as `get`, also in between.

    `largest` is of the whole answer, and so of each line.
    """
    answer = _answer(channel, "GET", host, target, headers, b"", deadline, largest)
    return answer.status, iter(answer.readline, b"")


def _answer(
    channel: Channel,
    method: str,
    host: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    deadline: float,
    largest: int,
) -> http.client.HTTPResponse:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", "Connection: close"]
    lines += [f"Content-Length: {len(body)}"] if body else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    channel.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body, deadline)
    answer = http.client.HTTPResponse(_Socket(_Incoming(channel, deadline, largest)))  # type: ignore[arg-type]
    answer.begin()
    return answer


def load_pair(tls: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    """Load a client's certificate and key from memory into a TLS context.

    Raises `ssl.SSLError`, OSError or ValueError.
    """
    # `ssl` reads a pair from a file alone: one in memory, which no other user and no disk sees.
    with open(os.memfd_create("pair", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(certificate_pem + b"\n" + key_pem)
        memory.flush()
        # Without a password callback OpenSSL would ask at the terminal.
        tls.load_cert_chain(f"/proc/self/fd/{memory.fileno()}", password=lambda: "")


class _Incoming(io.RawIOBase):
    """What arrives on a connection, until a time and up to a size."""

    def __init__(self, channel: Channel, deadline: float, largest: int) -> None:
        self._channel, self._deadline, self._left = channel, deadline, largest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._channel.receive(len(buffer), self._deadline)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("too large")
        buffer[: len(data)] = data
        return len(data)


class _Socket:
    """The part of a socket that `http.client` reads an answer from."""

    def __init__(self, incoming: _Incoming) -> None:
        self._incoming = incoming

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self._incoming)
