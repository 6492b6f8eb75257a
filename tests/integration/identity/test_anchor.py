"""What nodes and operators are told to trust comes from cluster.yaml, the environment and the root's mount."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from helpers.node import enrolled_nodes
from helpers.node.handmade_files import key_usage
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, changes, fails
from helpers.vault.servers import write_tls

FOREIGN = "https://evil.example:8200"
# What somebody who may write one record of the config store would like people to believe.
BELIEVED: dict[str, Any] = {
    "root_sha256": "00" * 32,
    "vault": {"addresses": [FOREIGN], "ca_pem": ""},
    "endpoint": "https://evil.example:6443",
    "\x1b[2J": 1,
}
ODD: dict[str, Any] = {"root_sha256": 7, "vault": "nowhere", "endpoint": None, "cluster": ["x"], "templates": "x"}


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> AuditedCluster:
    return ambient(shared_clusters)


@pytest.fixture
def cluster(applied: AuditedCluster) -> Iterator[AuditedCluster]:
    """A cluster that is applied, without `vault` in its cluster.yaml; afterwards it is as it was."""
    text = applied.file.read_text()
    yield applied
    applied.file.write_text(text)
    applied.apply()


def ambient(clusters: ClusterFactory) -> AuditedCluster:
    cluster = clusters.written(SPEC)
    cluster.file.write_text(f"cluster: {cluster.name}\n{SPEC}")
    cluster.apply()
    return cluster


def planted(cluster: AuditedCluster, fields: dict[str, Any]) -> None:
    path = f"{cluster.prefix}/config/data/cluster"
    record = cluster.read(path)["data"]
    assert cluster.server.api("POST", path, {"data": record | fields}).status == 200


def run(cluster: AuditedCluster, *arguments: str | Path, expect: int = 0, **variables: str) -> Any:
    command, *rest = arguments
    env = cluster.environment() | variables
    return vaultpki(command, "-f", cluster.file, *rest, env=env, expect=expect)


@pytest.mark.on_node
@pytest.mark.parametrize(
    ("fields", "named"), [(BELIEVED, True), (BELIEVED, False), (ODD, True)], ids=["named", "ambient", "odd"]
)
def test_a_record_that_says_something_else_is_drift_and_not_believed(
    cluster: AuditedCluster, tmp_path: Path, fields: dict[str, Any], named: bool
) -> None:
    if named:
        cluster.write(SPEC)
    pin, ca_pem = cluster.root_sha256, cluster.server.ca_file.read_text()
    urls = cluster.read(f"{cluster.prefix}/etcd/config/urls")
    planted(cluster, fields)

    warning = f"the record {cluster.prefix}/config/cluster in Vault differs from {cluster.file} ("
    for arguments in (("enroll", "worker-1", "-o", tmp_path / "j.json"), ("enroll", "--all", "-o", tmp_path / "all")):
        for node in ("worker-1", "cp-1"):
            enrolled_nodes.vacate(cluster, node)
        ran = run(cluster, *arguments)
        assert ran.stderr.startswith(warning) and ran.stderr.count("\n") == 1 and ran.stderr[:-1].isprintable()
        assert "apply` corrects it" in ran.stderr
    for file in (tmp_path / "j.json", tmp_path / "all/worker-1.json"):
        told = json.loads(file.read_text())
        assert (told["root_sha256"], told["addresses"], told["ca_pem"], told["namespace"]) == (
            pin,
            [cluster.server.address],
            ca_pem,
            None,
        )
    ran = run(cluster, "issue", "admin", "--dir", tmp_path / "operator")
    assert ran.stderr.startswith(warning) and ran.stderr.count("\n") == 1
    admin = (tmp_path / "operator/admin.conf").read_text()
    assert "evil" not in admin and 'server: "https://10.0.0.11:6443"' in admin

    ((key, (action, drift)),) = changes(cluster.plan()).items()
    assert key == ("config", f"{cluster.prefix}/config/cluster") and action == "update"
    assert drift.keys() == fields.keys()
    cluster.applied()
    assert cluster.plan()["changes"] == [] and cluster.read(f"{cluster.prefix}/etcd/config/urls") == urls
    enrolled_nodes.vacate(cluster, "worker-1")
    ran = run(cluster, "enroll", "worker-1", "-o", tmp_path / "j.json")
    assert ran.stderr == ""


@pytest.mark.on_node
def test_without_a_record_or_with_a_newer_one_nobody_is_enrolled(cluster: AuditedCluster, tmp_path: Path) -> None:
    asking = (("enroll", "cp-1", "-o", tmp_path / "j.json"), ("issue", "admin", "--dir", tmp_path / "operator"))
    planted(cluster, {"version": 2})
    for arguments in asking:
        fails(run(cluster, *arguments, expect=1), "has version 2 and this vaultpki speaks 1")
    assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/cluster").status == 204
    for arguments in asking:
        fails(run(cluster, *arguments, expect=1), f"cluster {cluster.name} is not in this Vault; run `vaultpki apply")
    assert not [*tmp_path.glob("*.json"), *tmp_path.glob(".*")] and not (tmp_path / "operator").exists()


@pytest.mark.on_node
def test_the_ca_of_addresses_in_cluster_yaml_is_the_one_beside_them(cluster: AuditedCluster, tmp_path: Path) -> None:
    """VAULT_CACERT is of the way that a person takes, who may come by another address."""
    (tmp_path / "other").mkdir()
    both = tmp_path / "both.pem"
    both.write_text(cluster.server.ca_file.read_text() + write_tls(tmp_path / "other").read_text())
    cluster.write(SPEC)
    enrolled_nodes.vacate(cluster, "cp-1")
    run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json", VAULT_CACERT=str(both))
    assert json.loads((tmp_path / "cp-1.json").read_text())["ca_pem"] == cluster.server.ca_file.read_text()
    assert json.loads(run(cluster, "plan", "--json", VAULT_CACERT=str(both)).stdout)["changes"] == []


# The root's SHA-256 in cluster.yaml


def pinned(cluster: AuditedCluster, pin: str) -> None:
    cluster.file.write_text(f"cluster: {cluster.name}\n{SPEC}ca: {{root_sha256: '{pin}'}}\n")


@pytest.mark.on_node
def test_apply_writes_the_root_into_cluster_yaml(cluster: AuditedCluster, tmp_path: Path) -> None:
    pin = cluster.root_sha256
    assert "Root CA SHA-256" not in run(cluster, "apply", "--yes").stdout
    before = cluster.file.read_text()
    line = f"Wrote the SHA-256 of the root CA into {cluster.file} (ca.root_sha256): {pin}"
    assert line in run(cluster, "apply", "--yes", "--pin").stdout.splitlines()
    assert cluster.file.read_text().startswith(before) and pin in cluster.file.read_text()
    assert json.loads(run(cluster, "apply", "--yes", "--json").stdout)["root_sha256"] == pin
    pinned(cluster, ":".join(pin[at : at + 2] for at in range(0, 64, 2)).upper())
    assert "Root CA SHA-256" not in run(cluster, "apply", "--yes").stdout
    assert json.loads(run(cluster, "apply", "--yes", "--json").stdout)["root_sha256"] == pin
    assert json.loads(run(cluster, "plan", "--json").stdout)["changes"] == []
    enrolled_nodes.vacate(cluster, "cp-1")
    run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json")
    run(cluster, "issue", "admin", "--dir", tmp_path / "operator")


@pytest.mark.on_node
def test_a_server_that_shows_another_root_is_refused(
    cluster: AuditedCluster, clusters: ClusterFactory, tmp_path: Path
) -> None:
    pin, other = cluster.root_sha256, "4f" * 32
    pinned(cluster, other)
    mark = cluster.server.audit_position()
    said = (
        f"the root CA at {cluster.prefix}/root has the SHA-256 {pin}, and {cluster.file} names "
        f"{other} (ca.root_sha256). This is another Vault, or somebody changed the root. Find out which before "
        "anything is trusted"
    )
    for arguments in (
        ("plan",),
        ("apply", "--yes"),
        ("enroll", "worker-1", "-o", tmp_path / "j.json"),
        ("enroll", "w-1", "--pool", "autoscaled", "-o", tmp_path / "w.json"),
        ("enroll", "--all", "-o", tmp_path / "all"),
        ("issue", "admin", "--dir", tmp_path / "operator"),
        ("verify", "--vault"),
        ("destroy", "--confirm", cluster.name),
    ):
        fails(run(cluster, *arguments, expect=1), said)
    assert not [*tmp_path.glob("*.json"), *tmp_path.glob(".*")] and not (tmp_path / "operator").exists()
    # An empty one gets no other root.
    empty = clusters.written(SPEC)
    pinned(empty, other)
    for arguments in (("plan",), ("apply", "--yes")):
        fails(
            run(empty, *arguments, expect=1),
            f"there is no root CA at {empty.prefix}/root, and a new one would be another root than ca.root_sha256 in "
            f"{empty.file} names. Restore that one from a backup, or remove the key to make a new one",
        )
    assert empty.server.writes(mark) == []
    assert empty.server.api("GET", f"sys/mounts/{empty.prefix}/root").status != 200


# What the root's mount shows


def self_signed(name: str, *, begun: timedelta = timedelta(days=-1)) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) + begun
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def imported(cluster: AuditedCluster, pem: str) -> str:
    answer = cluster.server.api("POST", f"{cluster.prefix}/root/issuers/import/cert", {"pem_bundle": pem})
    assert answer.status == 200, answer
    made: str = answer.data["imported_issuers"][0]
    return made


def test_a_root_that_somebody_put_beside_ours_or_in_its_place_is_not_taken_for_it(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    cluster = ambient(clusters)
    pin, root = cluster.root_sha256, f"{cluster.prefix}/root"
    planted = [imported(cluster, self_signed(name)) for name in ("another root CA", f"{cluster.name} root CA")]
    assert cluster.server.api("POST", f"{root}/config/issuers", {"default": planted[1]}).status == 200
    run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json")
    assert json.loads((tmp_path / "cp-1.json").read_text())["root_sha256"] == pin
    # With no name by which ours is known, a person must say which one it is.
    named = cluster.server.api("POST", f"{root}/issuer/root-1", {"issuer_name": "mine"})
    assert named.status == 200, named
    ran = run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json", expect=1)
    fails(ran, f"{root} shows 2 root CAs named {cluster.name} root CA; write the SHA-256 of the right one")
    text = cluster.file.read_text()
    pinned(cluster, pin)
    enrolled_nodes.vacate(cluster, "cp-1")
    run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json")
    assert json.loads((tmp_path / "cp-1.json").read_text())["root_sha256"] == pin
    (tmp_path / "cp-1.json").unlink()

    # A mount without a root of ours pins nobody.
    cluster.file.write_text(text)
    enrolled_nodes.vacate(cluster, "cp-1")
    for issuer in ("mine", planted[1]):
        assert cluster.server.api("DELETE", f"{root}/issuer/{issuer}").status in (200, 204)
    said = f"none of its issuers is a self-signed CA named {cluster.name} root CA that is in date"
    for pem in (
        self_signed(f"{cluster.name} kubernetes CA"),
        self_signed(f"{cluster.name} root CA", begun=timedelta(days=-4)),
    ):
        imported(cluster, pem)
        fails(run(cluster, "enroll", "cp-1", "-o", tmp_path / "cp-1.json", expect=1), said)
    fails(run(cluster, "issue", "admin", "--dir", tmp_path / "operator", expect=1), said)
    assert not (tmp_path / "cp-1.json").exists() and not (tmp_path / "operator").exists()
