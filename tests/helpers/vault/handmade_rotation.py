"""A rotation made by hand, with the root token: a successor of a CA, and the record that says how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from helpers.vault.applied_cluster import AppliedCluster
from vaultpki.pki import x509
from vaultpki.records import rotation as rotation_record
from vaultpki.records.changes import CHANGES
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
"""
ETCD = ("etcd-server", "etcd-peer", "etcd-healthcheck-client")
"""The rows of etcd's CA, and below the names of their files without endings."""
STEMS = ("etcdserver", "etcd-peer", "etcd-healthcheck-client")


def issuer_of(cluster: AppliedCluster, ca: str, name: str = "default") -> CaRef:
    """An issuer that is on the mount of a CA."""
    found = cluster.read(f"{cluster.prefix}/{ca}/issuer/{name}")
    fingerprint = x509.fingerprint(found["certificate"].encode())
    return CaRef(found["issuer_name"], found["issuer_id"], found["key_id"], fingerprint)


def successor(cluster: AppliedCluster, ca: str, name: str = "", *, same_key: bool = False, subject: str = "") -> CaRef:
    """A new issuing CA beside the old one, signed by the root; the default stays."""
    mount, api = f"{cluster.prefix}/{ca}", cluster.server.api
    name = name or (f"{ca}-1r2" if same_key else f"{ca}-2")
    common_name = subject or f"{cluster.name} {ca} CA{'' if same_key else ' 2'}"
    key: dict[str, Any] = {"key_ref": f"{ca}-1"} if same_key else {"key_type": "ec", "key_bits": 256, "key_name": name}
    kind = "existing" if same_key else "internal"
    made = api("POST", f"{mount}/intermediate/generate/{kind}", {"common_name": common_name, **key})
    assert made.status == 200, made
    body = {"csr": made.data["csr"], "common_name": common_name, "ttl": "8760h", "max_path_length": 0}
    body |= {"not_before_duration": "10m", "use_csr_values": False}
    pem = api("POST", f"{cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
    taken = api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem})
    assert taken.status == 200, taken
    (issuer_id,) = taken.data["imported_issuers"]
    assert api("POST", f"{mount}/issuer/{issuer_id}", {"issuer_name": name}).status in (200, 204)
    return issuer_of(cluster, ca, issuer_id)


def tell_nodes(cluster: AppliedCluster) -> None:
    """Write the record that agents at rest poll once more, as a command does that changes what they follow."""
    path, api = f"{cluster.prefix}/config/data/{CHANGES}", cluster.server.api
    found = api("GET", path)
    if found.status == 200:
        assert api("POST", path, {"data": found.data["data"]}).status == 200


def make_default(cluster: AppliedCluster, ca: str, issuer: CaRef) -> None:
    answer = cluster.server.api("POST", f"{cluster.prefix}/{ca}/config/issuers", {"default": issuer.issuer})
    assert answer.status == 200, answer
    tell_nodes(cluster)


def delete(cluster: AppliedCluster, ca: str, issuer: CaRef) -> None:
    assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/issuer/{issuer.issuer}").status in (200, 204)
    tell_nodes(cluster)


def as_applied(cluster: AppliedCluster, *cas: str) -> bool:
    """Make these CAs what `apply` made of them, without records and successors; return False where that is gone."""
    api = cluster.server.api
    for ca in cas:
        mount, first = f"{cluster.prefix}/{ca}", f"{ca}-1"
        assert api("DELETE", f"{cluster.prefix}/config/metadata/rotation/{ca}").status == 204
        kinds = {kind: api("LIST", f"{mount}/{kind}s").body.get("data", {}) for kind in ("issuer", "key")}
        if first not in {each["issuer_name"] for each in kinds["issuer"].get("key_info", {}).values()}:
            return False
        assert api("POST", f"{mount}/config/issuers", {"default": first}).status == 200
        for kind, listed in kinds.items():
            for id_, each in listed["key_info"].items():
                if each[f"{kind}_name"] != first:
                    assert api("DELETE", f"{mount}/{kind}/{id_}").status in (200, 204)
    tell_nodes(cluster)
    return True


@dataclass(slots=True)
class Rotation:
    """The rotation of one CA; `record` is what its record says."""

    cluster: AppliedCluster
    record: RotationRecord

    @classmethod
    def of(cls, cluster: AppliedCluster, ca: str, *, method: Method = Method.NEW_KEY, spread: int = 0) -> Rotation:
        """A successor is there, and the record says that it is published."""
        old = issuer_of(cluster, ca, f"{ca}-1")
        new = successor(cluster, ca, same_key=method is Method.SAME_KEY)
        record = RotationRecord(ca, State.PUBLISHED, 1, _now(), old, new, method, spread=spread)
        made = cls(cluster, record)
        made.write(record)
        return made

    @property
    def old(self) -> CaRef:
        return self.record.old

    @property
    def new(self) -> CaRef:
        assert self.record.new is not None
        return self.record.new

    def write(self, record: RotationRecord) -> None:
        self.put(rotation_record.to_json(record))
        self.record = record

    def put(self, value: object) -> None:
        """Writes anything in the record's place."""
        path = f"{self.cluster.prefix}/config/data/rotation/{self.record.domain}"
        answer = self.cluster.server.api("POST", path, {"data": value})
        assert answer.status == 200, answer
        tell_nodes(self.cluster)

    def move(self, state: State, **changes: Any) -> None:
        """The record first, then the mount's default; the turn is nobody's, as after a gate that waited for all."""
        self.write(self.record.moved(state, _now(), **{"turn": "", **changes}))
        make_default(self.cluster, self.record.domain, self.record.leaf)

    def turn(self, node: str) -> None:
        self.write(self.record.changed(turn=node))

    def lose(self) -> None:
        """The record is gone, as after a restored backup."""
        path = f"{self.cluster.prefix}/config/metadata/rotation/{self.record.domain}"
        assert self.cluster.server.api("DELETE", path).status == 204
        tell_nodes(self.cluster)

    def set_back(self, state: State, revision: int) -> None:
        """The record is an older one, as after a restored backup."""
        self.write(replace(self.record, state=state, revision=revision))
        make_default(self.cluster, self.record.domain, self.record.leaf)


@contextmanager
def steady(cluster: AppliedCluster, ca: str) -> Iterator[Rotation]:
    """A record by which only the old CA counts, and a second one on the mount that does not; both go afterwards."""
    old, new = issuer_of(cluster, ca, f"{ca}-1"), successor(cluster, ca)
    made = Rotation(cluster, RotationRecord(ca, State.STEADY, 1, _now(), old))
    made.write(made.record)
    try:
        yield made
    finally:
        made.lose()
        delete(cluster, ca, new)
        assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/key/{new.key}").status in (200, 204)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
