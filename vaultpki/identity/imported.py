"""Names what belongs to a CA that was imported with its key (`ca import --key`): its mount and its issuer; pure.

Each has a mount of its own, beside that of the domain's own CA: `ca.imported` says why.
"""

from __future__ import annotations

from typing import Final

from vaultpki.model import Cluster

ISSUER_NAME: Final = "imported"
"""The name of the issuer. It is given last, so one without it is what an interrupted import has left."""

AT_REST: Final = "read-only"
"""The usage of the issuer: it signs nothing."""

MAY_SIGN: Final = "issuing-certificates,read-only"
"""Its usage while nodes go back to their former CA. Both servers write the parts in this order."""

COMMON_NAMES: Final = {"kubernetes": "kubernetes", "etcd-ca": "etcd", "front-proxy-ca": "front-proxy"}
"""The domain of each CA of kubeadm by its common name (kubeadm/app/phases/certs/certlist.go)."""


def mount(cluster: Cluster, ca: str) -> str:
    """Return the mount of the imported CA of a domain."""
    return cluster.mount(f"imported-{ca}")
