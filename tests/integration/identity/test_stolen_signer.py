"""What a thief of the signer's credential gets: every request has its answer, on each server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import Rules, each_grant_is_needed, first_refused, write
from helpers.vault.servers import product_of
from vaultpki.model import KeyType, Subject, Usage
from vaultpki.pki import keys, x509
from vaultpki.records import signer as record
from vaultpki.records.join_file import load_join
from vaultpki.signer import permission
from vaultpki.vault import Vault

SPEC: Final = """\
api_server: {names: [api.example.com], addresses: [10.20.0.10]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.20.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.20.0.12]}
- {name: db-1, roles: [worker], addresses: [10.20.0.31]}
signer:
  ttl: 7d
  people: {ttl: 1d, names: ["*@example.com", "ops-*"], groups: [[], [dev], [dev, oncall]]}
pools:
- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.20.1.0/24, "fd00:98::/64"]}
- {name: autoscaled, roles: [worker], node_names: "a-*"}
"""
CLIENT, SERVING = "kubernetes/sign/csr-kubelet-client", "kubelet/sign/csr-kubelet-serving"
PERSON, DEV = "kubernetes/sign/csr-person", "kubernetes/sign/csr-person-1"
LEFT_OUT: Final = None

# Each request beside what the signer itself sends, with the answers of OpenBao and HashiCorp Vault.
_Asked = tuple[str, str, dict[str, Any], tuple[int, int]]
_NO, _YES = (403, 403), (200, 200)


def _named(path: str, names: list[str], answers: tuple[int, int] = _NO) -> Iterator[_Asked]:
    yield from ((f"{path.rpartition('/')[2]} {name!r}", path, {"common_name": name}, answers) for name in names)


def _asked() -> Iterator[_Asked]:
    """Every request to sign: what the signer serves first."""
    yield "a kubelet's client", CLIENT, {}, _YES
    yield "a kubelet's server", SERVING, {}, _YES
    yield "a server without addresses", SERVING, {"ip_sans": LEFT_OUT}, _YES
    yield "a server without names", SERVING, {"alt_names": LEFT_OUT}, _YES
    yield "an address of IPv6", SERVING, {"ip_sans": ["10.20.1.7", "fd00:0098:0000:0000:0000:0000:0000:0007"]}, _YES
    yield "a person", PERSON, {}, _YES
    yield "a person of two groups", "kubernetes/sign/csr-person-2", {}, _YES
    yield from _named(PERSON, ["ops-1"], _YES)
    yield "ten years", CLIENT, {"ttl": "315360000"}, _YES
    # Names of others.
    others = ["cp-1", "cp-2", "db-1", "a-1", "x-1", "W-9", "", "*"]
    yield from _named(CLIENT, [f"system:node:{name}" for name in others])
    yield from _named(SERVING, [f"system:node:{name}" for name in others])
    nobody = ["", "w-1", "system:masters", "SYSTEM:NODE:w-1", " system:node:w-1", "system:node:w-1,system:node:cp-1"]
    hidden = ["w-9+O=system:masters", "w-9@w-1", "w-9/x", "w-9 x", "w-*", "w-9%00", "w-9.evil.com"]
    yield from _named(CLIENT, [*nobody, *(f"system:node:{name}" for name in hidden)])
    yield from _named(SERVING, [*nobody, *(f"system:node:{name}" for name in hidden)])
    reserved = ["system:masters", "system:kube-controller-manager", "system:node:w-1", "vaultpki:signer"]
    rows = ["kubernetes-admin", "kube-apiserver-kubelet-client", "front-proxy-client", "kube-apiserver", "cp-1", "w-1"]
    strange = ["", "alice", "ALICE@EXAMPLE.COM", "x@alice", "ops-1@evil.com,x@example.com", "a b@example.com"]
    strange += [f"{before}@example.com" for before in ("system:x", "vaultpki:x", "a+O=x", "a/x", "*")]
    yield from _named(PERSON, [*reserved, *rows, *strange])
    yield from _named(DEV, [*reserved, *rows])
    # Other fields.
    for path in (CLIENT, PERSON):
        yield "a DNS name", path, {"alt_names": "w-1"}, _NO
        yield "an address", path, {"ip_sans": ["10.20.1.7"]}, _NO
    for path in (CLIENT, SERVING, PERSON):
        yield "a URI", path, {"uri_sans": "spiffe://x"}, _NO
        yield "another SAN", path, {"other_sans": "1.2.3.4;UTF8:x"}, _NO
        yield "a serial number", path, {"serial_number": "x"}, _NO
        yield "a user id", path, {"user_ids": "root"}, _NO
        yield "a date", path, {"not_after": "2050-01-01T00:00:00Z"}, _NO
        yield "an earlier date", path, {"not_before": "2020-01-01T00:00:00Z"}, _NO
        yield "another issuer", path, {"issuer_ref": "default"}, _NO
        yield "another format", path, {"format": "pem_bundle"}, _NO
        yield "what is not removed", path, {"remove_roots_from_chain": "true"}, _NO
        yield "no life", path, {"ttl": LEFT_OUT}, _NO
        yield "no CN", path, {"common_name": LEFT_OUT}, _NO
        yield "no request", path, {"csr": LEFT_OUT}, _NO
        yield "the CN among the names", path, {"exclude_cn_from_sans": LEFT_OUT}, _NO
        for word in ("false", "", True, False):
            yield f"the CN among the names: {word!r}", path, {"exclude_cn_from_sans": word}, _NO
        yield "two CNs", path, {"common_name": ["system:node:w-1", "system:node:cp-1"]}, _NO
    for name in (
        "cp-1",
        "kubernetes.default.svc",
        "localhost",
        "w-1,cp-1",
        "*",
        "*.w-1",
        "w-1@x",
        "w-1:80",
        "W-9",
        "w-*",
        "w-1.evil.com",
    ):
        yield f"the DNS name {name!r}", SERVING, {"alt_names": name}, _NO
    yield "two names in a list", SERVING, {"alt_names": ["w-1", "cp-1"]}, _NO
    for address in ("10.20.0.11", "10.20.0.10", "10.96.0.1", "127.0.0.1", "10.20.10.1", "fd00:98:0:1::1", "::1"):
        yield f"the address {address}", SERVING, {"ip_sans": [address]}, (400, 403)
        yield f"the address {address} too", SERVING, {"ip_sans": ["10.20.1.7", address]}, (400, 403)
    yield "two addresses in one text", SERVING, {"ip_sans": "10.20.1.7,10.20.0.11"}, _NO
    yield "an address as a mapped one", SERVING, {"ip_sans": ["::ffff:10.96.0.1"]}, (400, 403)


ASKED: Final = list(_asked())
USUAL: Final[dict[str, dict[str, Any]]] = {
    CLIENT: {"common_name": "system:node:w-1"},
    SERVING: {"common_name": "system:node:w-1", "alt_names": "w-1", "ip_sans": ["10.20.1.7"]},
}

# What else a token could do; 404 of a server would mean that the token may ask.
ELSEWHERE: Final = [
    *(("POST", f"{ca}/{way}") for ca in ("kubernetes", "kubelet") for way in ("sign-verbatim/csr-kubelet-client",)),
    *(("POST", f"kubernetes/{way}/csr-kubelet-client") for way in ("issue", "issuer/default/sign", "sign-verbatim")),
    *(("POST", f"kubernetes/sign/{row}") for row in ("admin", "kubelet-client", "signer", "super-admin")),
    *(
        ("POST", path)
        for path in ("etcd/sign/etcd-server", "front-proxy/sign/front-proxy-client", "kubelet/sign/kubelet")
    ),
    *(("POST", path) for path in ("root/root/sign-intermediate", "root/sign-verbatim", "kubernetes/revoke")),
    *(("POST", path) for path in ("kubernetes/roles/csr-person", "kubernetes/root/rotate/internal", "kubernetes/tidy")),
    *(
        ("LIST", path)
        for path in ("kubernetes/certs", "kubernetes/roles", "kubernetes/keys", "kubernetes/certs/revoked")
    ),
    *(("GET", path) for path in ("kubernetes/roles/csr-person", "config/data/nodes/cp-1", "config/data/applied")),
    *(("GET", path) for path in ("config/data/pools/autoscaled", "config/data/reports/listed/cp-1")),
    *(("LIST", f"config/metadata{folder}") for folder in ("", "/nodes", "/rotation", "/reports/listed")),
    *(
        ("POST", f"config/data/{name}")
        for name in ("signer", "cluster", "changes", "rotation/kubernetes", "rotation/root")
    ),
    *(("POST", f"config/data/{name}") for name in ("reports/listed/cp-1", "leaving/cp-1", "locked/cp-1", "nodes/cp-1")),
    *(("DELETE", f"config/metadata/{name}") for name in ("signer", "cluster", "rotation/kubernetes")),
]
AUTH: Final = [
    *(("POST", f"listed/role/{node}/secret-id") for node in ("cp-1", "db-1")),
    *(("POST", f"pooled/role/{node}/secret-id") for node in ("a-1", "w-1")),
    *(("POST", f"signer/role/{node}/secret-id") for node in ("cp-1", "cp-2")),
    *(("GET", f"signer/role/{node}/role-id") for node in ("cp-1", "cp-2")),
    *(("LIST", f"signer/role{path}") for path in ("", "/cp-1/secret-id")),
    *(("POST", f"signer/role/{node}") for node in ("cp-1", "w-1")),
    *(("POST", f"signer/role/cp-1/{path}") for path in ("role-id", "policies", "secret-id-accessor/destroy")),
    *(("POST", f"signer/role/cp-1/{path}") for path in ("custom-secret-id", "secret-id/lookup")),
    ("POST", "signer/role/cp-2/secret-id/destroy"),
]
SYSTEM: Final = [
    *(("POST", path) for path in ("auth/token/create", "auth/token/renew-self", "sys/policies/acl/x")),
    *(("POST", path) for path in ("identity/lookup/entity", "identity/entity", "identity/entity-alias")),
    *(("GET", path) for path in ("sys/mounts", "sys/auth", "sys/policies/acl/x", "auth/token/lookup-self")),
]


@dataclass(frozen=True)
class Thief:
    """Somebody with all that the signer on cp-1 has, who asks as it does."""

    cluster: AppliedCluster
    role_id: str
    secret_id: str
    token: str
    csr: str = field(
        default_factory=lambda: keys.request(keys.generate_key(KeyType.EC_P256), Subject("x", ("system:masters",)))
    )

    def sign(self, path: str, further: dict[str, Any]) -> Any:
        """The answer to a request to sign; a parameter of None is left out."""
        usual = USUAL.get(path, {"common_name": "alice@example.com"})
        body = {"csr": self.csr, "format": "pem", "exclude_cn_from_sans": "true", "ttl": "600", **usual, **further}
        asked = {name: value for name, value in body.items() if value is not LEFT_OUT}
        return self.cluster.server.api("POST", f"{self.cluster.prefix}/{path}", asked, token=self.token)

    def ask(self, method: str, path: str) -> int:
        body = None if method in ("GET", "LIST", "DELETE") else {"csr": self.csr, "common_name": "system:node:w-1"}
        return self.cluster.server.api(method, path, body, token=self.token).status


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture(scope="module")
def thief(cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory) -> Thief:
    file = tmp_path_factory.mktemp("joins") / "signer.json"
    Enroller(cluster, cluster.token()).enroll("--signer", "cp-1", "-o", file)
    join = load_join(file)
    assert join.signer and join.node == "cp-1"
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    token = enrolled_nodes.login(cluster, "signer", join.role_id, secret_id)
    assert token is not None
    return Thief(cluster, join.role_id, secret_id, token)


def test_every_request_to_sign(thief: Thief) -> None:
    openbao = product_of(thief.cluster.server.kind) == "openbao"
    wrong = []
    for what, path, further, answers in ASKED:
        answer = thief.sign(path, further)
        if answer.status != answers[0 if openbao else 1]:
            wrong.append((what, path.rpartition("/")[2], answer.status, str(answer.body)[:200]))
    assert not wrong, "\n".join(map(str, wrong))


def test_nothing_else(thief: Thief) -> None:
    prefix = thief.cluster.prefix
    asked = [(method, f"{prefix}/{path}") for method, path in ELSEWHERE]
    asked += [(method, f"auth/{prefix}/{path}") for method, path in AUTH] + SYSTEM
    allowed = [(method, path, status) for method, path in asked if (status := thief.ask(method, path)) != 403]
    assert not allowed, allowed


def test_what_it_may_read(thief: Thief) -> None:
    prefix = thief.cluster.prefix
    for name in ("cluster", "changes"):
        assert thief.ask("GET", f"{prefix}/config/data/{name}") == 200
    stored = thief.cluster.server.api("GET", f"{prefix}/config/data/signer", token=thief.token).data["data"]
    facts = record.read(stored, where="signer")
    assert facts.nodes == ("cp-1", "cp-2", "db-1")
    assert json.loads(json.dumps(record.to_json(facts))) == stored
    # There is none yet, which it may see.
    assert thief.ask("GET", f"{prefix}/config/data/rotation/kubernetes") == 404


def test_certificates_are_what_the_role_says(thief: Thief) -> None:
    """Neither the request's O nor its names count, and no life is above the role's."""
    for path, further, names in (
        (CLIENT, {"ttl": "315360000"}, ("system:node:w-1", ("system:nodes",), (), ())),
        (SERVING, {}, ("system:node:w-1", ("system:nodes",), ("w-1",), ("10.20.1.7",))),
        (DEV, {"ttl": "86400"}, ("alice@example.com", ("dev",), (), ())),
    ):
        pem = thief.sign(path, further).data["certificate"]
        (facts,) = x509.read_certificates(pem.encode())
        subject = facts.subject
        assert (subject.common_name, subject.organization, subject.dns, subject.ips) == names
        longest = 86400 if path == DEV else 7 * 86400
        assert (facts.not_after - facts.not_before).total_seconds() <= longest + 300 + 1
        assert facts.usage is (Usage.SERVER if path == SERVING else Usage.CLIENT)


def test_each_grant_is_needed(thief: Thief) -> None:
    """For what the signer does all day: its records, its own secret id, and a certificate of each role."""
    cluster, policy = thief.cluster, f"{thief.cluster.prefix}/signer"
    whole = json.loads(cluster.read(f"sys/policies/acl/{policy}")["policy"])["path"]
    assert sum("/sign/" in path for path in whole) == 5

    def rolled(vault: Vault) -> None:
        mount = f"{cluster.prefix}/signer"
        made = vault.unwrapped(vault.prepare.auth.approle.generate_secret_id("cp-1", mount_point=mount)).data
        vault.api.auth.approle.destroy_secret_id("cp-1", made["secret_id"], mount_point=mount)

    def signed(vault: Vault, path: str) -> None:
        role = path.removeprefix(f"{cluster.prefix}/")
        usual = USUAL.get(role, {"common_name": "alice@example.com"})
        kept = {"csr": thief.csr, "format": "pem", "exclude_cn_from_sans": "true", "ttl": "600"}
        vault.write(path, kept | usual)

    def refused(rules: Rules) -> str | None:
        write(cluster.server, policy, rules)
        vault = enrolled_nodes.client(cluster.server, thief.token)
        return first_refused(
            [
                ("whether it may sign", lambda: permission.read_permission(vault, cluster.prefix)),
                ("its record", lambda: permission.read_facts(vault, cluster.prefix)),
                ("roll", lambda: rolled(vault)),
                *((path, partial(signed, vault, path)) for path in whole if "/sign/" in path),
            ]
        )

    try:
        each_grant_is_needed(whole, refused)
    finally:
        write(cluster.server, policy, whole)
