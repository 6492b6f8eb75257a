"""Reads back what a server holds of one cluster, in the normal form of `desired`, and refuses what is not ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Final

from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.desired import (
    ENGINE_CONFIG,
    MARK,
    STORE_OPTIONS,
    UNKNOWN,
    Fields,
    Key,
    Known,
    auth_mounts,
    desired,
    jwt_roles,
    marker,
)
from vaultpki.errors import CertificateUnreadable, ForeignObject
from vaultpki.model import VERSION, Cluster
from vaultpki.plan import Observed
from vaultpki.values import dataclass
from vaultpki.vault import HEALTH, Answer, Capabilities, Json, Request, Vault, member, text

# Written before what it names is made, so that no crash leaves an object that nobody knows as ours.
APPLIED: Final = "applied"

# Where records lie that are no part of the plan, or are listed folder by folder.
_FOLDERS: Final = ("nodes", "pools")
_NO_PLAN: Final = frozenset({APPLIED, "cluster", "reports/", "leaving/", *(f"{folder}/" for folder in _FOLDERS)})

# Every name we give is one of these; a name that is not was given by others, and may not even fit into a path.
_OURS = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class Memory:
    """What the record `applied` says: every object that an apply made or was about to make, and role ids by node."""

    objects: frozenset[Key] = frozenset()
    role_ids: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Mapping[str, object]) -> Memory:
        """What a record says; what is no line of ours in it is passed over."""

        def pairs(name: str) -> list[tuple[str, str]]:
            lines = (line.partition(" ") for line in str(record.get(name) or "").splitlines())
            return [(first, second) for first, _, second in lines if second]

        return cls(frozenset(pairs("objects")), dict(pairs("role_ids")))

    def record(self) -> Json:
        """The record that says so."""
        # Lines in one string: both servers refuse a request of more than a thousand strings, or 500 in a list.
        return {
            "version": VERSION,
            "objects": "\n".join(sorted(f"{kind} {name}" for kind, name in self.objects)),
            "role_ids": "\n".join(sorted(f"{node} {role_id}" for node, role_id in self.role_ids.items())),
        }


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen: the objects, what only the server knows, where each mount's own issuer lies, what is remembered.

    `wanted` is what should be there, `approles` are the role ids that the listed AppRoles really have, by name, `keys`
    the names of the CA keys on each mount, and `neighbours` the prefixes of other clusters.
    """

    observed: Observed
    known: Known
    issuers: Mapping[str, str] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    approles: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    wanted: Mapping[Key, Fields] = field(default_factory=dict)
    neighbours: frozenset[str] = frozenset()


def observe(cluster: Cluster, vault: Vault, fallback: Known, *, expected: Iterable[Key] = ()) -> Sight:
    """Everything of this cluster on the server, as its active node knows it.

    `fallback` says where nodes find Vault when neither the spec nor an earlier apply does, and in which namespace we
    ask. `expected` are the objects that an apply has just made, all of the cluster's: they are asked for at once.
    Raises ForeignObject where a mount of ours cannot be, since something else is there.
    """
    reading = _Reading(cluster, vault)
    health, mounts, auths, policies = reading.begin(expected)
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
    stored = objects.get(("config", f"{cluster.mount('config')}/cluster"), {}).get("vault") or {}
    addresses = cluster.vault.addresses or tuple(stored.get("addresses") or ())
    capabilities = Capabilities.of(health)
    filled = Known(
        addresses=addresses or fallback.addresses,
        ca_pem=(cluster.vault.ca_pem or stored.get("ca_pem") or None) if addresses else fallback.ca_pem,
        namespace=fallback.namespace if capabilities.namespaces else "",
        accessors=accessors,
        root_sha256=reading.root_sha256 or UNKNOWN,
        # The memory before the records: a record is what somebody may have changed by hand.
        role_ids=reading.recorded_role_ids() | dict(reading.memory.role_ids),
        bounds_dates=capabilities.bounds_dates,
        bounds_addresses=capabilities.bounds_addresses,
        binds_tokens=capabilities.binds_tokens,
    )
    wanted = desired(cluster, filled)
    # Only fields that we manage take part; Vault adds others from one version to the next.
    for key, fields in objects.items():
        if key in wanted and key[0] != "policy" and not _record(cluster, key):
            objects[key] = {name: value for name, value in fields.items() if name in wanted[key]}
    # An auth mount among them has our mark, and needs no memory.
    marked = {key for key in objects if key[0] == "auth"}
    observed = Observed(objects, reading.memory.objects | marked)
    neighbours = _neighbours(cluster, mounts.entries)
    return Sight(observed, filled, reading.issuers, reading.memory, reading.approles, reading.keys, wanted, neighbours)


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


