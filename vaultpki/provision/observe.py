"""Observes a cluster on the server: what is there, what should be there, and what only the server knows.

Objects of others in the place of ours are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vaultpki.certificates import ROOT, all_cas, ca_subject, issuing_cas
from vaultpki.errors import BadAnswer, ForeignObject, StateConflict
from vaultpki.identity import anchor, imported, outside_signer, root_in_force
from vaultpki.identity.access import APPROLE, SIGNER_LOGINS, WRITTEN, auth_mounts
from vaultpki.model import Cluster
from vaultpki.pki.key_numbers import key_numbers
from vaultpki.procedure.phases import Side
from vaultpki.provision import dangers as found_dangers
from vaultpki.provision.ca_facts import CaFacts, lives, read_ca
from vaultpki.provision.dangers import CasAbove
from vaultpki.provision.desired import CHAIN, MADE_BY, STORE_OPTIONS, desired, marker
from vaultpki.provision.plan import Danger, Observed
from vaultpki.provision.read_back import CaMount, ServerObjects, read_back
from vaultpki.records import above
from vaultpki.records.adoption import OLD_CAS, RECORD
from vaultpki.records.move import HAND_OVER_ROLE, is_old
from vaultpki.records.paths import LEAVING, is_record
from vaultpki.records.rotation import CA_TABLE
from vaultpki.records.server_facts import UNKNOWN, Fields, Key, ServerFacts, shared
from vaultpki.values import pem
from vaultpki.vault import HEALTH, Capabilities, Json, Vault, member, own_program


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed.

    `wanted` is what should be there. `cas` are the facts of the existing CAs by name, `neighbours` the prefixes of
    other clusters. `ending` are the nodes whose identity an apply ends, or whose end by an earlier one is unfinished.
    `cluster` has the root that the server has, `target` the one of cluster.yaml; `moves` are that one and the one that
    cluster.yaml asks for, in words, if these differ.
    """

    found: ServerObjects
    observed: Observed
    facts: ServerFacts
    wanted: Mapping[Key, Fields]
    cas: Mapping[str, CaFacts]
    neighbours: frozenset[str]
    ending: tuple[str, ...]
    cluster: Cluster
    target: Cluster
    moves: tuple[str, str] | None = None


