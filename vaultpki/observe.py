"""Reads back what a server holds of one cluster, in the normal form of `desired`, and refuses what is not ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Final

from vaultpki import anchor, dangers
from vaultpki.ca_facts import CaFacts, lives, read_ca
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.desired import MARK, STORE_OPTIONS, desired, marker
from vaultpki.errors import ForeignObject, SpecError
from vaultpki.identities import auth_mounts
from vaultpki.known import UNKNOWN, Fields, Key, Known
from vaultpki.live_credentials import noted
from vaultpki.model import Cluster
from vaultpki.plan import Observed
from vaultpki.reading import APPROLE, LEAVING, Memory, Reading
from vaultpki.values import dataclass
from vaultpki.vault import Capabilities, Json, Vault, member

_CAS: Final = (ROOT, *ISSUING_CAS)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen: the objects, what only the server knows, where each mount's own issuer lies, what is remembered.

    `wanted` is what should be there, `approles` are the role ids that the listed AppRoles really have, by name, `keys`
    the names of the CA keys on each mount, and `neighbours` the prefixes of other clusters. `cas` are the CAs that are
    there, `pooled` the nodes with an AppRole of a pool, and `ending` those whose identity is to be ended, or of which a
    run that was cut off has not ended all.
    """

    observed: Observed
    known: Known
    issuers: Mapping[str, str] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    approles: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    wanted: Mapping[Key, Fields] = field(default_factory=dict)
    neighbours: frozenset[str] = frozenset()
    cas: Mapping[str, CaFacts] = field(default_factory=dict)
    pooled: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()


def observe(cluster: Cluster, vault: Vault, fallback: Known, *, expected: Iterable[Key] = ()) -> Sight:
    """Everything of this cluster on the server, as its active node knows it.

    `fallback` says where nodes find Vault when the spec does not, and in which namespace we ask. `expected` are the
    objects that an apply has just made, all of the cluster's: they are asked for at once. Raises ForeignObject where a
    mount of ours cannot be, since something else is there, SpecError where the server has no namespaces.
    """
    reading = Reading(cluster, vault)
    health, mounts, auths, policies = reading.begin(expected)
    capabilities = Capabilities.of(health)
    anchor.refuse_no_namespaces(cluster, capabilities)
    if not mounts.found:
        # Every namespace has this list (api-docs/system/mounts); OpenBao says so itself.
        raise SpecError(f"{vault.address} has no namespace {vault.namespace}, or shows no mounts in it; make it first")
    objects: dict[Key, Fields] = {}
    present = _mounts(cluster, mounts.entries, objects)
    accessors = _auths(cluster, auths.entries, objects)
    # No more than what may be ours: below our prefix may lie that of another cluster.
    ours = re.compile(rf"{re.escape(cluster.prefix)}/(operator|enroller|(node|pool)/[^/]+)")
    reading.run(present, accessors, [name for name in policies.keys if ours.fullmatch(name)])
    objects |= reading.objects
    if cluster.mount("config") in present:
        # A store of version 1 has none of these, and gets them with its upgrade.
        objects["mount", cluster.mount("config")] |= {**STORE_OPTIONS, **reading.store_options}
    ending = _ending(cluster, reading)
    objects |= ending
    cas = _cas(cluster, reading.own_certificates)
    maxima = {ca: objects.get(("mount", cluster.mount(ca)), {}).get("max_ttl") or 0 for ca in cas}
    addresses, ca_pem = anchor.where(cluster, fallback.addresses, fallback.ca_pem)
    filled = Known(
        addresses=addresses,
        ca_pem=ca_pem,
        namespace=fallback.namespace if capabilities.namespaces else "",
        accessors=accessors,
        root_sha256=reading.root_sha256 or UNKNOWN,
        role_ids=_role_ids(cluster, vault, reading),
        bounds_dates=capabilities.bounds_dates,
        bounds_addresses=capabilities.bounds_addresses,
        binds_tokens=capabilities.binds_tokens,
        ca_lives=lives(cluster, cas, maxima),
    )
    wanted = desired(cluster, filled)
    # Only fields that we manage take part; Vault adds others from one version to the next.
    for key, fields in objects.items():
        if key in wanted and key[0] != "policy" and not _record(cluster, key):
            objects[key] = {name: value for name, value in fields.items() if name in wanted[key]}
    # An auth mount among them has our mark, and needs no memory.
    marked = {key for key in objects if key[0] == "auth"}
    found = dangers.find(cluster, reading.certificates, reading.counts, reading.root_pem)
    observed = Observed(objects, reading.memory.objects | marked | ending.keys(), found)
    return Sight(
        observed,
        filled,
        reading.issuers,
        reading.memory,
        reading.approles,
        reading.keys,
        wanted,
        _neighbours(cluster, mounts.entries),
        cas,
        reading.pooled,
        tuple(sorted({name.rpartition("/")[2] for _, name in ending})),
    )


