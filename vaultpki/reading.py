"""A server read in rounds: every object of one cluster, by its kind and name, in the normal form of `desired`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from importlib import import_module
from threading import Thread
from typing import Final

from vaultpki.certificates import ISSUING_CAS, MOST_ISSUERS, ROOT
from vaultpki.desired import ENGINE_CONFIG
from vaultpki.errors import BadAnswer, CertificateUnreadable
from vaultpki.identities import approle_pools, jwt_roles, takes
from vaultpki.known import Fields, Key
from vaultpki.model import VERSION, Cluster
from vaultpki.values import dataclass
from vaultpki.vault import HEALTH, Answer, Json, Request, Vault, check_named, text

# Written before what it names is made, so that no crash leaves an object that nobody knows as ours.
APPLIED: Final = "applied"

# Below it stands of which nodes the identity is being ended, with the role ids by which their tokens are found.
LEAVING: Final = "leaving"

# Where records lie that are no part of the plan, or are listed folder by folder.
_FOLDERS: Final = ("nodes", "pools")
_NO_PLAN: Final = frozenset({APPLIED, "cluster", "reports/", f"{LEAVING}/", *(f"{folder}/" for folder in _FOLDERS)})

# Every name we give is one of these; a name that is not was given by others, and may not even fit into a path.
_OURS = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")

# What others may call an AppRole, and what fits into a path.
APPROLE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Memory:
    """What the record `applied` says: every object that an apply made or was about to make, and role ids by node.

    `pools` are the names of nodes by pool, of those pools to which every pooled AppRole is known to belong.
    """

    objects: frozenset[Key] = frozenset()
    role_ids: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Mapping[str, object]) -> Memory:
        """What a record says; what is no line of ours in it is passed over."""

        def pairs(name: str) -> list[tuple[str, str]]:
            lines = (line.partition(" ") for line in str(record.get(name) or "").splitlines())
            return [(first, second) for first, _, second in lines if second]

        return cls(frozenset(pairs("objects")), dict(pairs("role_ids")), dict(pairs("pools")))

    def record(self) -> Json:
        """The record that says so."""
        # Lines in one string: OpenBao refuses a request of more than about a thousand strings (config/sizes.py).
        return {
            "version": VERSION,
            "objects": "\n".join(sorted(f"{kind} {name}" for kind, name in self.objects)),
            "role_ids": "\n".join(sorted(f"{node} {role_id}" for node, role_id in self.role_ids.items())),
            "pools": "\n".join(sorted(f"{pool} {node_names}" for pool, node_names in self.pools.items())),
        }


# A request, and what is made of its answer: that may ask for more.
_Ask = tuple[Request, Callable[[Answer], "Iterable[_Ask]"]]


class Reading:
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
        self.root_pem = ""
        self.certificates: dict[str, dict[str, str]] = {}
        self.counts: dict[str, int] = {}
        self.approles: dict[str, str] = {}
        self.keys: dict[str, frozenset[str]] = {}
        self.store_options: Fields = {}
        self.own_certificates: dict[str, str] = {}
        self.pooled: tuple[str, ...] = ()
        self.orphans: dict[str, Fields] = {}
        self.leaving: tuple[str, ...] = ()

    def begin(self, expected: Iterable[Key]) -> list[Answer]:
        """What the server tells of itself, all its mounts, all its auth mounts and the names of all its policies."""
        # Needed at the end, and long to load: the server's answers take some time too.
        Thread(target=import_module, args=("vaultpki.x509",), daemon=True).start()
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
        answers = self._answers(requests)
        # Every server has these two, and so has every namespace; without them it is another answer.
        for answer, own, path in zip(answers[1:], ("sys/", "token/"), ("sys/mounts", "sys/auth"), strict=False):
            if own not in answer.data:
                raise BadAnswer(f"the answer to {path} does not list {own}; check the address and any proxy in between")
        return answers

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
        if "pooled" in auths:
            asks.append((Request("LIST", f"auth/{self._cluster.prefix}/pooled/role"), self._pooled_names))
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
            check_named(answer.data, "name", key[1], f"sys/policies/acl/{key[1]}")
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

    def _pooled_names(self, answer: Answer) -> Iterable[_Ask]:
        """Tells the AppRoles that belong to no pool of cluster.yaml.

        Most are told by their names. One whose name fits may be that of a pool that had the same names: all are read
        where the pools have changed since that was last looked at.
        """
        pools = approle_pools(self._cluster)
        self.pooled = answer.keys
        unread = self.memory.pools != {pool.name: pool.node_names for pool in pools}
        for name in dict.fromkeys(answer.keys):
            if not APPROLE.fullmatch(name):
                self.objects["approle", f"{self._cluster.prefix}/pooled/{name}"] = {}
                continue
            fits = [f"{self._cluster.prefix}/pool/{pool.name}" for pool in pools if takes(pool, name)]
            if not fits:
                self.orphans[name] = {}
            elif unread:
                role = Request("GET", f"auth/{self._cluster.prefix}/pooled/role/{name}")
                yield role, partial(self._pooled_approle, name, fits)

    def _pooled_approle(self, name: str, fits: list[str], answer: Answer) -> Iterable[_Ask]:
        policies = answer.data.get("token_policies") if answer.found else fits[:1]
        if policies not in [[policy] for policy in fits]:
            self.orphans[name] = {"token_policies": policies}
        return ()

    def _leaving_names(self, answer: Answer) -> Iterable[_Ask]:
        self.leaving = answer.keys
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
        if f"{LEAVING}/" in answer.keys:
            yield Request("LIST", f"{self._config}/metadata/{LEAVING}"), self._leaving_names

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
        self.counts[mount] = len(issuers)
        candidates = [id_ for id_, issuer in issuers.items() if issuer.get("issuer_name") == ours]
        candidates += [id_ for id_, issuer in issuers.items() if issuer.get("key_id") in keys]
        for id_, issuer in issuers.items():
            if id_ not in candidates[:1]:
                name = str(issuer.get("issuer_name") or id_)
                self.objects["issuer", f"{mount}/issuer/{name}"] = {}
                yield from self._foreign(mount, name, id_)
        for id_ in candidates[:1]:
            key = answer.key_info.get(str(issuers[id_].get("key_id"))) or {}
            defaults = {"default": bool(issuers[id_].get("is_default")), "default_key": bool(key.get("is_default"))}
            # By its name where it has one, which is known before its id is.
            name = ours if issuers[id_].get("issuer_name") == ours else id_
            yield Request("GET", f"{mount}/issuer/{name}"), partial(self._issuer, mount, name, id_, defaults)

    def _foreign(self, mount: str, name: str, id_: str) -> Iterable[_Ask]:
        """Asks for the certificate of an issuer that is not the mount's own, where there are not too many of them."""
        shown = self.certificates.setdefault(mount, {})
        if len(shown) >= MOST_ISSUERS:
            return
        shown[name] = ""
        if _OURS.fullmatch(id_):
            yield Request("GET", f"{mount}/issuer/{id_}"), partial(self._shown, mount, name, id_)

    def _shown(self, mount: str, name: str, id_: str, answer: Answer) -> Iterable[_Ask]:
        if answer.found:
            check_named(answer.data, "issuer_id", id_, f"{mount}/issuer")
        self.certificates.setdefault(mount, {})[name] = str(answer.data.get("certificate") or "")
        return ()

    def _issuer(self, mount: str, name: str, id_: str, defaults: Fields, answer: Answer) -> Iterable[_Ask]:
        self._shown(mount, name, id_, answer)
        self.issuers[mount] = id_
        self.own_certificates[mount] = str(answer.data.get("certificate"))
        # Once one of its URLs was ever set, the empty ones read as null.
        self.objects["issuer", mount] = {**_without_null(answer.data), **defaults}
        if mount == self._cluster.mount(ROOT):
            self.root_pem = text(answer.data, "certificate")
            self.root_sha256 = fingerprint(self.root_pem)
        return ()


def _own_issuer(mount: str) -> str:
    """The name of a mount's own issuer, and of its key."""
    return f"{mount.rpartition('/')[2]}-1"


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate's DER form, in hex."""
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