def observe(cluster: Cluster, vault: Vault, where: ServerFacts) -> Observation:
    """Observe everything of this cluster as the server's active node knows it.

    `where` says where nodes find Vault if cluster.yaml does not, and which namespace the requests name. Raises
    ForeignObject if a mount of ours is not possible because something else exists there, and SpecError if the server
    has no namespaces.
    """
    vault.pin_to_leader()
    ask = vault.prepare.sys
    # At once, on the connections that all that follows needs too.
    health, mounts, auths, policies = vault.map(
        vault.call, [HEALTH, ask.list_mounted_secrets_engines(), ask.list_auth_methods(), ask.list_acl_policies()]
    )
    # Every server and every namespace has these two mounts.
    for answer, own, path in ((mounts, "sys/", "sys/mounts"), (auths, "token/", "sys/auth")):
        if own not in answer.data:
            raise BadAnswer(f"the answer to {path} does not list {own}; check the address and any proxy in between")
    capabilities = Capabilities.of(health)
    anchor.refuse_no_namespaces(cluster, capabilities)
    if not mounts.found:
        # Every namespace has this list (api-docs/system/mounts); OpenBao says so itself.
        raise StateConflict(
            f"{vault.address} has no namespace {vault.settings.namespace}, or shows no mounts in it; make it first"
        )
    own_mounts = _mounts(cluster, mounts.entries)
    own_auths, accessors = _auths(cluster, auths.entries)
    # Below our prefix may be the prefix of another cluster.
    ours = re.compile(rf"{re.escape(cluster.prefix)}/({'|'.join(WRITTEN)}|{SIGNER_LOGINS}|(node|pool)/[^/]+)")
    present = [name for _, name in own_mounts]
    found = read_back(cluster, vault, present, accessors, [name for name in policies.keys if ours.fullmatch(name)])
    target, cluster = cluster, _in_force(cluster, found)
    ending = _ending(cluster, found)
    objects = {**own_mounts, **own_auths, **found.objects, **ending}
    store = ("mount", cluster.mount("config"))
    if store in objects:
        # A store of version 1 has none of these, and gets them with its upgrade.
        objects[store] = {**objects[store], **STORE_OPTIONS, **found.store_options}
    read = {
        ca: read_ca(ca, found.cas[mount].pem) for ca in all_cas(cluster) if (mount := cluster.mount(ca)) in found.cas
    }
    cas = {ca: ca_facts for ca, ca_facts in read.items() if ca_facts is not None}
    maxima = {ca: objects["mount", cluster.mount(ca)].get("max_ttl") or 0 for ca in cas}
    made = lives(cluster, cas, maxima)
    for ca, life in lives(cluster, _others(cluster, found), maxima).items():
        # As long as a mount has two CAs, it keeps the TTLs of the longer one.
        made[ca] = max(made.get(ca, 0), life)
    moving = ROOT in found.rotations and found.rotations[ROOT].active
    chain = found_dangers.cas_above(cluster, found.cas, datetime.now(UTC), rotating=moving)
    facts = replace(
        _facts(cluster, vault, where, capabilities, found),
        accessors=accessors,
        ca_lives=made,
        waiting=_waiting(cluster, found),
        left_out=chain.left_out,
        mute=_mute(found),
        imported=frozenset(ca for ca in OLD_CAS if ("mount", imported.mount(cluster, ca)) in own_mounts),
    )
    _add_outside(cluster, found, facts, objects)
    if found.move is not None and found.move.active:
        # Made by the move, and taken away with its end.
        objects.pop(("role", f"{cluster.mount('kubernetes')}/{HAND_OVER_ROLE}"), None)
    going = _add_leaving(cluster, chain, objects)
    wanted = desired(cluster, facts)
    dangers = tuple(found_dangers.issuers(cluster, found.cas))
    lost = _lost(cluster, found, {danger.name for danger in dangers})
    for mount in lost:
        # No apply changes it: nodes install leaves only of the CA that the record names.
        del wanted["issuer", mount]
        objects.pop(("issuer", mount), None)
    # Only fields that we manage are compared; Vault adds others from one version to the next.
    for key, fields in objects.items():
        if key in wanted and key[0] != "policy" and not is_record(cluster, key):
            objects[key] = {name: value for name, value in fields.items() if name in wanted[key]}
    return Observation(
        found,
        # An auth mount has our description, and need not be in the record to be ours.
        Observed(
            shared(objects, wanted),
            found.applied.objects | own_auths.keys() | ending.keys() | going,
            (*dangers, *lost.values(), *chain.dangers, *_ignored(cluster, found)),
        ),
        facts,
        wanted,
        cas,
        _neighbours(cluster, mounts.entries),
        tuple(sorted({name.rpartition("/")[2] for _, name in ending})),
        cluster,
        target,
        None if target is cluster else (_kind(cluster), _kind(target)),
    )


def _ignored(cluster: Cluster, found: ServerObjects) -> tuple[Danger, ...]:
    """Return the record of an adoption that nobody follows."""
    problem = found.adopted.problem
    return (Danger(f"config {cluster.mount('config')}/{RECORD}", problem),) if problem else ()


def _mute(found: ServerObjects) -> frozenset[str]:
    """Return the CAs that sign no more on the old server of a move: nodes trust only those of the new one."""
    record = found.move
    if record is None or CA_TABLE.phases[record.state].accepts != Side.NEW:
        return frozenset()
    return frozenset(ca for ca, own in found.as_stored.items() if is_old(own, record))


def _in_force(cluster: Cluster, found: ServerObjects) -> Cluster:
    """Return the cluster with the root that the server has: another one in cluster.yaml is a rotation of the root."""
    from vaultpki.pki import x509

    mount = found.cas.get(cluster.mount(ROOT), CaMount())
    root = x509.readable(mount.pem)[:1] if mount.issuer else ()
    if not root or (root_in_force.is_ours(cluster, root[0]) and mount.keyless):
        return cluster
    others = [pem for name, pem in mount.certificates.items() if above.is_name(name)]
    return root_in_force.in_force(cluster, root[0], others)


