"""Refuses changes that nodes which take part could not follow: layout, type of token keys, what an adoption needs."""

from __future__ import annotations

from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.errors import SpecError, StateConflict
from vaultpki.identity import reports
from vaultpki.identity.access import fits_pattern
from vaultpki.identity.credentials import Identity, count
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki import foreign_cas, key_numbers
from vaultpki.places import Layout
from vaultpki.provision.observe import Observation
from vaultpki.records.adoption import OLD_CAS, RECORD, AdoptionRecord, AdoptionState
from vaultpki.records.move import is_old
from vaultpki.records.rotation import Method, State
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import first_few, named, printable
from vaultpki.vault import Vault


def refuse_moved(cluster: Cluster, seen: Observation) -> None:
    """Raise StateConflict if the cluster has moved from this server to another one, where all its nodes are."""
    record = seen.found.move
    if record is None or record.state is not State.DONE:
        return
    if any(is_old(each, record) for each in seen.found.as_stored.values()):
        there = first_few(record.new.addresses)
        raise StateConflict(
            f"{cluster.name} has moved from this server to {there}, at {record.new.prefix}; write that as `vault` and "
            f"`prefix` into {cluster.file}, and take `move` out"
        )


def refuse_layout(cluster: Cluster, vault: Vault, seen: Observation) -> None:
    """Raise StateConflict if the applied layout is another one and a node has a live credential, or logs in by a token.

    Nodes that log in by their issuer's token have no credential in Vault; those that have reported count.
    """
    record = seen.observed.objects.get(("config", f"{cluster.mount('config')}/cluster"))
    applied = (record or {}).get("layout", Layout.DOCUMENT.value)
    if record is None or applied == cluster.layout.value:
        return
    from vaultpki.identity import nodes

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
            f"{cluster.file}: layout: the nodes have the layout {applied}, and a node gets its layout when it joins. "
            f"End the credentials of {named(sorted(live))} (`vaultpki lock`; take a pool with jwt out and apply). "
            "Then apply again, and let each of them join anew with another agent.yaml"
        )


def refuse_by_adoption(cluster: Cluster, vault: Vault, seen: Observation) -> None:
    """Raise SpecError if cluster.yaml lacks an old CA of an adoption, StateConflict if it lacks a node that takes part.

    Or if it asks for service-account keys: the agents of machines would put theirs in the place of kubeadm's. Or if it
    has pools that join by token: the controller managers sign, or nobody does.

    A node is lacking too whose pool is, or whose name fits it no more. In prepared nodes may leave, since nothing that
    a component reads has changed there. A locked one is gone for good.
    """
    record = seen.found.adopted.record
    if record is None or not record.active:
        return
    if cluster.service_account_keys:
        raise StateConflict(
            f"{cluster.file}: service_account_keys: {cluster.name} is being taken over ({record.state.value}), and "
            "sa.key stays kubeadm's until that is done: take this line out, and write it again then"
        )
    if cluster.token_pools:
        raise StateConflict(
            f"{cluster.file}: pools: {cluster.name} is being taken over ({record.state.value}), and nodes of "
            f"{cluster.token_pools[0].name} join by token. Take such pools out, and write them again once that is done"
        )
    refuse_missing_cas(cluster, record)
    if record.state is AdoptionState.PREPARED:
        return
    listed = {node.name for node in cluster.nodes}
    gone = [Identity("listed", name) for name in sorted(seen.found.role_ids) if name not in listed]
    # Those that no pool has ever taken are no nodes.
    applied = seen.found.applied.pools.values()
    orphans = [name for name in sorted(seen.found.orphans) if any(fits_pattern(each, name) for each in applied)]
    gone += [Identity("pooled", name) for name in orphans]
    counts = vault.map(lambda identity: count(cluster, vault, identity), gone)
    # None: this token may not look, so the node may be at work.
    working = [identity.name for identity, number in zip(gone, counts, strict=True) if number != 0]
    working += _by_token(cluster, vault, seen)
    if working:
        field = "nodes" if working[0] in seen.found.role_ids else "pools"
        raise StateConflict(
            f"{cluster.file}: {field}: {cluster.name} is being taken over ({record.state.value}), and "
            f"{first_few(working)} would lose the agent half-way. Put it back until the adoption is done. If the "
            f"machine itself is gone, delete its node (`kubectl delete node {working[0]}`), lock it (`vaultpki lock "
            f"{working[0]}{cluster.file_option}`) and run this again"
        )


