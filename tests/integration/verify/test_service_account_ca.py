"""The CA of service-account keys on a real server: a node gets its own name and number, and nothing for TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.faults.forbidden_requests import Intruder, spread, wire
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import CertificateRefused
from vaultpki.identity.access import pooled_approle
from vaultpki.model import KeyType, Subject, Usage
from vaultpki.pki import x509
from vaultpki.pki.facts import EKU
from vaultpki.records.service_account import KEYS_RECORD
from vaultpki.verify import forbidden_signing, vault_trial

pytestmark = pytest.mark.on_both

SPEC = """\
service_account_keys: true
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
ROLE = "service-account/roles/service-account"


@pytest.fixture(scope="module")
def good(shared_clusters: ClusterFactory) -> AppliedCluster:
    """A cluster as apply makes it."""
    return shared_clusters.applied(SPEC)


def intruder(cluster: AppliedCluster, name: str) -> Intruder:
    """Logs in as the node does, through its own AppRole."""
    server, role = cluster.server, f"auth/{cluster.prefix}/listed/role/{name}"
    body = {
        "role_id": server.api("GET", f"{role}/role-id").data["role_id"],
        "secret_id": server.api("POST", f"{role}/secret-id").data["secret_id"],
    }
    answer = server.api("POST", f"auth/{cluster.prefix}/listed/login", body, token="")
    holder = next(each for each in cluster.model.nodes if each.name == name)
    return Intruder(cluster, name, holder, answer.body["auth"]["client_token"], vault_trial.Keys())


def signed(node: Intruder) -> tuple[str, forbidden_signing.Allowed]:
    """The certificate that a node gets for its service-account key, as PEM, and the request."""
    own = forbidden_signing.allowed(node.model, node.name, node.holder, node.keys.request)
    (request,) = [each for each in own if not each.certificate.usage.tls]
    answer = node.cluster.server.api("POST", request.path, request.body, token=node.token)
    assert answer.status == 200, answer
    return answer.data["certificate"], request