def _kind(cluster: Cluster) -> str:
    outside = cluster.authority.outside
    return f"from outside ({above.sha256(outside.anchor)})" if outside is not None else "of vaultpki"


def _waiting(cluster: Cluster, found: ServerObjects) -> frozenset[str]:
    """Return the issuing CAs that a person must still have signed; one that was there and is lost is none of them."""
    outside = cluster.authority.outside
    if outside is None or not outside.by_people:
        return frozenset()
    there = {ca for ca in issuing_cas(cluster) if found.cas.get(cluster.mount(ca), CaMount()).issuer}
    return frozenset(issuing_cas(cluster)) - there - found.rotations.keys()


def _add_outside(cluster: Cluster, found: ServerObjects, facts: ServerFacts, objects: dict[Key, Fields]) -> None:
    """Add what is there of a root from outside: the CAs of its chain, and keys that wait for a signer."""
    outside, root = cluster.authority.outside, cluster.mount(ROOT)
    if ROOT in found.rotations:
        # Of the other root: its rotation puts them there, and takes them away.
        for name in found.cas.get(root, CaMount()).certificates:
            if above.is_name(name):
                objects.pop(("issuer", f"{root}/issuer/{name}"), None)
    if outside is None:
        return
    there = found.cas.get(root, CaMount()).certificates
    wanted = {name: text for name, text in above.names(cluster).items() if name not in facts.left_out}
    right = [name for name, text in wanted.items() if name in there and _same(there[name], text)]
    if ("issuer", root) in objects:
        objects["issuer", root][CHAIN] = sorted(right)
    for name in right:
        objects.pop(("issuer", f"{root}/issuer/{name}"), None)
    for ca in facts.waiting:
        name = f"{ca}-1"
        if name in found.cas.get(cluster.mount(ca), CaMount()).keys:
            objects["key", cluster.mount(ca)] = {"key_name": name}


def _add_leaving(cluster: Cluster, chain: CasAbove, objects: dict[Key, Fields]) -> frozenset[Key]:
    """Add the CAs above that an apply deletes, and take out those that stay; returns the keys of the former."""
    head = f"{cluster.mount(ROOT)}/issuer"
    for name in chain.staying:
        objects.pop(("issuer", f"{head}/{name}"), None)
    going: dict[Key, Fields] = {
        ("issuer", f"{head}/{name}"): {"subject": subject} for name, subject in chain.leaving.items()
    }
    objects.update(going)
    return frozenset(going)


def _refuse_other_kind_of_root(cluster: Cluster, seen: Observation) -> None:
    """Raise StateConflict if the issuer called as our root has its name and no key: nobody could sign by it."""
    mount, facts = cluster.mount(ROOT), seen.cas.get(ROOT)
    if facts is None or not seen.found.cas[mount].issuer:
        return
    ours = facts.common_name.startswith(ca_subject(cluster.name, ROOT))
    if ours and cluster.authority.outside is not None:
        raise StateConflict(
            f"the root CA at {mount} is ours by its name, and has no key, and {cluster.file} asks for one from outside "
            "(ca.root). Nobody can sign by it, and no rotation leads from it to another one. Restore its key. Or if no "
            f"node has joined yet, apply again after `vaultpki destroy{cluster.file_option}`"
        )


def _same(one: str, other: str) -> bool:
    return pem.fingerprints(one) == pem.fingerprints(other)


def _others(cluster: Cluster, found: ServerObjects) -> dict[str, CaFacts]:
    """Return the facts of the other CA on each mount whose CA is being rotated."""
    mounts = {ca: found.cas[mount] for ca in found.rotations if (mount := cluster.mount(ca)) in found.cas}
    pems = {ca: mount.certificates.get(mount.other, "") for ca, mount in mounts.items()}
    read = {ca: read_ca(ca, pem) for ca, pem in pems.items() if pem}
    # How long a root from outside lives, no mount decides.
    return {
        ca: facts
        for ca, facts in read.items()
        if facts is not None and (ca != ROOT or facts.common_name.startswith(ca_subject(cluster.name, ROOT)))
    }