def made_by_us(sight: Sight, key: Key) -> bool:
    """Whether it is a mount or a policy that is the cluster's own; what lies on a mount goes with it.

    A mount of ours has our mark, or would have been refused. A policy has none: ours are those that the memory names,
    and where it is lost, or was never written, those that say just what ours would.
    """
    if key[0] != "policy":
        return key[0] in ("auth", "mount")
    remembered = sight.memory.objects
    return key in remembered if remembered else sight.observed.objects[key] == sight.wanted.get(key)


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


# A request, and what is made of its answer: that may ask for more.
_Ask = tuple[Request, Callable[[Answer], "Iterable[_Ask]"]]


class _Reading:
    """A server read in rounds, all requests of a round under way at once.

    What is likely to be asked in a later round is asked for ahead.
    """

    def __init__(self, cluster: Cluster, vault: Vault) -> None:
        self._cluster, self._vault = cluster, vault
        self._config = cluster.mount("config")
        self._applied = Request("GET", f"{self._config}/data/{APPLIED}")
        self._ahead: dict[Request, Answer] = {}
        self._named_issuers: dict[str, dict[str, Json]] = {}
        self.objects: dict[Key, Fields] = {}
        self.issuers: dict[str, str] = {}
        self.memory = Memory()
        self.root_sha256 = ""
        self.approles: dict[str, str] = {}
        self.keys: dict[str, frozenset[str]] = {}
        self.store_options: Fields = {}

    def begin(self, expected: Iterable[Key]) -> list[Answer]:
        """What the server tells of itself, all its mounts, all its auth mounts and the names of all its policies."""
        requests = [
            HEALTH,
            Request("GET", "sys/mounts"),
            Request("GET", "sys/auth"),
            Request("LIST", "sys/policies/acl"),
        ]
        ahead = [*requests, self._applied]
        keys = frozenset(expected)
        if keys:
            mounts = frozenset(name for kind, name in keys if kind == "mount")
            auths = frozenset(name.rpartition("/")[2] for kind, name in keys if kind == "auth")
            ahead += [request for request, _ in self._lists(mounts, auths)]
            ahead += self._guesses(keys, mounts)
        self._note(ahead, self._vault.pin_to_leader(*ahead))
        return self._answers(requests)

    def run(self, mounts: frozenset[str], auths: Iterable[str], policies: Iterable[str]) -> None:
        """What lies behind those."""
        if self._config in mounts:
            self._remembered(*self._answers([self._applied]))
        asks = [*self._each(policies, "policy", "", "sys/policies/acl/", self._policy), *self._lists(mounts, auths)]
        guesses = self._guesses(self.memory.objects, mounts)
        if guesses:
            ahead = [
                request for request in dict.fromkeys([*(r for r, _ in asks), *guesses]) if request not in self._ahead
            ]
            self._note(ahead, self._vault.glance(ahead))
        while asks:
            answers = self._answers([request for request, _ in asks])
            asks = [more for (_, take), answer in zip(asks, answers, strict=True) for more in take(answer)]

    def _note(self, requests: Iterable[Request], answers: Iterable[Answer | None]) -> None:
        self._ahead |= {request: answer for request, answer in zip(requests, answers, strict=True) if answer}

    def _answers(self, requests: Sequence[Request]) -> list[Answer]:
        missing = [request for request in requests if request not in self._ahead]
        self._note(missing, self._vault.many(missing))
        return [self._ahead[request] for request in requests]

    def _guesses(self, keys: Iterable[Key], mounts: Iterable[str]) -> list[Request]:
        """What the lists will lead to where these objects are there."""
        guesses = []
        for kind, name in keys:
            head, _, last = name.rpartition("/")
            if not name.startswith(f"{self._cluster.prefix}/") or not _OURS.fullmatch(name):
                continue
            if kind == "role":
                guesses.append(f"{head}/roles/{last}")
            elif kind == "policy":
                guesses.append(f"sys/policies/acl/{name}")
            elif kind == "approle":
                guesses += [f"auth/{head}/role/{last}", f"auth/{head}/role/{last}/role-id"]
            elif kind == "config" and head.rpartition("/")[0] == self._config:
                guesses.append(f"{self._config}/data/{name.removeprefix(self._config + '/')}")
        if guesses:
            guesses += [f"{mount}/issuer/{_own_issuer(mount)}" for mount in sorted(mounts) if mount != self._config]
        return [Request("GET", path) for path in guesses]

    def _lists(self, mounts: frozenset[str], auths: Iterable[str]) -> list[_Ask]:
        asks: list[_Ask] = []
        for mount in (mount for mount in map(self._cluster.mount, (ROOT, *ISSUING_CAS)) if mount in mounts):
            # In this order: who an issuer is, its key's name tells.
            asks.append((Request("LIST", f"{mount}/issuers"), partial(self._issuer_names, mount)))
            asks.append((Request("LIST", f"{mount}/keys"), partial(self._key_names, mount)))
            asks.append((Request("LIST", f"{mount}/roles"), partial(self._roles, mount)))
            asks += self._each(ENGINE_CONFIG, "config", f"{mount}/config/", f"{mount}/config/", self._object)
        if self._config in mounts:
            record = ("config", f"{self._config}/cluster")
            asks.append((Request("GET", f"{self._config}/data/cluster"), partial(self._stored, record)))
            asks.append((Request("GET", f"{self._config}/config"), self._options))
            asks.append((Request("LIST", f"{self._config}/metadata"), self._other_records))
            asks += [
                (Request("LIST", f"{self._config}/metadata/{folder}"), partial(self._records, folder))
                for folder in _FOLDERS
            ]
        if "listed" in auths:
            asks.append((Request("LIST", f"auth/{self._cluster.prefix}/listed/role"), self._approle_names))
        if "jwt" in auths:
            config = f"auth/{self._cluster.prefix}/jwt/config"
            asks.append((Request("GET", config), partial(self._object, ("config", config))))
            asks.append((Request("LIST", jwt_roles(self._cluster)), self._jwt_roles))
        return asks

    def recorded_role_ids(self) -> dict[str, str]:
        """The role ids that the nodes' records name, by node."""
        head = f"{self._config}/nodes/"
        return {
            name.removeprefix(head): str(fields["role_id"])
            for (kind, name), fields in self.objects.items()
            if kind == "config" and name.startswith(head) and fields.get("role_id")
        }

    def _each(
        self, names: Iterable[str], kind: str, head: str, path: str, take: Callable[[Key, Answer], Iterable[_Ask]]
    ) -> Iterable[_Ask]:
        for name in names:
            if _OURS.fullmatch(name):
                yield Request("GET", f"{path}{name}"), partial(take, (kind, f"{head}{name}"))
            else:
                self.objects[kind, f"{head}{name}"] = {}

    def _object(self, key: Key, answer: Answer) -> Iterable[_Ask]:
        if answer.found:
            self.objects[key] = answer.data
        return ()

    def _policy(self, key: Key, answer: Answer) -> Iterable[_Ask]:
        if answer.found:
            self.objects[key] = _policy_rules(str(answer.data.get("policy", "")))
        return ()

    def _roles(self, mount: str, answer: Answer) -> Iterable[_Ask]:
        return self._each(answer.keys, "role", f"{mount}/", f"{mount}/roles/", self._object)

    def _approle_names(self, answer: Answer) -> Iterable[_Ask]:
        mount = f"{self._cluster.prefix}/listed"
        yield from self._each(answer.keys, "approle", f"{mount}/", f"auth/{mount}/role/", self._approle)
        for name in filter(_OURS.fullmatch, answer.keys):
            yield Request("GET", f"auth/{mount}/role/{name}/role-id"), partial(self._role_id, name)

    def _approle(self, key: Key, answer: Answer) -> Iterable[_Ask]:
        if answer.found:
            # A list of networks that was never set reads as null.
            self.objects[key] = _without_null(answer.data)
        return ()

    def _jwt_roles(self, answer: Answer) -> Iterable[_Ask]:
        head = f"{jwt_roles(self._cluster)}/"
        return self._each(answer.keys, "config", head, head, self._object)

    def _role_id(self, name: str, answer: Answer) -> Iterable[_Ask]:
        if answer.found:
            self.approles[name] = str(answer.data.get("role_id"))
        return ()

    def _options(self, answer: Answer) -> Iterable[_Ask]:
        self.store_options = answer.data if answer.found else {}
        return ()

    def _other_records(self, answer: Answer) -> Iterable[_Ask]:
        self.objects |= {("config", f"{self._config}/{name}"): {} for name in answer.keys if name not in _NO_PLAN}
        return ()

    def _records(self, folder: str, answer: Answer) -> Iterable[_Ask]:
        head, path = f"{self._config}/{folder}/", f"{self._config}/data/{folder}/"
        return self._each(answer.keys, "config", head, path, self._stored)

    def _stored(self, key: Key, answer: Answer) -> Iterable[_Ask]:
        # 404 also where every version was deleted but the record's metadata is still there.
        value = answer.data.get("data") if answer.found else None
        if isinstance(value, dict):
            self.objects[key] = value
        return ()

    def _remembered(self, answer: Answer) -> None:
        value = answer.data.get("data") if answer.found else None
        if isinstance(value, dict):
            self.memory = Memory.read(value)

    def _issuer_names(self, mount: str, answer: Answer) -> Iterable[_Ask]:
        self._named_issuers[mount] = answer.key_info
        return ()

    def _key_names(self, mount: str, answer: Answer) -> Iterable[_Ask]:
        """Tells the mount's own issuer by its name, else by its key's: it may be unnamed yet, or renamed by hand."""
        ours = _own_issuer(mount)
        self.keys[mount] = frozenset(str(key.get("key_name")) for key in answer.key_info.values())
        keys = {id_ for id_, key in answer.key_info.items() if key.get("key_name") == ours}
        issuers = self._named_issuers[mount]
        candidates = [id_ for id_, issuer in issuers.items() if issuer.get("issuer_name") == ours]
        candidates += [id_ for id_, issuer in issuers.items() if issuer.get("key_id") in keys]
        for id_, issuer in issuers.items():
            if id_ not in candidates[:1]:
                self.objects["issuer", f"{mount}/issuer/{issuer.get('issuer_name') or id_}"] = {}
        for id_ in candidates[:1]:
            default = bool(issuers[id_].get("is_default"))
            # By its name where it has one, which is known before its id is.
            named = ours if issuers[id_].get("issuer_name") == ours else id_
            yield Request("GET", f"{mount}/issuer/{named}"), partial(self._issuer, mount, default)

    def _issuer(self, mount: str, default: bool, answer: Answer) -> Iterable[_Ask]:
        self.issuers[mount] = str(answer.data.get("issuer_id"))
        # Once one of its URLs was ever set, the empty ones read as null.
        self.objects["issuer", mount] = {**_without_null(answer.data), "default": default}
        if mount == self._cluster.mount(ROOT):
            self.root_sha256 = fingerprint(text(answer.data, "certificate"))
        return ()


def _own_issuer(mount: str) -> str:
    """The name of a mount's own issuer, and of its key."""
    return f"{mount.rpartition('/')[2]}-1"


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate's DER form, in hex."""
    # Not x509.py, whose import costs more than the whole of a plan's requests.
    import hashlib
    import ssl

    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).hexdigest()
    except ValueError:
        raise CertificateUnreadable("what the server gives as its root CA is no certificate in PEM") from None


def _without_null(fields: Fields) -> Fields:
    """The fields of an object whose empty lists may read as null."""
    return {name: [] if value is None else value for name, value in fields.items()}


def _policy_rules(text: str) -> Fields:
    """The rules path by path, where the policy is written as we write it; else its text, which we never want."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return {"policy": text}
    if isinstance(parsed, dict) and parsed.keys() == {"path"} and isinstance(parsed["path"], dict):
        return dict(parsed["path"])
    return {"policy": text}
