"""Looks at the running cluster by `--kubeconfig`, else by `KUBECONFIG` if that leads to the cluster of cluster.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from vaultpki.cli.common import environment_kubeconfig, server_now
from vaultpki.cli.progress import say
from vaultpki.errors import Unavailable, Untrusted, VaultpkiError

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.findings.signer import SignerSeen
    from vaultpki.kube.kubeconfig import KubeAccess
    from vaultpki.model import Cluster
    from vaultpki.vault import Vault

_T = TypeVar("_T")

OWN_CLUSTER: Final = "[env var: KUBECONFIG, if its API server is of this cluster]"
"""What the help of an option says whose file is looked at by `RunningCluster`."""


class RunningCluster:
    """How to look at the running cluster; `given` is the kubeconfig that a person named for this command.

    `KUBECONFIG` is set for a shell, and may lead to another cluster, of which nothing may count here. So only a server
    with a certificate of this cluster's CA is asked, as Vault has the CA; else the command goes on without it.
    """

    def __init__(self, given: Path | None = None) -> None:
        self._given = given
        self._said: set[str] = set()
        self._answered = self._unused = False

    def look(self, cluster: Cluster, vault: Vault, read: Callable[[KubeAccess], _T]) -> _T | None:
        """Return what `read` finds there; None without a kubeconfig that can be used, which is said once.

        Raises what `read` does for the file that was given, and Unavailable once that of `KUBECONFIG` has answered.
        """
        from vaultpki.kube import kubeconfig as document

        if self._given is not None:
            return read(document.read(self._given))
        if self._unused:
            return None
        try:
            path = environment_kubeconfig()
            if path is None:
                return None
            return self._read_own(document.read(path), cluster, vault, read)
        except (VaultpkiError, click.UsageError) as error:
            if self._answered and isinstance(error, Unavailable):
                # A wait goes on when it answers again.
                raise
            self._unused = not self._answered
            said = error.message if isinstance(error, click.UsageError) else str(error)
            self._say(f"KUBECONFIG is not used: {said}")
            return None

    def look_at_signer(self, cluster: Cluster, vault: Vault, now: datetime) -> SignerSeen | None:
        """Return what the cluster shows of its signer; None without a signer, and as `look`, whose errors it raises."""
        from vaultpki.ca.facts import joined_lives
        from vaultpki.live import signer

        if cluster.signer is None:
            return None
        return self.look(
            cluster, vault, lambda access: signer.read(access, cluster, vault, now, joined_lives(cluster, vault, now))
        )

    def _read_own(self, access: KubeAccess, cluster: Cluster, vault: Vault, read: Callable[[KubeAccess], _T]) -> _T:
        from vaultpki.live import own_server

        own = own_server.only_own_server(access, cluster, vault, server_now(vault))
        self._say(f"asking {own.server} too, of KUBECONFIG")
        try:
            found = read(own)
        except Untrusted:
            raise VaultpkiError(
                f"{own.server} has no certificate of a CA of {cluster.name}; pass --kubeconfig FILE for this cluster"
            ) from None
        self._answered = True
        return found

    def _say(self, line: str) -> None:
        if line not in self._said:
            say(line)
        self._said.add(line)


def joined_by_mounts(cluster: Cluster, vault: Vault, now: datetime) -> SignerSeen | None:
    """Return the nodes that joined by token as the mounts alone show them; None without a signer."""
    from vaultpki.ca.facts import joined_lives
    from vaultpki.csr_roles import signer_facts
    from vaultpki.findings.signer import SignerSeen

    facts = signer_facts(cluster)
    return SignerSeen(facts, nodes=None, joined=joined_lives(cluster, vault, now)) if facts is not None else None
