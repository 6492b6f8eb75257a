"""Reads all that `verify --live` looks at from a cluster's API server: GET requests only, each part for itself.

A part that the kubeconfig's user may not read is missing with a reason, and the others are read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube import objects
from vaultpki.kube.cluster import CaCopy, LiveCluster
from vaultpki.kube.flags import COMPONENTS
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import CLUSTER_TRUST_BUNDLES, ROOT_COPY, SERVING_CA
from vaultpki.kube.reader import PUBLIC, SYSTEM, ClusterReader, bounded

_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_KINDS: Final = {
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
}


def read(access: KubeAccess, deadline: float) -> LiveCluster:
    """Return what the API server shows; nothing more is asked for after `deadline` (monotonic seconds).

    Raises Unavailable or Untrusted if it cannot be talked to at all, and VaultpkiError if it does not accept the user.
    """
    reader = ClusterReader(access, deadline)
    nodes = reader.part("nodes", lambda: tuple(kube_cluster.nodes(reader.list("nodes"))))
    pods = reader.part(
        "static pods", lambda: tuple(kube_cluster.static_pods(reader.list("pods", under=SYSTEM), COMPONENTS))
    )
    found = with_copies(reader)
    kubelets = reader.kubelets(tuple(node.name for node in nodes or ()))
    return replace(found, nodes=nodes or (), pods=pods or (), kubelets=kubelets, unread=dict(reader.unread))


def read_copies(access: KubeAccess, deadline: float) -> LiveCluster:
    """Return only the copies of CAs that the API server shows; otherwise as `read`."""
    return with_copies(ClusterReader(access, deadline))


def with_copies(reader: ClusterReader) -> LiveCluster:
    """Return only the copies of CAs that the API server shows, and why parts of them could not be read."""
    namespaces = reader.part("namespaces", lambda: tuple(objects.namespaces(reader.list("namespaces"))))
    copies = [copy for name, read_part in _copies(reader) for copy in reader.part(name, read_part) or ()]
    allowed = reader.part(
        kube_cluster.AUTHENTICATION,
        lambda: kube_cluster.allowed_names(reader.object(f"{SYSTEM}/configmaps/{kube_cluster.AUTHENTICATION}")),
    )
    return LiveCluster(
        namespaces=namespaces or (), copies=tuple(copies), allowed_names=allowed, unread=dict(reader.unread)
    )


def _copies(reader: ClusterReader) -> Iterator[tuple[str, Callable[[], tuple[CaCopy, ...]]]]:
    """Yield what holds copies of CAs, by its name for people, and how to read it."""
    named = f"fieldSelector=metadata.name%3D{ROOT_COPY}"
    yield ROOT_COPY, lambda: bounded(kube_cluster.root_copies(reader.list("configmaps", named)))
    for name, space, parse in (
        (kube_cluster.CLUSTER_INFO, PUBLIC, kube_cluster.cluster_info),
        (kube_cluster.AUTHENTICATION, SYSTEM, kube_cluster.authentication),
        (SERVING_CA, SYSTEM, kube_cluster.serving_ca),
    ):
        yield name, reader.single(f"{space}/configmaps/{name}", parse)
    for plural, kind in _KINDS.items():
        yield plural, reader.many(plural, _ADMISSION, lambda items, kind=kind: kube_cluster.webhooks(items, kind))  # type: ignore[misc]
    yield "apiservices", reader.many("apiservices", "/apis/apiregistration.k8s.io/v1", kube_cluster.api_services)
    definitions = "customresourcedefinitions"
    yield definitions, reader.many(definitions, "/apis/apiextensions.k8s.io/v1", kube_cluster.conversions)
    yield CLUSTER_TRUST_BUNDLES, reader.trust_bundles