def _lost(cluster: Cluster, found: ServerObjects, foreign: Collection[str]) -> dict[str, Danger]:
    """Return, by mount, what is lost of a CA that was rotated: its issuer, or its record.

    `foreign` are the names of issuers that are not a CA of ours.
    """
    dangers = {}
    for ca in issuing_cas(cluster):
        mount, record = cluster.mount(ca), found.rotations.get(ca)
        there = found.cas.get(mount, CaMount())
        if record is not None and mount in found.cas and not there.issuer:
            why = (
                f"is gone, and nodes get no certificates of {ca}; `vaultpki ca continue{cluster.file_option}` makes it "
                "again if its key is there, or says what to do"
            )
            dangers[mount] = Danger(f"issuer {mount}/issuer/{record.leaf.name}", why)
        later = rf"{ca}-(?:[2-9]|[1-9][0-9]+|[0-9]+r[0-9]+)"
        names = [name for name in there.certificates if re.fullmatch(later, name)]
        ours = [name for name in names if f"issuer {mount}/issuer/{name}" not in foreign]
        if record is None and ours:
            why = (
                f"only a rotation makes this CA, and there is no record of one. Nothing of {ca}'s CA is changed until "
                f"`vaultpki ca recover {ca}{cluster.file_option}` has written the record again"
            )
            dangers[mount] = Danger(f"issuer {mount}/issuer/{max(ours)}", why)
    return dangers


def _pinned_root(cluster: Cluster, found: ServerObjects) -> str:
    """Return the certificate of the root that nodes are pinned to, as PEM: the old one until its rotation is done."""
    mount, record = found.cas.get(cluster.mount(ROOT), CaMount()), found.rotations.get(ROOT)
    if record is not None and record.active and record.leaf is record.new:
        return mount.certificates.get(mount.other) or mount.pem
    return mount.pem if mount.issuer else ""


def _successors(cluster: Cluster, found: ServerObjects) -> frozenset[str]:
    """Return the roots of ours that the pinned root vouches for; without a rotation there are none."""
    from vaultpki.pki import x509

    root = x509.readable(_pinned_root(cluster, found)) if ROOT in found.rotations else ()
    pems = found.cas[cluster.mount(ROOT)].certificates.values() if root else ()
    shown = [facts for pem in pems for facts in x509.readable(pem)[:1]]
    return anchor.accepted_for(cluster, root[0], shown, datetime.now(UTC)) if root else frozenset()


def refuse_other_root(cluster: Cluster, seen: Observation) -> None:
    """Raise ForeignObject if the root is another one than cluster.yaml names, or there is none."""
    shown = seen.facts.root_sha256 if ("issuer", cluster.mount(ROOT)) in seen.observed.objects else None
    accepted, record = _successors(cluster, seen.found), seen.found.rotations.get(ROOT)
    anchor.refuse_other_root(cluster, shown, accepted=accepted, record=record)


def _facts(
    cluster: Cluster, vault: Vault, where: ServerFacts, capabilities: Capabilities, found: ServerObjects
) -> ServerFacts:
    from vaultpki.pki import x509

    addresses, ca_pem = anchor.where(cluster, where.addresses, where.ca_pem)
    root = _pinned_root(cluster, found)
    return ServerFacts(
        addresses=addresses,
        ca_pem=ca_pem,
        namespace=where.namespace if capabilities.namespaces else "",
        root_sha256=x509.fingerprint(root.encode()) if root else UNKNOWN,
        role_ids=_role_ids(cluster, found),
        rotations=found.rotations,
        key_numbers=key_numbers(cluster, found.keys, found.objects),
        openbao=capabilities.openbao,
    )