def refuse_foreign(cluster: Cluster, sight: Sight) -> None:
    """Raises ForeignObject where what is seen was put there by others and must not be taken for what is wanted."""
    objects = sight.observed.objects
    for other in sorted(sight.neighbours):
        above, below = sorted((cluster.prefix, other), key=len)
        for folder in ("node", "pool"):
            if f"{below}/".startswith(f"{above}/{folder}/"):
                raise ForeignObject(
                    f"the clusters at {above} and {below} cannot live in one Vault, since both would have policies "
                    f"below {above}/{folder}; choose another `prefix` in {cluster.file}"
                )
    for node in cluster.nodes:
        if node.name in sight.approles and sight.known.role_ids.get(node.name) != sight.approles[node.name]:
            path = f"auth/{cluster.prefix}/listed/role/{node.name}"
            raise ForeignObject(
                f"{path} was not made by vaultpki, and whoever made it may hold a secret id of it; "
                f"delete it (`bao delete {path}`) and apply again"
            )
    for key, rules in sight.wanted.items():
        if key[0] == "policy" and key not in sight.memory.objects and objects.get(key, rules) != rules:
            raise ForeignObject(
                f"the policy {key[1]} was not made by vaultpki, and somebody may hold it; "
                f"delete it (`bao policy delete {key[1]}`) and apply again"
            )
    root = cluster.mount(ROOT)
    pinned = objects.get(("config", f"{cluster.mount('config')}/cluster"), {}).get("root_sha256")
    if pinned and ("issuer", root) not in objects:
        raise ForeignObject(
            f"the root CA of {root} is gone, or its issuer and key have other names than root-1, and every node of "
            f"{cluster.name} is pinned to it; name it root-1 again, bring it back from a backup, or give the cluster "
            "up with `vaultpki destroy` and apply again"
        )
    anchor.refuse_other_root(cluster, sight.known.root_sha256 if ("issuer", root) in objects else None)


def made_by_us(sight: Sight, key: Key) -> bool:
    """Whether it is a mount or a policy that is the cluster's own; what lies on a mount goes with it.

    A mount of ours has our mark, or would have been refused. A policy has none: ours are those that the memory names,
    and where it is lost, or was never written, those that say just what ours would.
    """
    if key[0] != "policy":
        return key[0] in ("auth", "mount")
    remembered = sight.memory.objects
    return key in remembered if remembered else sight.observed.objects[key] == sight.wanted.get(key)


def _role_ids(cluster: Cluster, vault: Vault, reading: Reading) -> dict[str, str]:
    """The role ids of the listed nodes' AppRoles, as far as they are ours."""
    # The memory before the records: a record is what somebody may have changed by hand.
    known = reading.recorded_role_ids() | dict(reading.memory.role_ids)
    for name, actual in reading.approles.items():
        # An end of credentials that was cut off has given the AppRole another one, and has written that down before.
        if known.get(name) != actual and actual in noted(cluster, vault, name):
            known[name] = actual
    return known


def _ending(cluster: Cluster, reading: Reading) -> dict[Key, Fields]:
    """AppRoles on the pooled mount that belong to no pool, and notes of ends that were cut off.

    They need no memory to be removed: the mount is ours, and whoever has an AppRole on it counts as a pooled node. A
    note of a node whose AppRole is there and stays is that of an `unenroll`, a `lock` or an `enroll --replace`, to be
    repeated by whoever began it.
    """
    approles = {("approle", f"{cluster.prefix}/pooled/{name}"): fields for name, fields in reading.orphans.items()}
    listed = {node.name for node in cluster.nodes}
    gone = [n for n in reading.leaving if n in reading.orphans or (n not in reading.pooled and n not in listed)]
    notes = {("config", f"{cluster.mount('config')}/{LEAVING}/{n}") for n in gone if APPROLE.fullmatch(n)}
    return {**approles, **{note: {} for note in notes}}


