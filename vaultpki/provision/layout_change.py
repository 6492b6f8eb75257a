"""Refuses another layout for a cluster whose nodes take part: a node gets its layout when it joins."""

from __future__ import annotations

from vaultpki.errors import SpecError
from vaultpki.model import Cluster
from vaultpki.places import Layout
from vaultpki.provision.identities import takes
from vaultpki.provision.impact import named
from vaultpki.provision.live_credentials import Identity, count
from vaultpki.provision.observe import Observation
from vaultpki.vault import Vault


def refuse(cluster: Cluster, vault: Vault, seen: Observation) -> None:
    """Raise SpecError if the applied layout is another one and a node has a live credential, or logs in by a token.

    Nodes that log in by their issuer's token have no credential in Vault; those that have reported count.
    """
    record = seen.observed.objects.get(("config", f"{cluster.mount('config')}/cluster"))
    applied = (record or {}).get("layout", Layout.DOCUMENT.value)
    if record is None or applied == cluster.layout.value:
        return
    listed = [Identity("listed", name) for name in seen.found.role_ids]
    everyone = [*listed, *(Identity("pooled", name) for name in seen.found.pooled)]
    counts = vault.map(lambda identity: count(cluster, vault, identity), everyone)
    # None: this token may not look, so the node may have one.
    live = [identity.name for identity, found in zip(everyone, counts, strict=True) if found != 0]
    jwt_pools = [pool for pool in cluster.pools if pool.jwt]
    if jwt_pools:
        reported = vault.api.secrets.kv.v2.list_secrets("reports", mount_point=cluster.mount("config")).keys
        live += [name for name in reported if any(takes(pool, name) for pool in jwt_pools)]
    if live:
        raise SpecError(
            f"the nodes have the layout {applied}, and a node gets its layout when it joins: end the credentials of "
            f"{named(sorted(live))} (`vaultpki lock`; take a pool with jwt out and apply), apply again, "
            "and let each of them join anew with another agent.yaml",
            file=cluster.file,
            field="layout",
        )
