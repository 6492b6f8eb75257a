"""hvac's methods as a way to write requests: none sends anything, and they raise only errors of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import hvac
import hvac.adapters
import hvac.exceptions

from vaultpki.errors import BadAnswer
from vaultpki.vault.answers import Request


class Adapter(hvac.adapters.Adapter):  # type: ignore[misc]
    """Returns each request that hvac makes, instead of sending it."""

    def get_login_token(self, response: Request) -> str:
        # hvac would keep the token in the client, which every Vault shares.
        raise NotImplementedError("pass use_token=False to a login of `prepare`, and the request to Vault.login")

    def request(
        self, method: str, url: str, headers: Any = None, raise_exception: bool = True, **kwargs: Any
    ) -> Request:
        # A PUT is a POST to every path of Vault (api-docs, "HTTP verbs").
        method = {"PUT": "POST"}.get(method.upper(), method.upper())
        parameters = urlencode(kwargs.get("params") or {})
        # Most of hvac's methods escape names. Two of the characters that ours have need not be; `Vault.call` refuses
        # all others, so that no name becomes another path or a query.
        path = url.removeprefix("/v1/").replace("%3A", ":").replace("%2B", "+").replace("?", "%3F")
        return Request(
            method,
            f"{path}?{parameters}" if parameters else path,
            None if method in ("GET", "LIST", "DELETE") else kwargs.get("json") or {},
            wrap_ttl=kwargs.get("wrap_ttl") or (headers or {}).get("X-Vault-Wrap-TTL"),
        )


class Api:
    """hvac's client, or a part of it, whose methods return what `send` makes of their Request."""

    def __init__(self, part: Any, send: Callable[[Request], Any]) -> None:
        self._part, self._send = part, send

    def __getattr__(self, name: str) -> Any:
        with _translating():
            found = getattr(self._part, name)
        return functools.partial(self._call, found) if callable(found) else Api(found, self._send)

    def _call(self, method: Callable[..., Request], *args: Any, **kwargs: Any) -> Any:
        with _translating():
            request = method(*args, **kwargs)
        return self._send(request)


@functools.cache
def client() -> hvac.Client:
    """Return hvac's client over `Adapter`; it has neither an address nor a token, and is made once."""
    # All is given, so that hvac reads neither the environment nor ~/.vault-token.
    return hvac.Client(url="https://vault.invalid", token="", cert=(), verify=True, adapter=Adapter, namespace="")


@contextmanager
def _translating() -> Iterator[None]:
    """Raise our error for one that hvac raised itself, without its text: it finds wrong arguments only."""
    try:
        yield
    except hvac.exceptions.VaultError as error:
        raise BadAnswer(f"hvac refuses the call ({type(error).__name__})") from None
