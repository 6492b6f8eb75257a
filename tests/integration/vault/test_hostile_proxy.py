"""A proxy before a real server that mixes its answers up: no node and no command takes one object for another."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faults import trusted_proxy
from helpers.faults.hostile_server import Guest
from helpers.faults.trusted_proxy import Relay
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.errors import VaultpkiError
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys, x509

# What is wrong stands between the server and the agent.
pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
pools:
- {name: blue, roles: [worker], node_names: "b-*"}
- {name: green, roles: [worker], node_names: "g-*"}
"""


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def proxy(cluster: AppliedCluster, tmp_path: Path) -> Iterator[Relay]:
    with trusted_proxy.relaying(cluster.server, tmp_path) as running:
        yield running


def behind_proxy(
    cluster: AppliedCluster, proxy: Relay, folder: Path, node: str = "worker-1", pool: str | None = None
) -> NodeFolder:
    """A node that reaches the server by the proxy."""
    node_folder = cluster.equip(node, pool=pool, folder=folder / node)
    node_folder.configure(cluster.server.address, proxy.address)
    node_folder.configure(str(cluster.server.ca_file), str(proxy.ca_file))
    return node_folder


def authorities(cluster: AppliedCluster) -> dict[str, str]:
    """The fingerprint of each issuing CA, by its name."""
    pems = {ca: cluster.read(f"{cluster.prefix}/{ca}/issuer/default")["certificate"] for ca in ISSUING_CAS}
    return {ca: x509.fingerprint(pem.encode()) for ca, pem in pems.items()}


def trusted(node: NodeFolder) -> dict[str, list[str]]:
    """The fingerprints in each bundle that is there."""
    files = {ca: node.pki / f"{ca}-ca.crt" for ca in ISSUING_CAS}
    return {
        ca: [facts.fingerprint for facts in x509.read_certificates(file.read_bytes())]
        for ca, file in files.items()
        if file.exists()
    }


def at_once(path_part: str) -> trusted_proxy.Say:
    """Says an answer twice in one breath."""

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        guest.say((head + body) * (2 if path_part in path else 1))

    return say


def late(path_part: str) -> trusted_proxy.Say:
    """Says an answer again 200 ms later: while nothing is asked, or before the answer to what is asked by then."""
    copies: dict[int, bytes] = {}

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        if guest.number in copies:
            guest.wait(0.2)
            guest.answer(200, copies.pop(guest.number))
            guest.wait(0.1)
        guest.answer(status, body)
        if path_part in path and path.endswith("/json"):
            copies[guest.number] = body

    return say


def late_without_ids(path_part: str) -> trusted_proxy.Say:
    """As `late`, of a server whose answers have no ids: what an answer says of itself must do."""
    said = late(path_part)

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        plain = {name: value for name, value in json.loads(body or b"{}").items() if name != "request_id"}
        said(guest, path, status, json.dumps(plain).encode() if body else b"")

    return say


@pytest.mark.parametrize("ca", ["kubernetes", "etcd"])
@pytest.mark.parametrize("twice", [at_once, late, late_without_ids])
def test_an_issuers_answer_that_comes_twice_is_no_other_issuer(
    twice: Callable[[str], trusted_proxy.Say], ca: str, cluster: AppliedCluster, proxy: Relay, tmp_path: Path
) -> None:
    node = behind_proxy(cluster, proxy, tmp_path)
    right = {name: [fingerprint] for name, fingerprint in authorities(cluster).items()}
    proxy.say = twice(f"/{ca}/issuer/")
    for _ in range(3):
        with contextlib.suppress(VaultpkiError):
            run.run(load_agent(node.config), run.PassOptions(()))
        node_trusts = trusted(node)
        assert node_trusts == {name: right[name] for name in node_trusts}
        if node.state.joinpath("spec.json").exists():
            node.age()
    proxy.say = trusted_proxy.as_heard
    run.run(load_agent(node.config), run.PassOptions(()))
    assert trusted(node) == right


def issuer(cluster: AppliedCluster, ca: str) -> str:
    """The path at which a node asks for the CA."""
    name = cluster.server.api("LIST", f"{cluster.prefix}/{ca}/issuers").data["keys"][0]
    return f"{cluster.prefix}/{ca}/issuer/{name}/json"


def exchanged(one: str, other: str) -> trusted_proxy.Ask:
    swap = {one: other, other: one}
    return lambda path: swap.get(path, path)


def in_place_of(path: str, body: Any) -> trusted_proxy.Say:
    """Says `body` to whoever asks for `path`, with an id of its own as a server would."""

    def say(guest: Guest, asked: str, status: int, heard: bytes) -> None:
        if asked == path:
            guest.answer(200, {**body, "request_id": str(uuid.uuid4())})
        else:
            guest.answer(status, heard)

    return say


