"""Sends one GET on a connection of its own, and reads the answer within a time and a size."""

from __future__ import annotations

import http.client
import io
from collections.abc import Mapping

from vaultpki.vault.sockets import Channel


def get(
    channel: Channel, host: str, target: str, headers: Mapping[str, str], deadline: float, largest: int
) -> tuple[int, bytes]:
    """Return the status and the body; `host` is the Host header, and `deadline` is monotonic seconds.

    Raises OSError, `http.client.HTTPException`, or ValueError for a URL or a header that cannot be sent and for an
    answer of more than `largest` bytes.
    """
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    channel.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), deadline)
    answer = http.client.HTTPResponse(_Bytes(_all(channel, deadline, largest)))  # type: ignore[arg-type]
    answer.begin()
    return answer.status, answer.read()


class _Bytes:
    """What `http.client` reads an answer from: bytes that are there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _all(channel: Channel, deadline: float, largest: int) -> bytes:
    found = bytearray()
    while part := channel.receive(65536, deadline):
        found += part
        if len(found) > largest:
            raise ValueError("too large")
    return bytes(found)
