"""Reads from each API server the public keys of the tokens that it accepts, by GET requests."""

from __future__ import annotations

import http
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from vaultpki.errors import Unavailable, Untrusted
from vaultpki.kube.api import context, request
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import mapping
from vaultpki.values import hosts

_PATH: Final = "/openid/v1/jwks"
_LARGEST: Final = 1024 * 1024
# The form of a key set; kube-apiserver refuses others (kubernetes pkg/routes/openidmetadata.go).
_ACCEPT: Final = "application/jwk-set+json"
# In every certificate of an API server, also one that has no address of its node in it.
_SERVER_NAME: Final = "kubernetes"


def read_key_sets(
    access: KubeAccess, servers: Mapping[str, str], port: int, deadline: float
) -> dict[str, frozenset[tuple[str, ...]] | str]:
    """Return what each API server accepts, by node, each key as `identity` has it; or why it could not be read.

    `servers` are the addresses by node. Nobody is asked after `deadline` (of `time.monotonic`). Raises SpecError if the
    kubeconfig cannot be used.
    """
    tls = context(access)
    found: dict[str, frozenset[tuple[str, ...]] | str] = {}
    for node, address in servers.items():
        own = replace(access, server=f"https://{hosts.in_url(address)}:{port}", server_name=_SERVER_NAME)
        if time.monotonic() >= deadline:
            found[node] = "the time of this command is over"
            continue
        try:
            status, body = request(own, tls, _PATH, _LARGEST, accept=_ACCEPT)
        except (Unavailable, Untrusted) as error:
            found[node] = str(error)
            continue
        found[node] = _keys(body) if status == http.HTTPStatus.OK else f"{_PATH} answers {status}"
    return found


def identity(key: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what makes a JSON Web Key this public key (RFC 7638, section 3.2), whatever its id and use are."""
    return tuple(str(key.get(name, "")) for name in ("kty", "crv", "x", "y", "n", "e"))


def _keys(body: bytes) -> frozenset[tuple[str, ...]] | str:
    try:
        keys: Iterable[object] = mapping(json.loads(body)).get("keys") or ()
        return frozenset(identity(mapping(each)) for each in keys)
    except (ValueError, TypeError, RecursionError):
        return f"{_PATH} shows no key set"