def other_login(cluster: AppliedCluster) -> trusted_proxy.Say:
    mount = f"auth/{cluster.prefix}/listed"
    role = f"{mount}/role/worker-2"
    sent = {
        "role_id": cluster.read(f"{role}/role-id")["role_id"],
        "secret_id": cluster.server.api("POST", f"{role}/secret-id").data["secret_id"],
    }
    return in_place_of(f"{mount}/login", cluster.server.api("POST", f"{mount}/login", sent, token="").body)


def other_record(cluster: AppliedCluster) -> trusted_proxy.Say:
    records = f"{cluster.prefix}/config/data/nodes"
    return in_place_of(f"{records}/worker-1", cluster.server.api("GET", f"{records}/worker-2").body)


def other_cluster(cluster: AppliedCluster) -> trusted_proxy.Say:
    path = f"{cluster.prefix}/config/data/cluster"
    body = cluster.server.api("GET", path).body
    body["data"]["data"]["cluster"] = "other"
    return in_place_of(path, body)


MIXED: dict[str, tuple[Callable[[AppliedCluster], trusted_proxy.Say], str]] = {
    "login": (other_login, "is about worker-2, not worker-1"),
    "record": (other_record, "is not that of worker-1"),
    "cluster": (other_cluster, "belongs to cluster other"),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_node_takes_nothing_of_anothers(name: str, cluster: AppliedCluster, proxy: Relay, tmp_path: Path) -> None:
    node = behind_proxy(cluster, proxy, tmp_path)
    node.run()
    node.age()
    before = {path: path.read_bytes() for path in node.pki.rglob("*") if path.is_file()}
    make, words = MIXED[name]
    proxy.say = make(cluster)
    ran = node.run(expect=1)
    assert words in ran.stderr, ran.stderr
    assert {path: path.read_bytes() for path in node.pki.rglob("*") if path.is_file()} == before


def test_a_pooled_node_takes_no_other_pools_record(cluster: AppliedCluster, proxy: Relay, tmp_path: Path) -> None:
    node = behind_proxy(cluster, proxy, tmp_path, "b-1", "blue")
    records = f"{cluster.prefix}/config/data/pools"
    proxy.say = in_place_of(f"{records}/blue", cluster.server.api("GET", f"{records}/green").body)
    assert "is not that of blue" in node.run(expect=1).stderr
    assert not list(node.pki.rglob("*.key"))


def test_two_issuers_that_are_exchanged_are_refused(cluster: AppliedCluster, proxy: Relay, tmp_path: Path) -> None:
    node = behind_proxy(cluster, proxy, tmp_path)
    proxy.ask = exchanged(issuer(cluster, "kubernetes"), issuer(cluster, "kubelet"))
    assert "is about" in node.run(expect=1).stderr
    assert trusted(node) == {}
    proxy.ask = trusted_proxy.same
    node.run()
    node.age()
    right = trusted(node)
    proxy.ask = exchanged(issuer(cluster, "etcd"), issuer(cluster, "front-proxy"))
    assert "is about" in node.run(expect=1).stderr
    assert trusted(node) == right


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("sys/policies/acl/{prefix}/operator", "sys/policies/acl/{prefix}/enroller", "is about"),
        ("{prefix}/etcd/issuer/etcd-1", "{prefix}/kubelet/issuer/kubelet-1", "is about"),
        ("sys/mounts", "sys/auth", "does not list sys/"),
    ],
)
def test_a_plan_is_not_made_from_exchanged_answers(
    one: str, other: str, words: str, cluster: AppliedCluster, proxy: Relay
) -> None:
    environment = {**cluster.environment(), **proxy.environment}
    paths = one.format(prefix=cluster.prefix), other.format(prefix=cluster.prefix)
    proxy.ask = exchanged(*paths)
    ran = vaultpki("plan", "-f", cluster.file, env=environment, expect=1)
    assert words in ran.stderr, ran.stderr
    assert {*paths} <= {*proxy.asked}


def test_a_list_that_names_all_twice_is_read(cluster: AppliedCluster, proxy: Relay) -> None:
    listing: list[str] = []

    def say(guest: Guest, path: str, status: int, body: bytes) -> None:
        answer = json.loads(body or b"{}")
        data = answer.get("data") or {}
        if isinstance(data.get("keys"), list):
            listing.append(path)
            data["keys"] *= 2
        guest.answer(status, json.dumps(answer).encode())

    proxy.say = say
    ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer") | proxy.environment)
    assert ran.stdout.endswith("\nNothing to change.\n")
    assert {f"auth/{cluster.prefix}/listed/role", f"{cluster.prefix}/config/metadata/nodes"} <= {*listing}