def refuse_foreign(cluster: Cluster, seen: Observation) -> None:
    """Raise ForeignObject if others made something in the place of ours."""
    objects, program = seen.observed.objects, own_program(openbao=seen.facts.openbao)
    for other in sorted(seen.neighbours):
        above, below = sorted((cluster.prefix, other), key=len)
        for folder in ("node", "pool"):
            if f"{below}/".startswith(f"{above}/{folder}/"):
                raise ForeignObject(
                    f"the clusters at {above} and {below} cannot live in one Vault, since both would have policies "
                    f"below {above}/{folder}; choose another `prefix` in {cluster.file}"
                )
    strange = [
        f"listed/role/{node.name}"
        for node in cluster.nodes
        if node.name in seen.found.role_ids and not _is_our_approle(cluster, seen.found, node.name)
    ]
    signers = {
        key for key in seen.wanted if key[0] == "approle" and key[1].startswith(f"{cluster.prefix}/{SIGNER_LOGINS}/")
    }
    strange += [
        f"{SIGNER_LOGINS}/role/{name.rpartition('/')[2]}"
        for _, name in signers & objects.keys() - seen.found.applied.objects
    ]
    for each in sorted(strange):
        path = f"auth/{cluster.prefix}/{each}"
        raise ForeignObject(
            f"{path} was not made by vaultpki, and whoever made it may hold a secret id of it; "
            f"delete it (`{program} delete {path}`) and apply again"
        )
    for key, rules in seen.wanted.items():
        if key[0] == "policy" and key not in seen.found.applied.objects and objects.get(key, rules) != rules:
            raise ForeignObject(
                f"the policy {key[1]} was not made by vaultpki, and somebody may hold it; "
                f"delete it (`{program} policy delete {key[1]}`) and apply again"
            )
    # Before the first write: an apply that has put it there could not go on.
    outside_signer.refuse_our_name(seen.target)
    _refuse_other_kind_of_root(cluster, seen)
    root = cluster.mount(ROOT)
    pinned = objects.get(("config", f"{cluster.mount('config')}/cluster"), {}).get("root_sha256")
    if pinned and ("issuer", root) not in objects:
        raise ForeignObject(
            f"the root CA of {root} is gone, or its issuer and key have other names than root-1. Every node of "
            f"{cluster.name} is pinned to it. Name it root-1 again, or restore it from a backup. Or give the cluster "
            "up with `vaultpki destroy` and apply again"
        )
    refuse_other_root(seen.target, seen)


def _is_our_approle(cluster: Cluster, found: ServerObjects, name: str) -> bool:
    """Return whether an apply made a listed node's AppRole: a record says so that only an applier may write.

    Its role id proves nothing. `lock` gives it another one, so whoever may lock could have `plan` advise to delete it.
    """
    if found.applied.objects:
        return ("approle", f"{cluster.prefix}/listed/{name}") in found.applied.objects
    return ("config", f"{cluster.mount('config')}/nodes/{name}") in found.objects


def _role_ids(cluster: Cluster, found: ServerObjects) -> dict[str, str]:
    """Return the role ids with which the listed nodes' AppRoles were made; of one without a record, that of now."""
    head = f"{cluster.mount('config')}/nodes/"
    known = {
        name.removeprefix(head): str(fields["role_id"])
        for (kind, name), fields in found.objects.items()
        if kind == "config" and name.startswith(head) and fields.get("role_id")
    }
    # The record `applied` counts more than a node's own: that one is more likely to be edited by hand.
    known |= found.applied.role_ids
    return {name: id_ for name, id_ in found.role_ids.items() if _is_our_approle(cluster, found, name)} | known


def _ending(cluster: Cluster, found: ServerObjects) -> dict[Key, Fields]:
    """Return the AppRoles on the pooled mount that belong to no pool, and notes of ends that an apply has to finish.

    They need not be in the record `applied`: the mount is ours, and whoever has an AppRole on it is a pooled node. If
    the node's AppRole exists and stays, the note is of `unenroll`, `lock` or `enroll --replace`, which is repeated by
    whoever began it.
    """
    approles = {("approle", f"{cluster.prefix}/pooled/{name}"): fields for name, fields in found.orphans.items()}
    staying = {node.name for node in cluster.nodes}.union(found.pooled) - found.orphans.keys()
    gone = [name for name in found.leaving if name not in staying and APPROLE.fullmatch(name)]
    return {**approles, **{("config", f"{cluster.mount('config')}/{LEAVING}/{name}"): {} for name in gone}}