def _cas(cluster: Cluster, certificates: Mapping[str, str]) -> dict[str, CaFacts]:
    found = {ca: read_ca(ca, certificates[cluster.mount(ca)]) for ca in _CAS if cluster.mount(ca) in certificates}
    return {ca: facts for ca, facts in found.items() if facts is not None}


def _record(cluster: Cluster, key: Key) -> bool:
    return key[0] == "config" and key[1].startswith(f"{cluster.mount('config')}/")


def _neighbours(cluster: Cluster, found: Json) -> frozenset[str]:
    """The prefixes of the other clusters on the server, by the marks of their mounts."""
    marked = {path for path, entry in found.items() if str(entry.get("description")).startswith(MARK)}
    return frozenset(path.rstrip("/").rpartition("/")[0] for path in marked) - {cluster.prefix}


def _mounts(cluster: Cluster, found: Json, objects: dict[Key, Fields]) -> frozenset[str]:
    ours = {cluster.mount(ca): "pki" for ca in (ROOT, *ISSUING_CAS)} | {cluster.mount("config"): "kv"}
    _no_overlap(cluster, found, ours, "")
    present = set()
    for path, kind in ours.items():
        entry = found.get(f"{path}/")
        if entry is None:
            continue
        _is_ours(cluster, path, kind, entry)
        present.add(path)
        version = member(entry, "options").get("version")
        objects["mount", path] = {"type": entry["type"], **_ttls(entry), "version": version}
    return frozenset(present)


def _auths(cluster: Cluster, found: Json, objects: dict[Key, Fields]) -> dict[str, str]:
    ours = {f"{cluster.prefix}/{mount}": kind for mount, kind in auth_mounts(cluster).items()}
    _no_overlap(cluster, found, ours, "auth/")
    jwt = f"{cluster.prefix}/jwt"
    if (found.get(f"{jwt}/") or {}).get("description") == marker(cluster):
        ours[jwt] = "jwt"
    accessors = {}
    for path, kind in ours.items():
        entry = found.get(f"{path}/")
        if entry is not None:
            _is_ours(cluster, f"auth/{path}", kind, entry)
            token_type = member(entry, "config").get("token_type")
            objects["auth", path] = {"type": entry["type"], "token_type": token_type, **_ttls(entry)}
            if kind == "approle":
                lockout = member(member(entry, "config"), "user_lockout_config")
                objects["auth", path]["lockout"] = lockout.get("user_lockout_disable") is not True
            accessors[path.rpartition("/")[2]] = str(entry.get("accessor"))
    return accessors


def _ttls(entry: Json) -> Fields:
    config = member(entry, "config")
    return {"default_ttl": config.get("default_lease_ttl"), "max_ttl": config.get("max_lease_ttl")}


def _is_ours(cluster: Cluster, path: str, kind: str, entry: Json) -> None:
    if entry.get("type") != kind or entry.get("description") != marker(cluster):
        # Another prefix is another root CA: not what somebody wants whose mount was only described anew.
        hint = f"if it was, put its description {marker(cluster)!r} back, else " if entry.get("type") == kind else ""
        raise ForeignObject(
            f"{path} already exists in Vault ({entry.get('type')}, {entry.get('description') or 'no description'!r}) "
            f"and was not made by vaultpki for cluster {cluster.name}; {hint}choose another `prefix` in {cluster.file}"
        )


def _no_overlap(cluster: Cluster, found: Json, ours: Mapping[str, str], kind: str) -> None:
    """Vault takes no mount below another one, and one above ours would hide it."""
    for path in found:
        for mine in ours:
            if path.rstrip("/") != mine and (f"{mine}/".startswith(path) or path.startswith(f"{mine}/")):
                raise ForeignObject(
                    f"{kind}{mine} cannot be mounted, since {kind}{path} exists in Vault; "
                    f"choose another `prefix` in {cluster.file}"
                )
