"""Reads every object of a cluster from the server, by kind and name, in the normal form of `desired`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vaultpki.certificates import MOST_ISSUERS, ROOT, all_cas
from vaultpki.identity import change_notice, imported
from vaultpki.identity.access import APPROLE, SIGNER_LOGINS, approle_pools, jwt_roles, takes
from vaultpki.identity.adoption_record import FollowedAdoption, follow_adoption
from vaultpki.identity.applied import APPLIED, AppliedRecord
from vaultpki.identity.credentials import Identity, role_id
from vaultpki.model import Cluster
from vaultpki.provision.api_calls import read_request
from vaultpki.provision.desired import ENGINE_CONFIG
from vaultpki.provision.rotation_records import existing, read_key_record, read_move_record
from vaultpki.records import above
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.move import CREDENTIALS, MoveRecord, seen_locally
from vaultpki.records.paths import LEAVING, LOCKED, is_record
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import KeyRecord
from vaultpki.records.signer import SIGNER_RECORD
from vaultpki.vault import Answer, Json, Request, Vault, check_named, text
from vaultpki.vault.kv import Stored

# Records that the plan does not cover, or that are listed folder by folder.
_FOLDERS: Final = ("nodes", "pools")
_NOT_PLANNED: Final = frozenset(
    {
        APPLIED,
        CHANGES,
        "cluster",
        SIGNER_RECORD,
        "reports/",
        f"{LEAVING}/",
        f"{LOCKED}/",
        f"{ROTATION_FOLDER}/",
        f"{CREDENTIALS}/",
        *(f"{name}/" for name in _FOLDERS),
    }
)

# Every name of ours is of this form. Another one is not ours, and may not even fit into a path.
_OURS = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class CaMount:
    """What is on the mount of one CA.

    `issuer` and `pem` are the id and the certificate of the CA's own issuer, empty if it has none; `keyless` says that
    it has no key. `certificates` are those of its issuers by name, at most MOST_ISSUERS beside its own, empty if one
    could not be read. `count` is how many issuers the mount has, `keys` the names of its keys. `other` is the name of
    the other CA of a rotation, and `issuers` are as in `own_issuers`.
    """

    issuer: str = ""
    pem: str = ""
    certificates: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    keys: frozenset[str] = frozenset()
    other: str = ""
    issuers: Mapping[str, bool] = field(default_factory=dict)
    keyless: bool = False


@dataclass(frozen=True, slots=True)
class ServerObjects:
    """What the server holds of a cluster.

    `store_options` are those of the KV store. `cas` are by mount, `role_ids` those of the AppRoles on the listed mount
    by name. `pooled` are the AppRoles of the pooled mount, `orphans` those among them that belong to no pool. `leaving`
    are the nodes with an unfinished end. `rotations` are the records of CAs by domain, of those that have one. `notice`
    is the record that agents poll. `adopted` is the record of an adoption, and `keys` that of service-account keys,
    None if there is none. `move` is the record of a move, and `rotations` have each CA as this server has it then;
    `as_stored` are the same records as they are stored.
    """

    objects: dict[Key, Fields]
    store_options: Fields
    applied: AppliedRecord
    cas: Mapping[str, CaMount]
    role_ids: Mapping[str, str]
    pooled: tuple[str, ...]
    orphans: Mapping[str, Fields]
    leaving: tuple[str, ...]
    rotations: Mapping[str, RotationRecord] = field(default_factory=dict)
    notice: Stored[Changes] = field(default_factory=Stored)
    adopted: FollowedAdoption = field(default_factory=FollowedAdoption)
    keys: KeyRecord | None = None
    move: MoveRecord | None = None
    as_stored: Mapping[str, RotationRecord] = field(default_factory=dict)


def read_back(
    cluster: Cluster, vault: Vault, mounts: Collection[str], auths: Collection[str], policies: Iterable[str]
) -> ServerObjects:
    """Read what is on these mounts and auth mounts (of which `auths` has the last parts), and these policies."""
    store, prefix, kv = cluster.mount("config"), cluster.prefix, vault.api.secrets.kv.v2
    cas = [mount for mount in map(cluster.mount, all_cas(cluster)) if mount in mounts]
    former = [mount for ca in OLD_CAS if (mount := imported.mount(cluster, ca)) in mounts]
    requests = _lists(cluster, vault, cas, auths, store=store in mounts)
    requests += [vault.prepare.secrets.pki.list_roles(mount_point=mount) for mount in former]
    answers = {request.path: answer for request, answer in zip(requests, vault.many(requests), strict=True)}

    def names(path: str) -> tuple[str, ...]:
        return answers[path].keys if path in answers else ()

    def value(path: str) -> Json:
        return answers[path].data if path in answers and answers[path].found else {}

    listed, pooled = (names(f"auth/{prefix}/{kind}/role") for kind in ("listed", "pooled"))
    keys: list[Key] = [("policy", name) for name in policies]
    keys += [("config", f"{mount}/config/{name}") for mount in cas for name in ENGINE_CONFIG]
    keys += [("role", f"{mount}/{name}") for mount in (*cas, *former) for name in names(f"{mount}/roles")]
    if store in mounts:
        keys.append(("config", f"{store}/cluster"))
    for folder in _FOLDERS:
        keys += [("config", f"{store}/{folder}/{name}") for name in names(f"{store}/metadata/{folder}")]
    if SIGNER_RECORD in names(f"{store}/metadata"):
        keys.append(("config", f"{store}/{SIGNER_RECORD}"))
    keys += [("approle", f"{prefix}/listed/{name}") for name in listed]
    keys += [("approle", f"{prefix}/{SIGNER_LOGINS}/{name}") for name in names(f"auth/{prefix}/{SIGNER_LOGINS}/role")]
    if "jwt" in auths:
        keys.append(("config", f"auth/{prefix}/jwt/config"))
    keys += [("config", f"{jwt_roles(cluster)}/{name}") for name in names(jwt_roles(cluster))]
    objects = _read_objects(cluster, vault, keys)
    other = [("config", f"{store}/{name}") for name in names(f"{store}/metadata") if name not in _NOT_PLANNED]
    other += [("approle", f"{prefix}/pooled/{name}") for name in pooled if not APPROLE.fullmatch(name)]
    objects.update((key, {}) for key in other)
    # A cluster whose CAs were never rotated has no such folder.
    rotated = f"{ROTATION_FOLDER}/" in names(f"{store}/metadata")
    stored = existing(cluster, vault) if rotated else {}
    move = read_move_record(cluster, vault).record if rotated else None
    rotations = {domain: seen_locally(record, move) for domain, record in stored.items()}
    adopted = follow_adoption(cluster, vault) if rotated else FollowedAdoption()
    keys_record = read_key_record(cluster, vault).record if rotated and cluster.service_account_keys else None
    own = {mount: rotations.get(mount.rpartition("/")[2]) for mount in cas}
    read = vault.prepare.secrets.pki.read_issuer
    refs = [(mount, ref) for mount in cas for ref in _issuers(mount, answers, own[mount])[1].values() if ref]
    requests = [read(ref, mount_point=mount) for mount, ref in refs]
    found = vault.map(vault.call, requests)
    answers |= {request.path: answer for request, answer in zip(requests, found, strict=True)}
    record, notice = value(f"{store}/data/{APPLIED}").get("data"), f"{store}/data/{CHANGES}"
    applied = AppliedRecord.read(cluster, record) if isinstance(record, dict) else AppliedRecord()
    return ServerObjects(
        objects,
        value(f"{store}/config"),
        applied,
        {mount: _ca_mount(cluster, mount, answers, objects, own[mount]) for mount in cas},
        _role_ids(cluster, vault, listed),
        pooled,
        _orphans(cluster, vault, pooled, applied),
        kv.list_secrets(LEAVING, mount_point=store).keys if f"{LEAVING}/" in names(f"{store}/metadata") else (),
        rotations,
        change_notice.stored(answers[notice].data if notice in answers else {}),
        adopted,
        keys_record,
        move,
        stored,
    )


def own_issuers(ca: str, listed: Answer) -> dict[str, bool]:
    """Return the ids of a CA's issuers in its mount's list, each with whether it is the default.

    They are known by their names; so are the CAs of a root from outside. One of others counts only as the default: a
    plan warns of it by itself.
    """
    found = {id_: about.get("is_default") is True for id_, about in listed.key_info.items()}
    names = {id_: str(about.get("issuer_name") or "") for id_, about in listed.key_info.items()}
    return {
        id_: default
        for id_, default in found.items()
        if default or names[id_].startswith(f"{ca}-") or (ca == ROOT and above.is_name(names[id_]))
    }


def _lists(cluster: Cluster, vault: Vault, cas: Iterable[str], auths: Iterable[str], *, store: bool) -> list[Request]:
    """Return the requests for all lists of these mounts, for the store's options and for two of its records."""
    pki, kv, auth = vault.prepare.secrets.pki, vault.prepare.secrets.kv.v2, vault.prepare.auth
    requests: list[Request] = []
    for mount in cas:
        # hvac has no method for a list of keys.
        keys = Request("LIST", f"{mount}/keys")
        requests += [pki.list_issuers(mount_point=mount), keys, pki.list_roles(mount_point=mount)]
    for kind in auths:
        path = f"{cluster.prefix}/{kind}"
        requests.append(auth.jwt.list_roles(path=path) if kind == "jwt" else auth.approle.list_roles(mount_point=path))
    if store:
        mount = cluster.mount("config")
        requests += [
            kv.read_configuration(mount_point=mount),
            kv.read_secret(APPLIED, mount_point=mount, raise_on_deleted_version=False),
            kv.read_secret(CHANGES, mount_point=mount, raise_on_deleted_version=False),
            # hvac would end this path with a slash.
            Request("LIST", f"{mount}/metadata"),
            *(kv.list_secrets(folder, mount_point=mount) for folder in _FOLDERS),
        ]
    return requests