def _neighbours(cluster: Cluster, found: Json) -> frozenset[str]:
    """Return the prefixes of the other clusters on the server, which the descriptions of their mounts tell."""
    marked = {path for path, entry in found.items() if str(entry.get("description")).startswith(MADE_BY)}
    return frozenset(path.rstrip("/").rpartition("/")[0] for path in marked) - {cluster.prefix}


def _mounts(cluster: Cluster, found: Json) -> dict[Key, Fields]:
    ours = {cluster.mount(ca): "pki" for ca in all_cas(cluster)} | {cluster.mount("config"): "kv"}
    # Made by `ca import --key`; where something else has such a path, there is no imported CA.
    former = [imported.mount(cluster, ca) for ca in OLD_CAS]
    ours |= {path: "pki" for path in former if found.get(f"{path}/", {}).get("description") == marker(cluster)}
    return {
        ("mount", path): {"type": entry["type"], **_ttls(entry), "version": member(entry, "options").get("version")}
        for path, entry in _own_mounts(cluster, found, ours, "").items()
    }


def _auths(cluster: Cluster, found: Json) -> tuple[dict[Key, Fields], dict[str, str]]:
    """Return the cluster's auth mounts, and their accessors by the last part of their paths."""
    ours = {f"{cluster.prefix}/{mount}": kind for mount, kind in auth_mounts(cluster).items()}
    for last, kind in (("jwt", "jwt"), (SIGNER_LOGINS, "approle")):
        if (found.get(f"{cluster.prefix}/{last}/") or {}).get("description") == marker(cluster):
            # Made when a pool had `jwt`, or cluster.yaml had `signer`.
            ours[f"{cluster.prefix}/{last}"] = kind
    mounts: dict[Key, Fields] = {}
    accessors = {}
    for path, entry in _own_mounts(cluster, found, ours, "auth/").items():
        config = member(entry, "config")
        mounts["auth", path] = {"type": entry["type"], "token_type": config.get("token_type"), **_ttls(entry)}
        if entry["type"] == "approle":
            lockout = member(config, "user_lockout_config")
            mounts["auth", path]["lockout"] = lockout.get("user_lockout_disable") is not True
        accessors[path.rpartition("/")[2]] = str(entry.get("accessor"))
    return mounts, accessors


def _own_mounts(cluster: Cluster, found: Json, ours: Mapping[str, str], kind: str) -> dict[str, Json]:
    """Return those of our mounts that exist; `ours` are their types by path. Raises ForeignObject as `observe`."""
    for path in found:
        for mine in ours:
            # Vault allows no mount below another one, and one above ours would hide it.
            if path.rstrip("/") != mine and (f"{mine}/".startswith(path) or path.startswith(f"{mine}/")):
                raise ForeignObject(
                    f"{kind}{mine} cannot be mounted, since {kind}{path} exists in Vault; "
                    f"choose another `prefix` in {cluster.file}"
                )
    own = {path: found[f"{path}/"] for path in ours if f"{path}/" in found}
    for path, entry in own.items():
        if entry.get("type") == ours[path] and entry.get("description") == marker(cluster):
            continue
        # Another prefix means another root CA, which nobody wants whose mount only got another description.
        same = entry.get("type") == ours[path]
        hint = f"if it was, put its description {marker(cluster)!r} back, else " if same else ""
        raise ForeignObject(
            f"{kind}{path} already exists in Vault ({entry.get('type')}, "
            f"{entry.get('description') or 'no description'!r}) and was not made by vaultpki for cluster "
            f"{cluster.name}; {hint}choose another `prefix` in {cluster.file}"
        )
    return own


def _ttls(entry: Json) -> Fields:
    config = member(entry, "config")
    return {"default_ttl": config.get("default_lease_ttl"), "max_ttl": config.get("max_lease_ttl")}
