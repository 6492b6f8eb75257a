"""Limits a kubeconfig that nobody named for this cluster to API servers of this cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.errors import StateConflict
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.live import trust
from vaultpki.model import Cluster
from vaultpki.vault import Vault

# The CA of the certificate that kube-apiserver presents.
_CA: Final = "kubernetes"


def only_own_server(access: KubeAccess, cluster: Cluster, vault: Vault, now: datetime) -> KubeAccess:
    """Return the access with the CAs that Vault says this cluster has now as the only ones for the API server.

    The issuing CAs and not the root: other clusters can be below the same root. Each request raises Untrusted at any
    other server before it sends anything. Raises StateConflict if Vault has no such CA, and as `trust.from_vault`.
    """
    own = "".join(facts.pem for facts in trust.from_vault(cluster, vault, now).of(_CA))
    if not own:
        # Without a CA Python would trust those of the machine.
        raise StateConflict(f"Vault has no CA {_CA} of {cluster.name} that nodes trust now")
    return replace(access, ca_pem=own)
