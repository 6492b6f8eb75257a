"""What a shell offers behind a command: names from cluster.yaml and of templates. No server is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from vaultpki.errors import VaultpkiError

if TYPE_CHECKING:
    from vaultpki.model import Cluster


def _of_cluster(
    names: Callable[[Cluster], Iterable[str]],
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a completion by names of the cluster.yaml that the line names; by nothing if it cannot be read."""

    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        from vaultpki.config.cluster import load_cluster

        try:
            cluster = load_cluster(context.params["file"], allow_http=True)
        except VaultpkiError:
            return []
        return [name for name in names(cluster) if name.startswith(begun)]

    return complete


def _cas(cluster: Cluster) -> tuple[str, ...]:
    from vaultpki.certificates import all_cas
    from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

    return (*all_cas(cluster), *((SERVICE_ACCOUNT_KEYS,) if cluster.service_account_keys else ()))


def _operators(cluster: Cluster) -> list[str]:
    from vaultpki.certificates import rows

    return [row.name for row in rows(cluster) if row.operator]


nodes = _of_cluster(lambda cluster: [node.name for node in cluster.nodes])
pools = _of_cluster(lambda cluster: [pool.name for pool in cluster.pools])
cas = _of_cluster(_cas)
operators = _of_cluster(_operators)


def templates(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a unit or a recipe."""
    from vaultpki.host import systemd

    return [name for name in systemd.TEMPLATES if name.startswith(begun)]
