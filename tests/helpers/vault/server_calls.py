"""Requests to a server with the standard library only, so that no test leans on the client it tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_idle: dict[tuple[int, str, bytes], http.client.HTTPSConnection] = {}
"""A connection that nobody uses now, by who asked which server: a new one costs three times as much as a request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer: its status, and its JSON body (empty where there was none)."""

    status: int
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.body["data"]
        return data


def call(
    address: str, ca_file: Path, method: str, path: str, body: object = None, *, token: str = "", timeout: float = 30.0
) -> Answer:
    """One request; `path` is without /v1. Raises OSError or http.client.HTTPException where no answer comes."""
    used = (os.getpid(), address, ca_file.read_bytes())
    headers = {"X-Vault-Request": "true"} | ({"X-Vault-Token": token} if token else {})
    content = None if body is None else json.dumps(body)
    connection = _idle.pop(used, None)
    if connection is not None:
        try:
            return _asked(used, connection, method, path, content, headers, timeout)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            # The server has closed it since, or has ended.
            pass
    url = urlsplit(address)
    assert url.hostname is not None
    context = ssl.create_default_context(cafile=ca_file)
    connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=timeout)
    return _asked(used, connection, method, path, content, headers, timeout)


def _asked(
    used: tuple[int, str, bytes],
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    content: str | None,
    headers: dict[str, str],
    timeout: float,
) -> Answer:
    """The answer over this connection, which is kept for the next request to the same server unless it fails."""
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request(method, f"/v1/{path}", content, headers)
        response = connection.getresponse()
        raw = response.read()
        stack.pop_all()
    if response.will_close or _idle.setdefault(used, connection) is not connection:
        connection.close()
    return Answer(response.status, json.loads(raw) if raw else {})


def forget(address: str) -> None:
    """Close what is kept of a server that ends."""
    for each in [each for each in _idle if each[1] == address]:
        _idle.pop(each).close()
