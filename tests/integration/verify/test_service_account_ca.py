"""The CA of service-account keys on a real server: a node gets its own name and number, and nothing for TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.faults.forbidden_requests import Intruder, sent
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


def signed(node: Intruder) -> tuple[str, forbidden_signing.Allowed]:
    """The certificate that a node gets for its service-account key, as PEM, and the request."""
    own = forbidden_signing.allowed(node.model, node.name, node.holder, node.keys.request)
    (request,) = [each for each in own if not each.certificate.usage.tls]
    answer = node.cluster.server.api("POST", request.path, request.body, token=node.token)
    assert answer.status == 200, answer
    return answer.data["certificate"], request


def test_a_control_plane_node_gets_its_own_name_and_one_usage(good: AppliedCluster, tmp_path: Path) -> None:
    node = Intruder.logged_in(good, "cp-1")
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
    Intruder.logged_in(good, "cp-1").own()
    Intruder.logged_in(good, "worker-1").own()


@pytest.mark.parametrize("name", ["cp-2", "worker-1"])
def test_every_other_request_to_that_mount_is_refused(good: AppliedCluster, name: str) -> None:
    node = Intruder.logged_in(good, name)
    mount = f"{good.prefix}/service-account/"
    outcomes = node.tries(step=3, below=mount)
    asked = {str(sent(each).get("common_name")) for each in node.requests() if each.path.startswith(mount)}
    if name == "cp-2":
        assert {"sa:cp-1:1", "sa:cp-2:2", "sa:cp-2:0", "sa:worker-1:1"} <= asked
    assert outcomes
    for each in outcomes:
        # A path that the mount has not is none's.
        assert not each.hole or each.status in (404, 405), each


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


# A CA for clients or servers too, for every purpose, or for another one.
LOOSER: tuple[dict[str, object], ...] = (
    {"ext_key_usage_oids": []},
    {"client_flag": True},
    {"server_flag": True},
    {"ext_key_usage": ["CodeSigning"]},
    {"ext_key_usage_oids": ["1.3.6.1.4.1.311.10.3.4"]},
)


def test_an_answer_without_exactly_that_usage_is_refused_and_plan_sees_the_role(good: AppliedCluster) -> None:
    def plan() -> str:
        return vaultpki("plan", "-f", good.file, env=good.environment()).stdout

    said, role = plan(), f"{good.prefix}/{ROLE}"
    assert "ext_key_usage_oids" not in said
    before, node = good.read(role), Intruder.logged_in(good, "cp-1")
    for looser in LOOSER:
        assert good.server.api("POST", role, {**before, **looser}).status in (200, 204)
        pem, request = signed(node)
        with pytest.raises(CertificateRefused) as caught:
            node.judge()(pem, request.certificate)
        assert caught.value.reason == "usage-differs"
    assert "ext_key_usage_oids" in plan()
    assert good.server.api("POST", role, before).status in (200, 204)


def test_no_file_that_a_component_reads_has_the_ca(good: AppliedCluster) -> None:
    cluster, node = good, good.equip("cp-1")
    node.run()
    vaultpki("ca", "continue", "-f", cluster.file, env=cluster.environment())
    vaultpki("agent", "-c", node.config, "--once")
    pem = cluster.server.api("GET", f"{cluster.prefix}/service-account/cert/ca").data["certificate"]
    wanted = x509.read_certificates(pem.encode())[0].pem
    held = [path for path in node.pki.iterdir() if path.is_file() and path.suffix in (".crt", ".pem", ".conf")]
    # No component reads the pairs of the node's own keys.
    assert {path.name for path in held if wanted.strip() in path.read_text()} == {"sa-1.crt", "sa-1.pem"}
    assert len(held) > len(ISSUING_CAS) and wanted.strip() not in (node.pki / "sa.pub").read_text()
