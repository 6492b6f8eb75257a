"""Removes a cluster from the server."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass

from vaultpki.certificates import ROOT
from vaultpki.errors import VaultpkiError
from vaultpki.identity import anchor, nodes, reports
from vaultpki.identity.access import holder_of
from vaultpki.identity.ending import end_entities, locked_names, noted, read_note, remove_locks
from vaultpki.identity.token_rights import refuse_weak_token
from vaultpki.model import Cluster, Pool
from vaultpki.provision.api_calls import delete_request, object_path
from vaultpki.provision.observe import Observation, observe, refuse_other_root
from vaultpki.records.server_facts import Key, ServerFacts
from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class Removal:
    """What a destroy removes, and the policies of our names that it keeps, since nothing shows that apply made them."""

    seen: Observation
    doomed: tuple[Key, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Living:
    """How many nodes can log in, how many have reported, and how many there are of either.

    `problem` says why they could not be counted; "" if they were.
    """

    credentials: int = 0
    reported: int = 0
    nodes: int = 0
    problem: str = ""


def count_living(cluster: Cluster, vault: Vault) -> Living:
    """Count the nodes that live from the cluster. Raises nothing: what cannot be read is removed all the same."""
    try:
        members = nodes.read_nodes(cluster, vault).members
    except VaultpkiError as error:
        return Living(problem=str(error))
    open_ = [not each.locked for each in members]
    told = [each.report is not None for each in members]
    return Living(sum(open_), sum(told), sum(map(operator.or_, open_, told)))


def find(cluster: Cluster, vault: Vault, where: ServerFacts) -> Removal:
    """Return what `destroy` removes. Raises StateConflict if there is nothing of the cluster."""
    seen = observe(cluster, vault, where)
    if ("issuer", cluster.mount(ROOT)) in seen.observed.objects:
        # A missing root is not a reason to keep the rest.
        refuse_other_root(cluster, seen)
    doomed = tuple(key for key in seen.observed.objects if _made_by_us(seen, key))
    kept = tuple(
        name
        for kind, name in seen.wanted
        if kind == "policy" and (kind, name) in seen.observed.objects and (kind, name) not in doomed
    )
    if not doomed and not kept:
        raise anchor.missing(cluster, vault)
    return Removal(seen, doomed, kept)


def destroy(
    cluster: Cluster,
    vault: Vault,
    where: ServerFacts,
    *,
    progress: Callable[[str], None],
    step: Callable[[int], None] = lambda total: None,
    keeps: Collection[str] = (),
) -> tuple[str, ...]:
    """Remove everything that apply made, and nothing else. A run that was interrupted continues when it is repeated.

    `where` is as for `apply`; `progress` is called with each path that was deleted, and `step` after each with how many
    there are in all, for policies from any thread. The mounts in `keeps` stay. Returns the policies that were kept, as
    in `Removal`. Raises as `find`.
    """
    found = find(cluster, vault, where)
    seen, doomed = found.seen, tuple(key for key in found.doomed if key[1] not in keeps)
    if doomed:
        refuse_weak_token(cluster, vault, {object_path(cluster, vault, key): "delete" for key in doomed})
    # Policies first: without the record, a pool's policy is known as ours by its rules, which name its auth mount.
    policies = [key for key in doomed if key[0] == "policy"]

    def remove(key: Key) -> None:
        vault.call(delete_request(cluster, vault, key))
        step(len(doomed))

    vault.map(remove, policies)
    for key in policies:
        progress(object_path(cluster, vault, key))
    for kind, name in doomed:
        if kind == "auth":
            delete_auth_mount(cluster, vault, seen, name)
            progress(object_path(cluster, vault, (kind, name)))
            step(len(doomed))
    # The store is last: it holds the record of what is ours.
    mounts = sorted((name for kind, name in doomed if kind == "mount"), key=cluster.mount("config").__eq__)
    for name in mounts:
        vault.call(delete_request(cluster, vault, ("mount", name)))
        progress(object_path(cluster, vault, ("mount", name)))
        step(len(doomed))
    return found.kept


def delete_auth_mount(cluster: Cluster, vault: Vault, seen: Observation, name: str) -> None:
    """Delete an auth mount, and end the tokens of everyone who logged in there."""
    accessor = seen.facts.accessors[name.rpartition("/")[2]]
    aliases = _aliases(cluster, vault, seen, name)
    # Before and after: a run that is interrupted in between leaves no entity, and a login in between made another one.
    end_entities(vault, accessor, aliases)
    vault.call(delete_request(cluster, vault, ("auth", name)))
    end_entities(vault, accessor, aliases)
    if name == f"{cluster.prefix}/jwt":
        # Another mount at this path has another accessor, and knows nobody who logged in at this one.
        holders = {name: holder_of(cluster, name) for name in locked_names(cluster, vault)}
        gone = [name for name, who in holders.items() if who is None or (isinstance(who, Pool) and who.jwt)]
        remove_locks(cluster, vault, gone)


def _made_by_us(seen: Observation, key: Key) -> bool:
    """Return whether it is a mount or a policy of the cluster; what is on a mount goes with it.

    Mounts of others were refused when they were read. A policy is ours if the record `applied` names it; if that
    record is lost or was never written, if it says exactly what ours would.
    """
    if key[0] != "policy":
        return key[0] in ("auth", "mount")
    recorded = seen.found.applied.objects
    return key in recorded if recorded else seen.observed.objects[key] == seen.wanted.get(key)


def _aliases(cluster: Cluster, vault: Vault, seen: Observation, name: str) -> list[str]:
    """Return the aliases of logins at an auth mount, as far as they are known.

    They are the present and former role ids of every AppRole, and at the jwt mount the names of nodes that reported or
    were locked.
    """
    if name == f"{cluster.prefix}/jwt":
        known = {each.name for each in reports.token_identities(cluster, vault)}
        return sorted(known.union(locked_names(cluster, vault)))
    approles = vault.api.auth.approle.list_roles(mount_point=name).keys
    read = vault.prepare.auth.approle.read_role_id
    found = vault.many([read(approle, mount_point=name) for approle in approles])
    there = {str(answer.data.get("role_id")) for answer in found if answer.found}
    in_notes = vault.map(lambda node: read_note(cluster, vault, node), sorted(noted(cluster, vault)))
    return sorted(there.union(seen.facts.role_ids.values(), *in_notes))