def test_a_control_plane_node_gets_its_own_name_and_one_usage(good: AppliedCluster, tmp_path: Path) -> None:
    node = intruder(good, "cp-1")
    pem, request = signed(node)
    facts = x509.read_certificates(pem.encode())[0]
    assert facts.subject == request.certificate.subject
    assert facts.subject.common_name == "sa:cp-1:1"
    assert facts.usages == EKU[Usage.SIGNING] and not facts.further_names
    node.judge()(pem, request.certificate)
    # No program takes it for TLS, though it trusts the CA.
    chain, leaf = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    leaf.write_text(pem)
    chain.write_text(good.server.api("GET", f"{good.prefix}/service-account/cert/ca").data["certificate"])
    for purpose, taken in (("any", True), ("sslserver", False), ("sslclient", False), ("smimesign", False)):
        command = ["openssl", "verify", "-partial_chain", "-purpose", purpose, "-CAfile", str(chain), str(leaf)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert (done.returncode == 0) is taken, (purpose, done.stderr)


def test_the_other_certificates_of_the_node_are_signed_as_before(good: AppliedCluster) -> None:
    intruder(good, "cp-1").own()
    intruder(good, "worker-1").own()


@pytest.mark.parametrize("name", ["cp-2", "worker-1"])
def test_every_other_request_to_that_mount_is_refused(good: AppliedCluster, name: str) -> None:
    node = intruder(good, name)
    mount = f"{good.prefix}/service-account/"
    listed = [each for each in node.requests() if each.path.startswith(mount)]
    asked = {str((each.body or {}).get("common_name")) for each in listed}
    if name == "cp-2":
        assert {"sa:cp-1:1", "sa:cp-2:2", "sa:cp-2:0", "sa:worker-1:1"} <= asked
    judge, bad = node.judge(), []
    with wire(good.server, node.token) as send:
        for request in spread(listed, 3):
            answer = send(request)
            hole = ""
            if 200 <= answer.status < 300:
                data = answer.body.get("data")
                hole = vault_trial.hole(request, data if isinstance(data, dict) else {}, judge)
            elif not vault_trial.refused(request, answer.status) and answer.status not in (404, 405):
                hole = f"let pass: {answer.status}"
            if hole:
                bad.append((hole, request.method, request.path, request.body))
    assert listed and not bad, bad[:5]


def test_an_enroller_and_the_nodes_that_it_makes_get_no_key_in(good: AppliedCluster) -> None:
    """Also one that a stolen enroller names like a control plane."""
    server, prefix, token = good.server, good.prefix, good.token("enroller")
    (pool,) = good.model.pools
    request = vault_trial.Keys().request
    tokens = {"the enroller": token}
    for name in ("cp-1", "cp-9", "w-1"):
        role = f"auth/{prefix}/pooled/role/{name}"
        assert server.api("POST", role, pooled_approle(good.model, pool), token=token).status == 204
        body = {
            "role_id": server.api("GET", f"{role}/role-id").data["role_id"],
            "secret_id": server.api("POST", f"{role}/secret-id").data["secret_id"],
        }
        answer = server.api("POST", f"auth/{prefix}/pooled/login", body, token="")
        tokens[name] = answer.body["auth"]["client_token"]
    for who, held in tokens.items():
        for name in ("sa:cp-1:1", "sa:cp-9:1", "sa:w-1:1"):
            for way in ("sign", "issue"):
                body = {"common_name": name, "exclude_cn_from_sans": "true", "format": "pem"}
                body |= {"csr": request(KeyType.EC_P256, Subject(name))} if way == "sign" else {}
                answer = server.api("POST", f"{prefix}/service-account/{way}/service-account", body, token=held)
                assert answer.status == 403, (who, way, name, answer)
        for path in (
            f"{prefix}/config/data/{KEYS_RECORD}",
            f"{prefix}/config/data/nodes/cp-1",
            f"{prefix}/{ROLE}",
            f"sys/policies/acl/{prefix}/node/cp-1",
            f"sys/policies/acl/{prefix}/pool/autoscaled",
            f"auth/{prefix}/listed/role/cp-1/secret-id",
        ):
            answer = server.api("POST", path, {"data": {}, "policy": 'path "*" {}'}, token=held)
            assert answer.status == 403, (who, path, answer)


@pytest.mark.parametrize(
    "looser",
    [
        pytest.param({"ext_key_usage_oids": []}, id="no usage, which means every one"),
        pytest.param({"client_flag": True}, id="a client too"),
        pytest.param({"server_flag": True}, id="a server too"),
        pytest.param({"ext_key_usage": ["CodeSigning"]}, id="signs code too"),
        pytest.param({"ext_key_usage_oids": ["1.3.6.1.4.1.311.10.3.4"]}, id="another private usage"),
    ],
)
def test_an_answer_without_exactly_that_usage_is_refused(looser: dict[str, object], good: AppliedCluster) -> None:
    role = f"{good.prefix}/{ROLE}"
    before = good.read(role)
    assert good.server.api("POST", role, {**before, **looser}).status in (200, 204)
    try:
        node = intruder(good, "cp-1")
        pem, request = signed(node)
        with pytest.raises(CertificateRefused) as caught:
            node.judge()(pem, request.certificate)
        assert caught.value.reason == "usage-differs"
    finally:
        assert good.server.api("POST", role, before).status in (200, 204)


def test_a_second_apply_changes_nothing_and_plan_sees_a_loosened_role(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    plan = vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    assert "ext_key_usage_oids" not in plan.stdout and "0 to update" not in plan.stdout
    role = f"{cluster.prefix}/{ROLE}"
    assert cluster.server.api("POST", role, {**cluster.read(role), "ext_key_usage_oids": []}).status in (200, 204)
    plan = vaultpki("plan", "-f", cluster.file, env=cluster.environment())
    assert "ext_key_usage_oids" in plan.stdout


def test_no_file_that_a_component_reads_has_the_ca(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    node = cluster.equip("cp-1")
    node.run()
    vaultpki("ca", "continue", "-f", cluster.file, env=cluster.environment())
    vaultpki("agent", "-c", node.config, "--once")
    pem = cluster.server.api("GET", f"{cluster.prefix}/service-account/cert/ca").data["certificate"]
    wanted = x509.read_certificates(pem.encode())[0].pem
    held = [path for path in node.pki.iterdir() if path.is_file() and path.suffix in (".crt", ".pem", ".conf")]
    # No component reads the pairs of the node's own keys.
    assert {path.name for path in held if wanted.strip() in path.read_text()} == {"sa-1.crt", "sa-1.pem"}
    assert len(held) > len(ISSUING_CAS) and wanted.strip() not in (node.pki / "sa.pub").read_text()
