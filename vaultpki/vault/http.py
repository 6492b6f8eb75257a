"""HTTP/1.1 (RFC 9112) as far as a client of Vault speaks it: requests as bytes, answers read strictly and in bounds.

Not http.client: to load it, for `email`, takes longer than all requests of a plan, and it forgives what no Vault sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from vaultpki.errors import BadAnswer
from vaultpki.vault.wire import Raw

# Beside the body: interim answers, and what a chunked body is wrapped in.
_WRAPPING: Final = 1 << 20
_HEAD_LIMIT: Final = 1 << 16
_PIECE: Final = 1 << 16
# No Vault sends any, and a proxy one or two (RFC 8297).
_MOST_INTERIM: Final = 8

# Line ends are CRLF and nothing else, and a name touches its colon: what is looser is read differently by others.
_HEAD: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?((?:\r\n[^\s:]+:[^\r\n\0]*)*)")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_CHUNK: Final = re.compile(rb"(-?[0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class NotHTTP(Exception):
    """What came is no answer in HTTP, or only the beginning of one."""


class NoAnswer(NotHTTP):
    """The connection ended before the first byte of an answer."""


def request(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The bytes of a request; ValueError where a part of it would break out of its line."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if not all(line.isprintable() for line in lines):
        raise ValueError("a request's line holds what no line may")
    return "\r\n".join((*lines, "", "")).encode("ascii") + (body or b"")


class Answers:
    """The answers on one connection. `receive` gives at most so many bytes, none where the connection has ended."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._held = bytearray()
        self._left = 0

    @property
    def ahead(self) -> bool:
        """Whether bytes have come that belong to no answer yet."""
        return bool(self._held)

    @property
    def alert(self) -> bool:
        """Whether what came is an alert of TLS and no HTTP (RFC 8446, 5.1: content type 21, major version 3)."""
        return self._held.startswith(b"\x15\x03")

    def next(self, most: int) -> tuple[Raw, bool]:
        """The next answer, whose body may have `most` bytes, and whether the connection may be used after it.

        Raises NotHTTP, BadAnswer where the answer is too large, and what `receive` raises.
        """
        self._left = most + _WRAPPING
        if not self._held:
            self._more(NoAnswer)
        minor, status, headers = self._final_head()
        goes_on = minor == 1 and "close" not in headers.get("connection", "").lower()
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if status in (204, 304):
            return Raw(status, headers, b""), goes_on
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise NotHTTP
            return Raw(status, headers, self._chunks(most)), goes_on
        if length is not None:
            if not _LENGTH.fullmatch(length) or int(length) > most:
                raise too_large()
            return Raw(status, headers, self._take(int(length))), goes_on
        return Raw(status, headers, self._rest(most)), False

    def _final_head(self) -> tuple[int, int, dict[str, str]]:
        """The head of the answer itself; interim answers before it are skipped (RFC 9110, 15.2)."""
        for _ in range(_MOST_INTERIM + 1):
            minor, status, headers = self._head()
            if status == 101:
                # A switch to another protocol, which we never ask for.
                raise NotHTTP
            if status >= 200:
                return minor, status, headers
        raise BadAnswer(
            f"more than {_MOST_INTERIM} interim answers (1xx) came and no answer; check the address and any proxy in "
            "between"
        )

    def _head(self) -> tuple[int, int, dict[str, str]]:
        """Minor version, status, and the fields by lower-case name; of one that is said twice the values are joined."""
        matched = _HEAD.fullmatch(self._until(b"\r\n\r\n"))
        if matched is None:
            raise NotHTTP
        fields: dict[str, str] = {}
        for line in matched[3].decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip(" \t")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return int(matched[1]), int(matched[2]), fields

    def _chunks(self, most: int) -> bytes:
        whole = bytearray()
        while True:
            matched = _CHUNK.fullmatch(self._until(b"\r\n"))
            if matched is None:
                raise NotHTTP
            size = int(matched[1], 16)
            if not 0 <= size <= most - len(whole):
                raise too_large()
            if not size:
                break
            whole += self._take(size)
            if self._take(2) != b"\r\n":
                raise NotHTTP
        # Trailers say nothing here.
        while self._until(b"\r\n"):
            pass
        return bytes(whole)

    def _rest(self, most: int) -> bytes:
        """All that comes before the connection ends."""
        while len(self._held) <= most:
            piece = self._receive(_PIECE)
            if not piece:
                return self._cut(len(self._held))
            self._held += piece
        raise too_large()

    def _until(self, end: bytes) -> bytes:
        at = self._held.find(end)
        while at < 0:
            if len(self._held) > _HEAD_LIMIT:
                raise NotHTTP
            seen = max(len(self._held) - len(end) + 1, 0)
            self._more()
            at = self._held.find(end, seen)
        found = self._cut(at)
        del self._held[: len(end)]
        return found

    def _take(self, size: int) -> bytes:
        while len(self._held) < size:
            self._more()
        return self._cut(size)

    def _cut(self, size: int) -> bytes:
        cut = bytes(self._held[:size])
        del self._held[:size]
        return cut

    def _more(self, ended: type[NotHTTP] = NotHTTP) -> None:
        if self._left <= 0:
            raise too_large()
        piece = self._receive(_PIECE)
        if not piece:
            raise ended
        self._left -= len(piece)
        self._held += piece


def too_large() -> BadAnswer:
    return BadAnswer(
        "an answer is larger than any answer may be, or does not say how large it is; look at what stands there"
    )
