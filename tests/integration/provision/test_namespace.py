"""A cluster in a namespace of its own, which bounds its applier: nothing outside is seen, reached or changed."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.node import resident_agent
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.plan_commands import SPEC, everything, fails
from helpers.vault.servers import Server, wait_for

NAMESPACE = "kube"


def fetched(server: Server, url: str, question: bytes | None = None) -> bytes:
    """What a URL brings to somebody who has no token and names no namespace; an OCSP responder is sent a question."""
    host, path = url.removeprefix("https://").split("/", 1)
    connection = http.client.HTTPSConnection(
        host, context=ssl.create_default_context(cafile=server.ca_file), timeout=30
    )
    headers = {"Content-Type": "application/ocsp-request"} if question else {}
    with contextlib.closing(connection):
        connection.request("POST" if question else "GET", f"/{path}", question, headers)
        response = connection.getresponse()
        assert response.status == 200, (url, response.status)
        return response.read()


def check_urls(server: Server, certificate: x509.Certificate, signer: x509.Certificate, above: str) -> None:
    """Fails where one of a certificate's URLs does not lie below `above`, or brings something else than it says."""
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (crl,) = [name.value for name in point.full_name or ()]
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    urls = {entry.access_method: entry.access_location.value for entry in access}
    issuer, responder = urls[AuthorityInformationAccessOID.CA_ISSUERS], urls[AuthorityInformationAccessOID.OCSP]
    for url in (crl, issuer, responder):
        assert url.startswith(f"{server.address}/v1/{above}/"), url
    assert x509.load_der_x509_crl(fetched(server, crl)).issuer == signer.subject
    assert x509.load_der_x509_certificate(fetched(server, issuer)) == signer
    question = ocsp.OCSPRequestBuilder().add_certificate(certificate, signer, SHA256()).build()
    answer = ocsp.load_der_ocsp_response(fetched(server, responder, question.public_bytes(Encoding.DER)))
    assert answer.certificate_status == ocsp.OCSPCertStatus.GOOD


def check_node_urls(server: Server, pki: Path, above: str) -> None:
    leaf, issuing = x509.load_pem_x509_certificates((pki / "kubelet.crt").read_bytes())
    root = x509.load_pem_x509_certificates((pki / "kubelet-ca-chain.crt").read_bytes())[-1]
    check_urls(server, leaf, issuing, above)
    check_urls(server, issuing, root, above)


def test_an_applier_of_a_namespace_is_root_there_and_nowhere_else(own_server: Server, tmp_path: Path) -> None:
    cluster = AppliedCluster(own_server, tmp_path, "prod")
    cluster.write(SPEC)
    within = {"VAULT_NAMESPACE": NAMESPACE}
    made = own_server.api("POST", f"sys/namespaces/{NAMESPACE}", {})
    if own_server.product == "vault":
        # HashiCorp has namespaces in its Enterprise edition only; the community's server knows no such path and does
        # not look at the header. docs/vault.md warns of it.
        assert made.status == 404
        start = own_server.audit_position()
        for command in (("plan",), ("apply", "--yes")):
            cluster.write(SPEC)
            cluster.file.write_text(cluster.file.read_text().replace("ca_file:", f"namespace: {NAMESPACE}, ca_file:"))
            ran = vaultpki(*command[:1], "-f", cluster.file, *command[1:], env=cluster.environment(), expect=1)
            fails(ran, "vault.namespace: this server (Vault 1.", "community edition) has no namespaces")
        assert own_server.writes(start) == []
        cluster.write(SPEC)
        vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment() | within)
        said = vaultpki("plan", "-f", cluster.file, env=cluster.environment() | within).stdout
        assert f"\n! this server has no namespaces: it ignores VAULT_NAMESPACE ({NAMESPACE})\n" in said
        assert said.startswith(f"Server: {own_server.address}, namespace root\n")
        assert own_server.api("GET", f"sys/mounts/{cluster.prefix}/root").status == 200
        urls = cluster.read(f"{cluster.prefix}/kubelet/config/urls")
        assert urls["ocsp_servers"] == [f"{own_server.address}/v1/{cluster.prefix}/kubelet/ocsp"]
        return
    assert made.status == 200, made
    rules = vaultpki("policy", "-f", cluster.file, "applier").stdout
    path = f"{NAMESPACE}/sys/policies/acl/prod-applier"
    assert own_server.api("PUT", path, {"policy": rules}).status == 204
    token = own_server.api("POST", f"{NAMESPACE}/auth/token/create", {"policies": ["prod-applier"], "ttl": "1h"})
    applier = own_server.environment(token.body["auth"]["client_token"])
    outside = everything(own_server)

    saved = tmp_path / "plan.json"
    vaultpki("plan", "-f", cluster.file, "-o", saved, env=applier | within)
    fails(vaultpki("apply", saved, env=applier, expect=1), f"another one: the root namespace, not {NAMESPACE};")
    vaultpki("apply", saved, env=applier | within)
    again = json.loads(vaultpki("apply", "-f", cluster.file, "--yes", "--json", env=applier | within).stdout)
    assert (again["changes"], again["requests"]["writes"]) == ([], 0)
    other = applier | {"VAULT_NAMESPACE": f"/{NAMESPACE}/"}
    plan = json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=other).stdout)
    assert (plan["changes"], plan["server"]["namespace"]) == ([], NAMESPACE)
    assert plan["server"]["token"]["policies"] == ["default", "prod-applier"]

    node, join = tmp_path / "node", tmp_path / "join.json"
    node.mkdir()
    vaultpki("enroll", "-f", cluster.file, "worker-1", "-o", join, env=applier | within)
    assert json.loads(join.read_text())["namespace"] == NAMESPACE
    # What the node's own environment says has no say.
    elsewhere = {"VAULT_NAMESPACE": "elsewhere", "BAO_NAMESPACE": "elsewhere"}
    vaultpki("join", "-c", node / "agent.yaml", join, "--dir", node / "pki", env=elsewhere)
    check_node_urls(own_server, node / "pki", f"{NAMESPACE}/{cluster.prefix}")

    fails(vaultpki("apply", "-f", cluster.file, "--yes", env=applier, expect=1), "token")
    vaultpki("destroy", "-f", cluster.file, "--confirm", "prod", env=applier | within)
    assert everything(own_server) == outside


