"""Reads back what a server holds of one cluster, in the normal form of `desired`, and refuses what is not ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.desired import Fields, Key, Known, desired, marker
from vaultpki.errors import ForeignObject
from vaultpki.model import Cluster
from vaultpki.plan import Observed
from vaultpki.vault import Json, Request, Vault

# A mount's description is written in the same request that makes it, so it is the one mark no crash can leave out.
APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen: the objects, what only the server knows, and where each mount's own issuer lies."""

    observed: Observed
    known: Known
    issuers: Mapping[str, str] = field(default_factory=dict)
    applied_names: tuple[str, ...] = ()


def observe(cluster: Cluster, vault: Vault, known: Known) -> Sight:
    """Everything of this cluster on the server.

    `known` carries the spec's Vault addresses and the server's capabilities; the rest of it is filled in here.
    Raises ForeignObject where a path of ours holds something else, before anything was written.
    """
    mounts, auths, policies = vault.many(
        [Request("GET", "sys/mounts"), Request("GET", "sys/auth"), Request("LIST", "sys/policies/acl")]
    )
    objects: dict[Key, Fields] = {}
    present = _mounts(cluster, mounts.data, objects)
    accessors = _auths(cluster, auths.data, objects)
    reading = _Reading(cluster, vault, present, accessors)
    prefix = f"{cluster.prefix}/"
    reading.ask_policies([name for name in policies.keys if name.startswith(prefix)])
    reading.run()
    objects |= reading.objects
    applied = reading.applied
    role_ids = reading.role_ids()
    reading.refuse_foreign_approles(role_ids)
    stored = reading.cluster_record.get("vault") or {}
    filled = Known(
        addresses=known.addresses or tuple(stored.get("addresses") or ()),
        ca_pem=known.ca_pem or stored.get("ca_pem") or None,
        accessors=accessors,
        root_sha256=reading.root_sha256 or known.root_sha256,
        role_ids=role_ids,
        bounds_dates=known.bounds_dates,
    )
    managed = frozenset(_key(name) for name in applied)
    wanted = desired(cluster, filled)
    # Only fields that we manage take part; Vault adds others from one version to the next.
    for key, fields in objects.items():
        if key in wanted and key[0] != "policy" and not _record(cluster, key):
            objects[key] = {name: value for name, value in fields.items() if name in wanted[key]}
    return Sight(Observed(objects, managed), filled, reading.issuers, applied)


def _record(cluster: Cluster, key: Key) -> bool:
    return key[0] == "config" and key[1].startswith(f"{cluster.mount('config')}/")


def _key(text: str) -> Key:
    kind, _, name = text.partition(" ")
    return kind, name


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
        config = entry.get("config") or {}
        objects["mount", path] = {
            "type": entry["type"],
            "default_ttl": config.get("default_lease_ttl"),
            "max_ttl": config.get("max_lease_ttl"),
            "version": (entry.get("options") or {}).get("version"),
        }
    return frozenset(present)


def _auths(cluster: Cluster, found: Json, objects: dict[Key, Fields]) -> dict[str, str]:
    ours = {f"{cluster.prefix}/{mount}": "approle" for mount in ("listed", "pooled")}
    _no_overlap(cluster, found, ours, "auth/")
    accessors = {}
    for path, kind in ours.items():
        entry = found.get(f"{path}/")
        if entry is not None:
            _is_ours(cluster, f"auth/{path}", kind, entry)
            objects["auth", path] = {"type": entry["type"]}
            accessors[path.rpartition("/")[2]] = str(entry.get("accessor"))
    return accessors


