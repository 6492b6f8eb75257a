"""Names what belongs to a CA that was imported with its key (`ca import --key`): its mount, issuer and roles; pure.

Each has a mount of its own, beside that of the domain's own CA: `ca.imported` says why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from vaultpki.model import Certificate, Cluster

ISSUER_NAME: Final = "imported"
"""The name of the issuer. It is given last, so one without it is what an interrupted import has left."""

AT_REST: Final = "read-only"
"""The usage of the issuer: it signs nothing."""

MAY_SIGN: Final = "issuing-certificates,read-only"
"""Its usage while nodes go back to their former CA. Both servers write the parts in this order."""

COMMON_NAMES: Final = {"kubernetes": "kubernetes", "etcd-ca": "etcd", "front-proxy-ca": "front-proxy"}
"""The domain of each CA of kubeadm by its common name (kubeadm/app/phases/certs/certlist.go)."""

LEAF_TTL: Final = 365 * 86400
"""The life in seconds of what such a CA signs: that of kubeadm's own certificates (kubeadm/app/constants/constants.go).

Once every node has gone back nobody renews through Vault, so a TTL of cluster.yaml would be far too short.
"""

OLD_CA_ROLE: Final[dict[str, Any]] = {
    "issuer_ref": ISSUER_NAME,
    # The old pair keeps its key, whatever kind cluster.yaml has for new ones. With an EC key nothing more would fit.
    "key_type": "any",
    "key_bits": 0,
    "key_usage": ["DigitalSignature"],
    "ttl": LEAF_TTL,
    "max_ttl": LEAF_TTL,
}
"""What a role on the mount of such a CA has in place of what the same role has on the domain's own mount."""


def mount(cluster: Cluster, ca: str) -> str:
    """Return the mount of the imported CA of a domain."""
    return mount_below(cluster.prefix, ca)


def mount_below(prefix: str, ca: str) -> str:
    """Return that mount in the cluster with this prefix."""
    return f"{prefix}/imported-{ca}"


def of_old_ca(certificate: Certificate, prefix: str) -> Certificate:
    """Return the same certificate of the imported CA of its domain, in the cluster with this prefix."""
    return replace(certificate, mount=mount_below(prefix, certificate.ca), ttl=LEAF_TTL)