def test_the_namespace_above_all_has_no_name_in_urls(clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    vaultpki("apply", "-f", cluster.file, "--yes", env=cluster.environment() | {"VAULT_NAMESPACE": "root"})
    node = cluster.equip("worker-1")
    node.run()
    check_node_urls(cluster.server, node.pki, cluster.prefix)
    assert cluster.plan()["changes"] == []


# In a namespace of a namespace, which cluster.yaml names; HashiCorp's community edition has none

NESTED = "team1/prod"
JWT = "{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}"
CLOUD = f'- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'


def named(cluster: AppliedCluster, namespace: str = NESTED, text: str = SPEC) -> None:
    """cluster.yaml that says in which namespace the cluster lies."""
    cluster.write(text)
    cluster.file.write_text(cluster.file.read_text().replace("ca_file:", f"namespace: {namespace}, ca_file:", 1))


def within(server: Server, namespace: str = NESTED) -> dict[str, Any]:
    """What a namespace has, as far as it lists it."""
    found: dict[str, Any] = {name: server.api("GET", f"{namespace}/{name}").data for name in ("sys/mounts", "sys/auth")}
    found["policies"] = server.api("LIST", f"{namespace}/sys/policies/acl").data["keys"]
    found["entities"] = server.api("LIST", f"{namespace}/identity/entity/id").body.get("data")
    return found


@pytest.fixture
def nested(own_server: Server, tmp_path: Path) -> Iterator[tuple[AppliedCluster, dict[str, str]]]:
    """A cluster's spec in a nested namespace of a server of its own, and the environment of its applier."""
    for path in ("sys/namespaces/team1", "team1/sys/namespaces/prod"):
        assert own_server.api("POST", path, {}).status == 200
    cluster = AppliedCluster(own_server, tmp_path, "prod")
    (tmp_path / "keys.pem").write_text(ISSUER.public_pem)
    named(cluster, text=SPEC + CLOUD)
    rules = vaultpki("policy", "-f", cluster.file, "applier").stdout
    path = f"{NESTED}/sys/policies/acl/prod-applier"
    assert own_server.api("PUT", path, {"policy": rules}).status == 204
    token = own_server.api("POST", f"{NESTED}/auth/token/create", {"policies": ["prod-applier"], "ttl": "1h"})
    before, inside = everything(own_server), within(own_server)
    yield cluster, own_server.environment(token.body["auth"]["client_token"])
    assert everything(own_server) == before and within(own_server) == inside


ISSUER = Issuer()


@pytest.mark.on_node
def test_a_nested_namespace_from_apply_to_destroy(
    nested: tuple[AppliedCluster, dict[str, str]], tmp_path: Path
) -> None:
    """No command, node, unit or pod has to be told it by its environment."""
    cluster, applier = nested

    def run(*arguments: str | Path, expect: int = 0, env: Mapping[str, str] = applier) -> Any:
        command, *rest = arguments
        return vaultpki(command, "-f", cluster.file, *rest, env=env, expect=expect)

    said = run("apply", "--yes").stdout
    pin = cluster.read(f"{NESTED}/{cluster.prefix}/config/data/cluster")["data"]["root_sha256"]
    assert f"For agent.yaml of nodes that join by a token: root_sha256: {pin}, vault.namespace: {NESTED}\n" in said
    for spelling in ({}, {"BAO_NAMESPACE": f"/{NESTED}/"}):
        again = json.loads(run("apply", "--yes", "--json", env=applier | spelling).stdout)
        assert (again["changes"], again["requests"]["writes"]) == ([], 0)

    for name, pool in (("worker-1", []), ("w-7", ["--pool", "autoscaled"])):
        node_folder = NodeFolder(name, tmp_path / name)
        join = tmp_path / f"{name}.json"
        run("enroll", name, *pool, "-o", join)
        assert json.loads(join.read_text())["namespace"] == NESTED
        vaultpki("join", "-c", node_folder.config, join, "--dir", node_folder.pki)
        assert f"namespace: {NESTED}" in node_folder.config.read_text()
        check_node_urls(cluster.server, node_folder.pki, f"{NESTED}/{cluster.prefix}")
        if not pool:
            stays_in_place(node_folder)
    assert "worker-1 may have a live credential" in run("enroll", "--all", "-o", tmp_path / "joins", expect=3).stderr
    run("lock", "worker-1")
    run("enroll", "--all", "--yes", "-o", tmp_path / "joins")
    kept = run("enroll", "--all", "-o", tmp_path / "joins").stdout
    assert kept == f"wrote 0 join files to {tmp_path}/joins, 2 from an earlier run are still good\n"

    cloud = NodeFolder("c-1", tmp_path / "c-1")
    cloud.folder.mkdir()
    token = cloud.folder / "token"
    token.touch(0o600)
    token.write_text(ISSUER.token("c-1"))
    cloud.config.write_text(
        f"cluster: prod\nnode: c-1\npool: cloud\nroot_sha256: {pin}\n"
        f"vault: {{addresses: ['{cluster.server.address}'], ca_file: {cluster.server.ca_file}, "
        f"namespace: /{NESTED}/}}\nauth: {{method: jwt, path: {token}}}\ndirectory: {cloud.pki}\nstate: {cloud.state}\n"
    )
    cloud.run()
    check_node_urls(cluster.server, cloud.pki, f"{NESTED}/{cluster.prefix}")

    # Nobody has used the new join file of worker-1.
    shown = {node["node"]: node["report"] for node in json.loads(run("nodes", "--json", expect=3).stdout)["nodes"]}
    assert shown.keys() == {"cp-1", "worker-1", "w-7", "c-1"} and shown["w-7"] and shown["c-1"]
    run("issue", "admin", "--dir", tmp_path / "operator")
    run("verify", "--vault")
    run("unenroll", "w-7")
    gone = NodeFolder("w-7", tmp_path / "w-7")
    gone.age()
    assert "Vault rejects this node's credential; join with a new join file" in gone.run(expect=1).stderr
    run("destroy", "--confirm", "prod")


def stays_in_place(node: NodeFolder) -> None:
    """A resident agent with an empty environment, and one started as its unit would."""
    node.age()
    with resident_agent.resident(node) as agent:
        wait_for(lambda: _fetched(node), 30, agent.log.read_text, 0.05)
        agent.end()
        assert not [event for event in agent.events() if event["level"] != "info"], agent.log.read_text()
    for name in ("vaultpki-agent.service", "vaultpki-agent-once.service", "daemonset.yaml", "static-pod.yaml"):
        text = vaultpki("template", "-c", node.config, name).stdout
        assert "NAMESPACE" not in text and "Environment" not in text and "env:" not in text
    unit = vaultpki("template", "-c", node.config, "vaultpki-agent-once.service").stdout
    (start,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    node.age()
    ran = subprocess.run(["env", "-i", *start.split()], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "") and _fetched(node), ran


def _fetched(node: NodeFolder) -> bool:
    """Whether Vault was asked again since the node was aged by an hour."""
    fetched: float = json.loads((node.state / "spec.json").read_text())["fetched"]
    return time.time() - fetched < 1800


@pytest.mark.on_node
def test_a_namespace_that_does_not_exist_is_told_before_anything_is_promised(server: Server, tmp_path: Path) -> None:
    cluster = AppliedCluster(server, tmp_path, "prod")
    hint = "look at vault.namespace in cluster.yaml and at VAULT_NAMESPACE, or make it first"
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("plan",),
        ("apply", "--yes"),
        ("enroll", "worker-1", "-o", tmp_path / "j.json"),
        ("enroll", "--all", "-o", tmp_path / "all"),
        ("unenroll", "w-1"),
        ("issue", "admin", "--dir", tmp_path / "operator"),
        ("nodes",),
        ("verify", "--vault"),
        ("destroy", "--confirm", "prod"),
    )
    start = server.audit_position()
    for spec, env, name in (("nowhere", {}, "nowhere"), (None, {"VAULT_NAMESPACE": "team1/nowhere/"}, "team1/nowhere")):
        cluster.write(SPEC)
        if spec is not None:
            named(cluster, spec)
        for command, *rest in commands if spec else commands[:2]:
            ran = vaultpki(str(command), "-f", cluster.file, *rest, env=cluster.environment() | env, expect=1)
            fails(ran, f"the namespace {name} does not exist at {server.address}; {hint}")
            assert ran.stdout == ""
    assert server.writes(start) == []


@pytest.mark.on_node
def test_an_agent_whose_namespace_is_gone_asks_for_no_join_file(server: Server, tmp_path: Path) -> None:
    node = NodeFolder("w-1", tmp_path / "node")
    node.state.mkdir(parents=True, mode=0o700)
    (node.state / "secret-id").touch(0o600)
    (node.state / "secret-id").write_text("00000000-0000-0000-0000-000000000000")
    node.config.write_text(
        f"cluster: prod\nnode: w-1\npool: autoscaled\nroot_sha256: '{'4f' * 32}'\n"
        f"vault: {{addresses: ['{server.address}'], ca_file: {server.ca_file}, namespace: nowhere}}\n"
        f"auth: {{method: approle, role_id: r}}\ndirectory: {node.pki}\nstate: {node.state}\n"
    )
    said = node.run(expect=1).stderr
    sentence = f"the namespace nowhere does not exist at {server.address}; look at vault.namespace in {node.config}"
    assert sentence in said and "join" not in said
    agent = json.loads(vaultpki("status", "-c", node.config, "--json", expect=3).stdout)["agent"]
    assert agent["state"] != "needs-join", agent


@pytest.mark.parametrize(
    ("spec", "variable", "said"),
    [
        ("team1/prod", "team1", "vault.namespace: vault.namespace is team1/prod, and VAULT_NAMESPACE is team1: unset"),
        ("root", "team1", "vault.namespace is root, and VAULT_NAMESPACE is team1: unset the variable"),
        ("team1", "root/", "vault.namespace is team1, and VAULT_NAMESPACE is root: unset the variable"),
        (None, "a//b", "VAULT_NAMESPACE: 'a//b' is not a namespace: write names of letters, digits, hyphens"),
        (None, "team1/sys", "VAULT_NAMESPACE: 'team1/sys' has the part sys, which Vault refuses in a namespace"),
    ],
)
def test_a_namespace_said_twice_is_said_alike(tmp_path: Path, spec: str | None, variable: str, said: str) -> None:
    file = tmp_path / "cluster.yaml"
    place = f"vault: {{addresses: ['https://127.0.0.1:1'], namespace: {spec}}}\n" if spec else ""
    file.write_text(f"cluster: prod\n{place}{SPEC}")
    env = {"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "x", "VAULT_NAMESPACE": variable}
    fails(vaultpki("plan", "-f", file, env=env, expect=1), said)


def test_a_server_without_namespaces_is_told_apart(tmp_path: Path) -> None:
    """HashiCorp's community edition, which does not look at the header: the cluster would lie in its root."""
    asked = []

    def community(guest: Guest) -> None:
        while True:
            line = guest.request().split(b"\r\n", 1)[0].decode()
            asked.append(line)
            if "sys/health" in line:
                guest.answer(200, {"initialized": True, "sealed": False, "version": "1.21.1", "enterprise": False})
            elif "sys/leader" in line:
                guest.answer(200, {"ha_enabled": False})
            else:
                # What every server lists, asked for its mounts and its auth mounts.
                guest.answer(200, {"data": {"sys/": {"type": "system"}, "token/": {"type": "token"}}})

    file = tmp_path / "cluster.yaml"
    with hostile_server.serving(community) as server:
        file.write_text(f"cluster: prod\nvault: {{addresses: ['{server.address}'], namespace: team1}}\n{SPEC}")
        for command, *rest in (
            ("plan",),
            ("apply", "--yes"),
            ("enroll", "worker-1", "-o", tmp_path / "j.json"),
            ("issue", "admin", "--dir", tmp_path / "operator"),
        ):
            ran = vaultpki(str(command), "-f", file, *rest, env={"VAULT_TOKEN": "x"}, expect=1)
            fails(
                ran,
                f"{file}: vault.namespace: this server (Vault 1.21.1, community edition) has no namespaces, so the "
                "cluster would be beside everything else. Leave vault.namespace out, or use OpenBao",
            )
    assert asked and all(line.startswith(("GET ", "LIST ")) for line in asked)