def _is_ours(cluster: Cluster, path: str, kind: str, entry: Json) -> None:
    if entry.get("type") != kind or entry.get("description") != marker(cluster):
        raise ForeignObject(
            f"{path} already exists in Vault ({entry.get('type')}, {entry.get('description') or 'no description'!r}) and "
            f"was not made by vaultpki for cluster {cluster.name}; choose another `prefix` in {cluster.file}"
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


class _Reading:
    """The second round of reads, all of them under way at once, each with what is to be done with its answer."""

    def __init__(self, cluster: Cluster, vault: Vault, present: frozenset[str], accessors: Mapping[str, str]) -> None:
        self._cluster, self._vault = cluster, vault
        self._config = cluster.mount("config")
        self._present = present
        self._listed = "listed" in accessors
        self._policies: list[str] = []
        self.objects: dict[Key, Fields] = {}
        self.issuers: dict[str, str] = {}
        self.applied: tuple[str, ...] = ()
        self.cluster_record: Json = {}
        self.root_sha256 = ""
        self._approles: dict[str, str] = {}

    def ask_policies(self, names: list[str]) -> None:
        self._policies = names

    def run(self) -> None:
        first = [Request("GET", f"sys/policies/acl/{name}") for name in self._policies]
        pki = [mount for mount in map(self._cluster.mount, (ROOT, *ISSUING_CAS)) if mount in self._present]
        for mount in pki:
            first += [Request("LIST", f"{mount}/issuers"), Request("LIST", f"{mount}/roles")]
            first += [Request("GET", f"{mount}/config/{name}") for name in ("urls", "crl", "auto-tidy")]
        if self._config in self._present:
            first += [Request("GET", f"{self._config}/data/{name}") for name in ("cluster", APPLIED)]
            first += [Request("LIST", f"{self._config}/metadata/{name}") for name in ("nodes", "pools")]
        if self._listed:
            first.append(Request("LIST", f"auth/{self._cluster.prefix}/listed/role"))
        second: list[Request] = []
        for request, answer in zip(first, self._vault.many(first), strict=True):
            if answer.found:
                second += self._take(request, answer.data, answer.keys if request.method == "LIST" else ())
        for request, answer in zip(second, self._vault.many(second), strict=True):
            if answer.found:
                self._take(request, answer.data, ())

    def role_ids(self) -> dict[str, str]:
        """The role ids that our own records name, by node."""
        head = f"{self._config}/nodes/"
        return {
            name.removeprefix(head): str(fields["role_id"])
            for (kind, name), fields in self.objects.items()
            if kind == "config" and name.startswith(head) and fields.get("role_id")
        }

    def refuse_foreign_approles(self, role_ids: Mapping[str, str]) -> None:
        wanted = {node.name for node in self._cluster.nodes}
        for node, role_id in self._approles.items():
            if node in wanted and role_ids.get(node) != role_id:
                path = f"auth/{self._cluster.prefix}/listed/role/{node}"
                raise ForeignObject(
                    f"{path} was not made by vaultpki, and whoever made it may hold a secret id of it; "
                    f"delete it (`bao delete {path}`) and apply again"
                )

    def _take(self, request: Request, data: Json, names: tuple[str, ...]) -> list[Request]:
        path = request.path
        mount, _, last = path.rpartition("/")
        if path.startswith("sys/policies/acl/"):
            self.objects["policy", path.removeprefix("sys/policies/acl/")] = _policy_rules(data)
        elif path == f"auth/{self._cluster.prefix}/listed/role":
            return [Request("GET", f"{path}/{n}{more}") for n in names for more in ("", "/role-id")]
        elif path.startswith(f"auth/{self._cluster.prefix}/listed/role/"):
            if last == "role-id":
                self._approles[mount.rpartition("/")[2]] = str(data.get("role_id"))
            else:
                self.objects["approle", f"{self._cluster.prefix}/listed/{last}"] = data
        elif path.startswith(f"{self._config}/metadata/"):
            return [Request("GET", f"{self._config}/data/{last}/{name}") for name in names]
        elif path.startswith(f"{self._config}/data/"):
            self._take_record(path.removeprefix(f"{self._config}/data/"), data.get("data"))
        elif last == "roles":
            return [Request("GET", f"{path}/{name}") for name in names]
        elif mount.endswith("/roles"):
            self.objects["role", f"{mount.removesuffix('/roles')}/{last}"] = data
        elif last == "issuers":
            return self._take_issuers(mount, data.get("key_info") or {})
        elif mount.endswith("/issuer"):
            self._take_issuer(mount.removesuffix("/issuer"), data)
        else:
            self.objects["config", path] = data
        return []

    def _take_record(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            return
        if name == APPLIED:
            self.applied = tuple(str(entry) for entry in value.get("objects") or ())
            return
        if name == "cluster":
            self.cluster_record = value
        self.objects["config", f"{self._config}/{name}"] = value

    def _take_issuers(self, mount: str, found: Mapping[str, Any]) -> list[Request]:
        ours = f"{mount.rpartition('/')[2]}-1"
        named = {id_: info.get("issuer_name") for id_, info in found.items()}
        mine = next((id_ for id_, name in named.items() if name == ours), None)
        if mine is None:
            # A run that ended between taking the signed CA in and naming it.
            mine = next((id_ for id_, name in named.items() if not name and len(named) == 1), None)
        for id_, name in named.items():
            if id_ != mine:
                self.objects["issuer", f"{mount}/issuer/{name or id_}"] = {}
        return [] if mine is None else [Request("GET", f"{mount}/issuer/{mine}")]

    def _take_issuer(self, mount: str, data: Json) -> None:
        self.issuers[mount] = str(data.get("issuer_id"))
        self.objects["issuer", mount] = {
            "issuer_name": data.get("issuer_name"),
            "leaf_not_after_behavior": data.get("leaf_not_after_behavior"),
        }
        if mount == self._cluster.mount(ROOT):
            self.root_sha256 = fingerprint(str(data.get("certificate")))


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate's DER form, in hex."""
    # Not x509.py, whose import costs more than the whole of a plan's requests.
    import hashlib
    import ssl

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).hexdigest()


def _policy_rules(data: Json) -> Fields:
    text = str(data.get("policy", ""))
    try:
        rules = json.loads(text)["path"]
    except (ValueError, KeyError, TypeError):
        return {"policy": text}
    return dict(rules) if isinstance(rules, dict) else {"policy": text}