def test_a_join_file_is_not_made_from_another_nodes_answer(
    cluster: AppliedCluster, proxy: Relay, tmp_path: Path
) -> None:
    def say(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        if path.endswith("/secret-id") and body.get("wrap_info"):
            body["wrap_info"]["creation_path"] = body["wrap_info"]["creation_path"].replace("b-7", "b-8")
        guest.answer(status, body if heard else b"")

    environment = {**cluster.environment(), **proxy.environment}
    file = tmp_path / "join.json"
    proxy.say = say
    line = ("enroll", "-f", cluster.file, "b-7", "--pool", "blue", "-o", file)
    ran = vaultpki(*line, env=environment, expect=1)
    assert "role/b-8/secret-id" in ran.stderr and not file.exists(), ran.stderr


def test_nobody_elses_tokens_end(cluster: AppliedCluster, proxy: Relay, tmp_path: Path) -> None:
    """Where Vault shows another identity than the one to be ended, and where it shows no mounts of identities."""
    goes = cluster.equip("b-3", pool="blue", folder=tmp_path / "b-3")
    stays = cluster.equip("g-3", pool="green", folder=tmp_path / "g-3")
    for node in (goes, stays):
        node.run()
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/pooled/"]["accessor"]
    role_id = cluster.read(f"auth/{cluster.prefix}/pooled/role/g-3/role-id")["role_id"]
    sent = {"alias_name": role_id, "alias_mount_accessor": accessor}
    found = cluster.server.api("POST", "identity/lookup/entity", sent)
    line = ("unenroll", "-f", cluster.file, "b-3")
    environment = {**cluster.environment(), **proxy.environment}
    proxy.say = in_place_of("identity/lookup/entity", found.body)
    assert "another identity" in vaultpki(*line, env=environment, expect=1).stderr
    proxy.say = trusted_proxy.as_heard
    proxy.ask = exchanged("sys/auth", "sys/mounts")
    assert "does not list token/" in vaultpki(*line, env=environment, expect=1).stderr
    assert cluster.server.api("GET", f"identity/entity/id/{found.data['id']}").status == 200
    proxy.ask = trusted_proxy.same
    vaultpki(*line, env=environment)
    assert cluster.server.api("GET", f"identity/entity/id/{found.data['id']}").status == 200


def _signed_before(cluster: AppliedCluster, asked: list[Any], told: dict[str, Any]) -> dict[str, Any]:
    """Give the first CA that was signed to every mount."""
    asked.append(told)
    return {**asked[0], "request_id": told["request_id"]}


def _signed_for_another_key(cluster: AppliedCluster, asked: list[Any], told: dict[str, Any]) -> dict[str, Any]:
    """Give each mount a CA of the name that it asked for, signed by the true root, and with a key of somebody else."""
    name = x509.read_certificates(told["data"]["certificate"].encode())[0].subject.common_name
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(name))
    body = {"csr": csr, "common_name": name, "max_path_length": 0, "ttl": "43800h", "exclude_cn_from_sans": True}
    signed = cluster.server.api("POST", f"{cluster.prefix}/root/root/sign-intermediate", body)
    assert signed.status == 200, signed
    return {**told, "data": {**signed.data, "expiration": told["data"]["expiration"]}}


@pytest.mark.parametrize(
    ("lie", "said"),
    [(_signed_before, "and was not installed"), (_signed_for_another_key, "the root signed another key")],
)
def test_no_ca_of_another_key_stays_on_a_mount(
    server: Server,
    tmp_path: Path,
    clusters: ClusterFactory,
    lie: Callable[[AppliedCluster, list[Any], dict[str, Any]], dict[str, Any]],
    said: str,
) -> None:
    """Both servers take a signed CA whose key they do not have, and would make it the mount's own."""
    cluster = clusters.written(SPEC)
    asked: list[Any] = []

    def say(guest: Guest, path: str, status: int, heard: bytes) -> None:
        body = json.loads(heard or b"{}")
        if path.endswith("/root/sign-intermediate"):
            body = lie(cluster, asked, body)
        guest.answer(status, body if heard else b"")

    with trusted_proxy.relaying(server, tmp_path, say=say) as proxy:
        environment = {**cluster.environment(), **proxy.environment}
        ran = vaultpki("apply", "-f", cluster.file, "--yes", env=environment, expect=1)
    assert said in ran.stderr, ran.stderr
    cluster.apply()
    assert "Nothing to change." in vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout
    for ca in ISSUING_CAS:
        assert len(server.api("LIST", f"{cluster.prefix}/{ca}/issuers").data["keys"]) == 1
    assert len(set(authorities(cluster).values())) == len(ISSUING_CAS)