def own_issuer(mount: str) -> str:
    """Return the name of a mount's own issuer, which is that of its key too."""
    return f"{mount.rpartition('/')[2]}-1"


def _read_objects(cluster: Cluster, vault: Vault, keys: Iterable[Key]) -> dict[Key, Fields]:
    """Read these objects; one whose name is not of our form is there without fields."""
    readable = [key for key in keys if _OURS.fullmatch(key[1])]

    def read(key: Key) -> Fields | None:
        return _fields(cluster, key, vault.call(read_request(cluster, vault, key)))

    found = zip(readable, vault.map(read, readable), strict=True)
    return {key: {} for key in keys if not _OURS.fullmatch(key[1])} | {
        key: fields for key, fields in found if fields is not None
    }


def _fields(cluster: Cluster, key: Key, answer: Answer) -> Fields | None:
    if not answer.found:
        return None
    if key[0] == "policy":
        check_named(answer.data, "name", key[1], f"sys/policies/acl/{key[1]}")
        return _policy_rules(str(answer.data.get("policy", "")))
    if key[0] == "approle":
        return _without_null(answer.data)
    if is_record(cluster, key):
        value = answer.data.get("data")
        return value if isinstance(value, dict) else None
    return answer.data


def _role_ids(cluster: Cluster, vault: Vault, approles: Iterable[str]) -> dict[str, str]:
    names = [name for name in approles if _OURS.fullmatch(name)]
    found = vault.map(lambda name: role_id(cluster, vault, Identity("listed", name)), names)
    return {name: id_ for name, id_ in zip(names, found, strict=True) if id_ is not None}


