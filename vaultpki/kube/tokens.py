"""Reads what a running cluster shows of tokens of ServiceAccounts: GET requests only, and no Secret's content."""

from __future__ import annotations

import http
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from vaultpki.errors import Unavailable, Untrusted
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube.api import METADATA_LIST, context, request
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.reader import SYSTEM, ClusterReader
from vaultpki.kube.token_flags import TokensInUse, legacy_tokens, stale_tokens, token_flags
from vaultpki.values import hosts

_SECONDS: Final = 60.0
_LARGEST_METRICS: Final = 64 * 1024 * 1024
_API_SERVER: Final = "kube-apiserver"
_PORT: Final = "6443"
# In every certificate of an API server, also one that has no address of its node in it.
_SERVER_NAME: Final = "kubernetes"
_LEGACY: Final = "fieldSelector=type%3Dkubernetes.io%2Fservice-account-token"


def read_tokens(access: KubeAccess, *, metrics: bool = False) -> TokensInUse:
    """Return the flags of every API server that runs in a static pod, and the Secrets with tokens that never expire.

    With `metrics` each API server is asked for its counter of stale tokens, at its node's own address. What cannot be
    read is named in `unread`. Raises Unavailable, Untrusted, or VaultpkiError as `reader.ClusterReader`.
    """
    reader = ClusterReader(access, time.monotonic() + _SECONDS)
    found = reader.part(
        "static pods", lambda: tuple(kube_cluster.static_pods(reader.list("pods", under=SYSTEM), {_API_SERVER}))
    )
    pods = {pod.node: pod.arguments for pod in found or ()}
    flags = {node: one for node, arguments in pods.items() if (one := token_flags(arguments)) is not None}
    legacy = reader.part("Secrets", lambda: tuple(legacy_tokens(reader.list("secrets", _LEGACY, accept=METADATA_LIST))))
    stale = dict(_stale(access, reader, pods)) if metrics else None
    unread = [f"{name} of the cluster could not be read: {why}" for name, why in sorted(reader.unread.items())]
    unread += [f"the flags of kube-apiserver of {node} cannot be understood" for node in sorted(pods.keys() - flags)]
    return TokensInUse(flags, legacy, stale, tuple(unread))


def _stale(access: KubeAccess, reader: ClusterReader, pods: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, int]]:
    """Yield the counter of each API server that shows it, with its node."""
    nodes = reader.part("nodes", lambda: tuple(kube_cluster.nodes(reader.list("nodes")))) or ()
    tls = context(access)
    for node in nodes:
        if node.name not in pods or not node.addresses:
            continue
        port = _flag(pods[node.name], "secure-port") or _PORT
        own = replace(access, server=f"https://{hosts.in_url(node.addresses[0])}:{port}", server_name=_SERVER_NAME)
        try:
            status, body = request(own, tls, "/metrics", _LARGEST_METRICS, accept="text/plain")
        except (Unavailable, Untrusted):
            continue
        count = stale_tokens(body) if status == http.HTTPStatus.OK else None
        if count is not None:
            yield node.name, count


def _flag(arguments: tuple[str, ...], name: str) -> str:
    from vaultpki.kube.flags import flags_of

    found = flags_of(arguments).get(name, "")
    return found if found.isdecimal() else ""
