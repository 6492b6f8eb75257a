"""Refuses another layout for a cluster whose nodes take part: a node gets its layout when it joins."""

from __future__ import annotations

from vaultpki.errors import StateConflict
from vaultpki.identity import nodes
from vaultpki.identity.credentials import Identity, count
from vaultpki.model import Cluster
from vaultpki.places import Layout
from vaultpki.provision.impact import named
from vaultpki.provision.observe import Observation
from vaultpki.vault import Vault


def refuse(cluster: Cluster, vault: Vault, seen: Observation) -> None:
    """Raise StateConflict if the applied layout is another one and a node has a live credential, or logs in by a token.

    Nodes that log in by their issuer's token have no credential in Vault; those that have reported count.
    """
    record = seen.observed.objects.get(("config", f"{cluster.mount('config')}/cluster"))
    applied = (record or {}).get("layout", Layout.DOCUMENT.value)
    if record is None or applied == cluster.layout.value:
        return
    listed = [Identity("listed", name) for name in seen.found.role_ids]
    counts = vault.map(lambda identity: count(cluster, vault, identity), listed)
    # None: this token may not look, so the node may have one.
    live = [identity.name for identity, number in zip(listed, counts, strict=True) if number != 0]
    # An identity that fits no pool does not belong to a node, and this apply ends it.
    found = nodes.read_nodes(cluster, vault)
    live += [each.name for each in found.members if each.kind != "listed" and not each.locked]
    live += [f"the nodes of pool {pool}" for pool in found.lacking]
    if live:
        raise StateConflict(
            f"{cluster.file}: layout: the nodes have the layout {applied}, and a node gets its layout when it joins: "
            f"end the credentials of {named(sorted(live))} (`vaultpki lock`; take a pool with jwt out and apply), "
            "apply again, and let each of them join anew with another agent.yaml"
        )