def _orphans(cluster: Cluster, vault: Vault, approles: Iterable[str], applied: AppliedRecord) -> dict[str, Fields]:
    """Find the AppRoles of the pooled mount that belong to no pool of cluster.yaml, most by their names.

    One whose name fits may be of a former pool with the same names: its policy is read if the pools have changed
    since the last apply.
    """
    pools = approle_pools(cluster)
    policies = {
        name: [[f"{cluster.prefix}/pool/{pool.name}"] for pool in pools if takes(pool, name)]
        for name in approles
        if APPROLE.fullmatch(name)
    }
    orphans: dict[str, Fields] = {name: {} for name, allowed in policies.items() if not allowed}
    if applied.pools != {pool.name: pool.node_names for pool in pools}:
        fitting = [name for name, allowed in policies.items() if allowed]
        approle, mount = vault.api.auth.approle, f"{cluster.prefix}/pooled"
        found = vault.map(lambda name: approle.read_role(name, mount_point=mount), fitting)
        for name, answer in zip(fitting, found, strict=True):
            if answer.found and answer.data.get("token_policies") not in policies[name]:
                orphans[name] = {"token_policies": answer.data.get("token_policies")}
    return orphans


def _issuers(mount: str, answers: Mapping[str, Answer], rotation: RotationRecord | None) -> tuple[str, dict[str, str]]:
    """Return the id of a mount's own issuer, empty if it has none, and what to ask for each issuer by id.

    That is its name or its id, empty if the id is not of our form. The mount's own issuer is the one that the CA's
    record names. Without a record it has the name of ours or a key with that name: an apply that was interrupted has
    not named it, and somebody may have renamed it.
    """
    issuers, keys = answers[f"{mount}/issuers"].key_info, answers[f"{mount}/keys"].key_info
    ours = own_issuer(mount) if rotation is None else rotation.leaf.name
    our_keys = {id_ for id_, key in keys.items() if key.get("key_name") == ours}
    named = [id_ for id_, issuer in issuers.items() if issuer.get("issuer_name") == ours]
    keyed = [id_ for id_, issuer in issuers.items() if issuer.get("key_id") in our_keys]
    recorded = [rotation.leaf.issuer] if rotation is not None and rotation.leaf.issuer in issuers else []
    own = next(iter([*recorded, *named, *(keyed if rotation is None else ())]), "")
    others = [id_ for id_ in issuers if id_ != own][:MOST_ISSUERS]
    refs = {id_: id_ if _OURS.fullmatch(id_) else "" for id_ in others}
    if own:
        refs[own] = ours if own in named else own
    return own, refs


