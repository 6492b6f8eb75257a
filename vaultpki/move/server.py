"""Names one of the two servers of a move: the cluster as it is there, and the client that asks it."""

from __future__ import annotations

from dataclasses import dataclass

from vaultpki.identity import anchor
from vaultpki.model import Cluster
from vaultpki.records.move import ServerPlace
from vaultpki.vault import Vault
from vaultpki.vault.settings import namespace_path


@dataclass(frozen=True, slots=True)
class MoveServer:
    """A server of a move; `cluster` has its addresses and its prefix."""

    cluster: Cluster
    vault: Vault

    @property
    def place(self) -> ServerPlace:
        """Where nodes reach it."""
        addresses, ca_pem = anchor.where(self.cluster, self.vault.addresses, self.vault.settings.ca_pem)
        namespace = namespace_path(self.vault.settings.namespace) or ""
        return ServerPlace(addresses, self.cluster.prefix, namespace, ca_pem or "")