def _by_token(cluster: Cluster, vault: Vault, seen: Observation) -> list[str]:
    """Return the nodes that have logged in by a token for a pool that was applied, and that cluster.yaml lacks."""
    pools = {pool.name for pool in cluster.pools if pool.jwt}
    folder = f"{cluster.mount('config')}/pools"
    applied = [name for name in reports.pools_in(cluster, vault, "jwt") if name not in pools]
    applied = [name for name in applied if ("config", f"{folder}/{name}") in seen.observed.objects]
    found = reports.token_identities(cluster, vault, applied) if applied else ()
    return sorted(printable(each.name) for each in found if not each.disabled)


def adopted_domains(cluster: Cluster) -> tuple[str, ...]:
    """Return the domains whose old CAs an adoption of this cluster must name: an etcd may keep its own CA."""
    etcd = any(NodeRole.ETCD in node.roles for node in cluster.nodes)
    etcd = etcd or any(each.ca == "etcd" for each in cluster.authority.also_trust)
    return tuple(domain for domain in OLD_CAS if domain != "etcd" or etcd)


def refuse_key_type(cluster: Cluster, seen: Observation) -> None:
    """Raise StateConflict if keys that must be certified again are of another type than Vault would take from now on.

    Their CA is being replaced, or a rotation takes over the one that nodes share; neither could go on, nor back.
    """
    key = ("role", f"{cluster.mount(SERVICE_ACCOUNT)}/{SERVICE_ACCOUNT}")
    before, wanted = seen.observed.objects.get(key), seen.wanted.get(key)
    record, keys = seen.found.rotations.get(SERVICE_ACCOUNT), seen.found.keys
    replaced = record is not None and record.active and record.method is Method.NEW_KEY
    taken_over = keys is not None and keys.active and bool(keys.shared)
    if before is None or wanted is None or not (replaced or taken_over):
        return
    if all(before.get(name) == wanted.get(name) for name in ("key_type", "key_bits")):
        return
    if other := key_numbers.other_types(cluster, keys):
        what = f"the CA {SERVICE_ACCOUNT} is" if replaced else f"{SERVICE_ACCOUNT_KEYS} are"
        raise StateConflict(
            f"{cluster.file}: certificates.{SERVICE_ACCOUNT}.key: {what} being rotated, and Vault has to certify the "
            f"key of {first_few(sorted(other))} again, which is {min(other.values())}: put that back until it is done"
        )


def refuse_missing_cas(cluster: Cluster, record: AdoptionRecord) -> None:
    """Raise SpecError if cluster.yaml lacks an old CA that the record of an active adoption names.

    Nodes would stop trusting it while certificates of it are in use, and none could be put back, or told apart. Raises
    StateConflict if the record lacks the old CAs of a domain: its certificates would change before anybody trusts them.
    """
    named = foreign_cas.read(cluster) if record.active else {}
    lacking = [domain for domain in adopted_domains(cluster) if domain not in record.old] if record.active else []
    if lacking:
        new = f", or if `ca.also_trust.{lacking[0]}` of {cluster.file} is new, take it out until the adoption is done"
        raise StateConflict(
            f"the record of the adoption of {cluster.name} ({record.state.value}) names no old CA of "
            f"{first_few(lacking)}, which the cluster has. Find out who wrote it, and write the last right one back "
            f"(`bao kv rollback -mount={cluster.mount('config')} -version=N {RECORD}`, or the same with `vault`)"
            f"{new if lacking[0] in named else ''}"
        )
    for domain, hashes in record.old.items() if record.active else ():
        missing = set(hashes) - {each.fingerprint for each in named.get(domain, ())}
        if missing:
            raise SpecError(
                f"{cluster.name} is being taken over ({record.state.value}), and the old CA of {domain} with the "
                f"SHA-256 {min(missing)} is not there. Put its file back until the adoption is done, or given up by "
                "`vaultpki adopt abort`",
                file=cluster.file,
                field=f"ca.also_trust.{domain}",
            )
