"""Reads the key set that a cluster's issuer publishes outside of it: two GET requests, without any credential.

The addresses come from the flags of API servers, as nodes report them. So only https is spoken, the certificate must be
one that this machine trusts, no redirect is followed, and nothing of an answer is shown.
"""

from __future__ import annotations

import http
import http.client
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from vaultpki.errors import BadAnswer, Unavailable
from vaultpki.kube import http_exchange
from vaultpki.kube.token_flags import OIDC_DISCOVERY
from vaultpki.pki import jwk
from vaultpki.values import hosts
from vaultpki.vault.sockets import connect

_LARGEST: Final = 1024 * 1024
_SECONDS: Final = 10.0


def read(url: str) -> frozenset[tuple[str, ...]]:
    """Return the keys that are published at `url`, a key set or a discovery document, each as `jwk.material` does.

    Raises Unavailable if it cannot be reached, and BadAnswer if there is no key set.
    """
    deadline = time.monotonic() + _SECONDS
    found = _get(url, deadline)
    if url.endswith(OIDC_DISCOVERY):
        found = _get(str(found.get("jwks_uri")), deadline)
    keys = found.get("keys")
    if not isinstance(keys, list):
        raise BadAnswer("there is no key set")
    return frozenset(jwk.material(each) for each in keys if isinstance(each, Mapping)) - {()}


def _get(url: str, deadline: float) -> Mapping[str, Any]:
    try:
        parts = urlsplit(url)
        host = parts.netloc
        if parts.scheme != "https" or not host or "@" in host or not url.isascii() or not url.isprintable():
            raise BadAnswer("there is no https URL")
        name = parts.hostname and hosts.in_url(parts.hostname)
        channel = connect(f"https://{name}:{parts.port or 443}", ssl.create_default_context(), None, deadline)
        try:
            target = parts._replace(scheme="", netloc="", fragment="").geturl().replace(" ", "%20") or "/"
            status, body = http_exchange.get(channel, host, target, {}, deadline, _LARGEST)
        finally:
            channel.close()
        found = json.loads(body) if status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"it cannot be read ({type(error).__name__})") from None
    except (ValueError, RecursionError):
        raise BadAnswer("its answer is not JSON of at most 1 MiB") from None
    if not isinstance(found, Mapping):
        raise BadAnswer(f"it answers {status}" if status != http.HTTPStatus.OK else "there is no key set")
    return found