def _ca_mount(
    cluster: Cluster,
    mount: str,
    answers: Mapping[str, Answer],
    objects: dict[Key, Fields],
    rotation: RotationRecord | None,
) -> CaMount:
    """Return what is on a CA's mount, and add its issuers to `objects`: its own one, and those of others."""
    issuers, keys = answers[f"{mount}/issuers"].key_info, answers[f"{mount}/keys"].key_info
    own, refs = _issuers(mount, answers, rotation)
    other = _other(rotation, issuers)
    names = {id_: str(issuer.get("issuer_name") or id_) for id_, issuer in issuers.items()}
    ours = {own, other, *_crosses(rotation, issuers)}
    objects.update({("issuer", f"{mount}/issuer/{names[id_]}"): {} for id_ in issuers if id_ not in ours})
    found: dict[str, Json] = {}
    for id_, ref in refs.items():
        answer = answers.get(f"{mount}/issuer/{ref}")
        found[id_] = {}
        if answer and answer.found:
            check_named(answer.data, "issuer_id", id_, f"{mount}/issuer")
            found[id_] = answer.data
    if own:
        key = keys.get(str(issuers[own].get("key_id"))) or {}
        defaults = {"default": bool(issuers[own].get("is_default")), "default_key": bool(key.get("is_default"))}
        # Once one of its URLs was set, the empty ones read as null.
        objects["issuer", mount] = {**_without_null(found[own]), **defaults}
        if mount == cluster.mount(ROOT):
            text(found[own], "certificate")
    certificates = {id_: str(data.get("certificate") or "") for id_, data in found.items()}
    return CaMount(
        own,
        certificates.get(own, ""),
        {names[id_]: pem for id_, pem in certificates.items()},
        len(issuers),
        frozenset(str(key.get("key_name")) for key in keys.values()),
        names.get(other, ""),
        own_issuers(mount.rpartition("/")[2], answers[f"{mount}/issuers"]),
        keyless=bool(own) and not found[own].get("key_id"),
    )


def _crosses(rotation: RotationRecord | None, issuers: Mapping[str, Json]) -> list[str]:
    """Return the ids of certificates by which a root vouches for its successor, whose keys the record names."""
    if rotation is None or rotation.domain != ROOT:
        return []
    cas = [ca for ca in (rotation.old, rotation.new) if ca is not None]
    keys = {ca.key for ca in cas if ca.key}
    # A root from outside has no key there.
    heads = tuple(f"{ca.name}-by-" for ca in cas if not ca.key)
    names = {id_: str(each.get("issuer_name")) for id_, each in issuers.items()}
    return [
        id_
        for id_, name in names.items()
        if "-by-" in name and (issuers[id_].get("key_id") in keys or name.startswith(heads))
    ]


def _other(rotation: RotationRecord | None, issuers: Mapping[str, Json]) -> str:
    """Return the id of the issuer of the other CA of a rotation, which has no name as long as it is being made."""
    if rotation is None or rotation.new is None:
        return ""
    other = rotation.old if rotation.leaf is rotation.new else rotation.new
    if other.issuer in issuers:
        return other.issuer
    named = [id_ for id_, each in issuers.items() if each.get("issuer_name") == other.name]
    unnamed = [id_ for id_, each in issuers.items() if not each.get("issuer_name") and each.get("key_id") == other.key]
    return next(iter([*named, *unnamed]), "")


def _without_null(fields: Fields) -> Fields:
    """Return the fields of an object with [] for null: a list that was never set reads as null."""
    return {name: [] if value is None else value for name, value in fields.items()}


def _policy_rules(text: str) -> Fields:
    """Return the rules path by path if the policy is JSON as we write it, else its text."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return {"policy": text}
    if isinstance(parsed, dict) and parsed.keys() == {"path"} and isinstance(parsed["path"], dict):
        return dict(parsed["path"])
    return {"policy": text}
