"""One HTTP answer, bounded in time and size and read strictly: no http.client exception or odd shape gets past here."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.errors import BadAnswer

Json = dict[str, Any]

BODY_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `once` marks what must not be sent twice (it makes a key or a certificate each time).

    `warnings` are fragments of the warnings this call is known to bring; any other is an error.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    once: bool = False
    warnings: tuple[str, ...] = ()
    wrap_ttl: str | None = None
    merge_patch: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `status` and the JSON object; `body` is empty for 204 and 404."""

    status: int
    body: Json = field(repr=False)

    @property
    def found(self) -> bool:
        return self.status != 404

    @property
    def data(self) -> Json:
        """The `data` member; empty where there is none. Raises BadAnswer where it is no object."""
        data = self.body.get("data")
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise BadAnswer("the server's answer holds no object under `data`; is this address really a Vault?")
        return data

    @property
    def keys(self) -> tuple[str, ...]:
        """The names a LIST gave; empty where nothing is listed."""
        keys = self.data.get("keys") or []
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise BadAnswer("the server's list is no list of names; is this address really a Vault?")
        return tuple(keys)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where Vault and OpenBao differ in what they offer, each difference by name.

    `bounds_dates`: roles have `not_before_bound` and `not_after_bound`. `bounds_addresses`: roles have
    `allowed_ip_sans_cidr`. `audit_by_api`: audit devices are made by a request, not in the server's configuration.
    """

    product: str
    version: str
    bounds_dates: bool
    bounds_addresses: bool
    audit_by_api: bool


class Bounded:
    """A socket whose every operation ends at `deadline` (monotonic seconds), however slowly bytes drip.

    `http.client` uses just these methods of its socket; a timeout of its own would be for each read.
    """

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain = plain
        self.deadline = deadline

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(left)

    def sendall(self, data: Any) -> None:
        self._arm()
        self._plain.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reading(self))

    def recv_into(self, buffer: Any) -> int:
        self._arm()
        return self._plain.recv_into(buffer)

    def close(self) -> None:
        self._plain.close()


class _Reading(io.RawIOBase):
    def __init__(self, source: Bounded) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.recv_into(buffer)


def printable(text: str) -> str:
    """The text with everything that could steer a terminal made a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def read_all(response: http.client.HTTPResponse) -> bytes:
    """The whole body, at most BODY_LIMIT bytes; BadAnswer where there is more, IncompleteRead where it broke off."""
    # http.client's own length check comes first, so that a server which announces too much is not even read.
    if response.length is not None and response.length > BODY_LIMIT:
        raise BadAnswer(f"an answer of {response.length} bytes is larger than any answer may be ({BODY_LIMIT})")
    raw = response.read(BODY_LIMIT + 1)
    if len(raw) > BODY_LIMIT:
        raise BadAnswer(f"an answer is larger than any answer may be ({BODY_LIMIT} bytes)")
    if response.length:
        raise http.client.IncompleteRead(b"")
    # Reads the end of a chunked body, without which the connection cannot be used again.
    if response.read(1):
        raise BadAnswer(f"an answer is larger than any answer may be ({BODY_LIMIT} bytes)")
    return raw


def json_object(raw: bytes) -> Json | None:
    """The JSON object in the bytes; None where they hold anything else, however deep."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def reasons(body: Json | None) -> tuple[str, ...]:
    """The server's own words for a refusal, cut short and fit for a terminal."""
    errors = (body or {}).get("errors")
    if not isinstance(errors, list):
        return ()
    words = (" ".join(str(error).split()) for error in errors[:5])
    return tuple(printable(word)[:300] for word in words if word)


def no_surprise(where: str, body: Json, expected: tuple[str, ...]) -> None:
    """Raises BadAnswer where a write brought a warning nobody expected: Vault only warns where it ignored a field."""
    warnings = body.get("warnings") or []
    if not isinstance(warnings, list):
        warnings = [warnings]
    for warning in warnings:
        if not any(fragment in str(warning) for fragment in expected):
            raise BadAnswer(f"Vault took {where}, but warns: {printable(str(warning))[:300]}")


def cause(error: Exception) -> str:
    """A few words for why the network failed."""
    return printable(getattr(error, "strerror", None) or type(error).__name__)
