"""An issuer on another mount of the same server signs: through one path, by the printed policy, or says why not."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.node.resident_agent import faketime_library
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from helpers.vault.outside_signer import SPEC
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import Server
from vaultpki.pki import x509

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@dataclass(frozen=True, slots=True)
class CorpMount:
    """A PKI mount of somebody else, with a root and a CA below it."""

    server: Server
    path: str

    def api(self, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, Any]:
        answer = self.server.api(method, f"{self.path}/{path}", body)
        assert answer.status in (200, 204), (path, answer)
        return answer.data if answer.status == 200 else {}

    def between(self, name: str, **further: object) -> None:
        """A CA below the root, on the same mount."""
        csr = self.api("POST", "intermediate/generate/internal", {"common_name": name, "key_type": "ec"})["csr"]
        life = {"ttl": "40000h", "not_before_duration": "1h"}
        body: dict[str, object] = {"common_name": name, "csr": csr, **life, **further}
        pem = self.api("POST", "issuer/corp-root/sign-intermediate", body)["certificate"]
        (id_,) = self.api("POST", "intermediate/set-signed", {"certificate": pem})["imported_issuers"]
        self.api("POST", f"issuer/{id_}", {"issuer_name": name})


@pytest.fixture(scope="module")
def corp(server: Server) -> Iterator[CorpMount]:
    mount = CorpMount(server, f"corp-{secrets.token_hex(4)}")
    body: dict[str, object] = {"type": "pki", "config": {"max_lease_ttl": "87600h"}}
    assert server.api("POST", f"sys/mounts/{mount.path}", body).status == 204
    life = {"ttl": "80000h", "not_before_duration": "2h"}
    mount.api("POST", "root/generate/internal", {"common_name": "Corp", "issuer_name": "corp-root", **life})
    mount.between("corp-kubernetes", max_path_length=1)
    yield mount
    assert server.api("DELETE", f"sys/mounts/{mount.path}").status == 204


@pytest.fixture(scope="module")
def cluster(corp: CorpMount, shared_clusters: ClusterFactory) -> AuditedCluster:
    """A cluster without nodes below an issuer of that mount, which holds nothing else afterwards."""
    text = spec(corp, "corp-kubernetes", ", subject: {O: Corp, C: DE}")
    before = everything(corp)
    made = shared_clusters.applied(text[: text.index("nodes:")] + text[text.index("ca: {") :])
    assert everything(corp) == before
    return made


def spec(corp: CorpMount, issuer: str, further: str = "") -> str:
    signer = f"root: {{mount: {corp.path}, issuer: {issuer}}}, issuing_ttl: 1y{further}"
    return SPEC[: SPEC.index("ca: {")] + f"ca: {{{signer}}}\n"


def everything(corp: CorpMount) -> dict[str, Any]:
    """What the mount holds, but for the certificates that it has signed."""
    issuers = corp.api("LIST", "issuers")["key_info"]
    found = {id_: corp.api("GET", f"issuer/{id_}") for id_ in issuers}
    return {"issuers": found, "keys": corp.api("LIST", "keys"), "config": corp.api("GET", "config/issuers")}


def planned(cluster: AuditedCluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=cluster.environment()).stdout)
    return found


def test_it_signs_without_a_person(corp: CorpMount, cluster: AuditedCluster) -> None:
    root = x509.read_certificates(corp.api("GET", "issuer/corp-root")["certificate"].encode())[0]
    signer = x509.read_certificates(corp.api("GET", "issuer/corp-kubernetes")["certificate"].encode())[0]
    assert cluster.root_sha256 == root.fingerprint
    for name in CAS:
        issuer = cluster.read(f"{cluster.prefix}/{name}/issuer/{name}-1")
        facts = x509.read_certificates(issuer["certificate"].encode())[0]
        assert x509.signed_by(facts, signer) and facts.path_length == 0 and issuer["key_id"]
        assert facts.subject_text == f"CN={cluster.name} {name} CA,O=Corp,C=DE"
    assert len(cluster.read_names(f"{cluster.prefix}/root/issuers")) == 2
    assert cluster.applied()[1] == []
    # A renewal with the same key keeps the name that ca.subject had.
    cluster.file.write_text(cluster.file.read_text().replace("O: Corp", "O: Corp Two"))
    (change,) = (each["fields"]["subject"] for each in planned(cluster)["rotation_needed"] if each["ca"] == "etcd")
    assert change == {"from": "O=Corp, C=DE", "to": "O=Corp Two, C=DE"}
    rotate = ("ca", "rotate", "etcd", "--same-key", "-f", cluster.file)
    ran = vaultpki(*rotate, env=cluster.environment(), expect=1)
    assert "has O=Corp, C=DE beside its CN" in ran.stderr and "keeps the name" in ran.stderr
    cluster.file.write_text(cluster.file.read_text().replace("O: Corp Two", "O: Corp"))
    vaultpki(*rotate, env=cluster.environment())
    vaultpki("ca", "continue", "-f", cluster.file, env=cluster.environment())
    names = [
        x509.read_certificates(cluster.read(f"{cluster.prefix}/etcd/issuer/{name}")["certificate"].encode())[0]
        for name in ("etcd-1", "etcd-1r2")
    ]
    assert names[0].subject_text == names[1].subject_text and names[0].public_key == names[1].public_key


def test_the_printed_policy_lets_nothing_else_be_signed(corp: CorpMount, cluster: AuditedCluster) -> None:
    mount = f"{cluster.prefix}/etcd"
    csr = cluster.server.api("POST", f"{mount}/intermediate/generate/internal", {"common_name": "x"}).data["csr"]
    right = {
        "csr": csr,
        "common_name": f"{cluster.name} etcd CA 2",
        "exclude_cn_from_sans": "true",
        "max_path_length": "0",
        "not_before_duration": "600s",
        "use_csr_values": "false",
        "format": "pem",
        "ttl": "9000h",
        "organization": "Corp",
        "country": "DE",
    }
    path, token = f"{corp.path}/issuer/corp-kubernetes/sign-intermediate", cluster.token()
    assert cluster.server.api("POST", path, right, token=token).status == 200
    wrong: list[dict[str, object]] = [
        {"common_name": "another CA"},
        {"common_name": ""},
        {"max_path_length": "1"},
        {"max_path_length": ""},
        {"max_path_length": "-1"},
        {"use_csr_values": "true"},
        {"use_csr_values": ""},
        {"permitted_dns_domains": "x"},
        {"not_after": "2099-01-01T00:00:00Z"},
        {"organization": "Other"},
        {"alt_names": "x.example.com"},
    ]
    for each in wrong:
        assert cluster.server.api("POST", path, {**right, **each}, token=token).status == 403, each
    for name in ("max_path_length", "use_csr_values", "common_name"):
        less = {key: value for key, value in right.items() if key != name}
        assert cluster.server.api("POST", path, less, token=token).status == 403, name
    for other in (
        "root/sign-intermediate",
        "issuer/corp-kubernetes/sign-verbatim",
        "issuer/corp-root/sign-intermediate",
    ):
        assert cluster.server.api("POST", f"{corp.path}/{other}", right, token=token).status == 403, other


def test_plan_says_what_is_in_the_way(corp: CorpMount, clusters: ClusterFactory) -> None:
    corp.between("corp-leaves", max_path_length=0)
    corp.between("corp-narrow", max_path_length=1, permitted_dns_domains="corp.example")
    for issuer, hint in (("corp-leaves", "path length 0"), ("corp-narrow", "name constraints")):
        cluster = clusters.written(spec(corp, issuer))
        assert any(hint in each["reason"] for each in planned(cluster)["dangers"]), issuer
        ran = cluster.apply(expect=1)
        assert hint in ran.stderr
    corp.between("corp-new", max_path_length=1, not_before_duration="1m")
    cluster = clusters.written(spec(corp, "corp-new"))
    assert any("minutes before they are signed" in each["reason"] for each in planned(cluster)["dangers"])
    cluster = clusters.written(spec(corp, "nobody"))
    ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=1)
    assert "there is no issuer nobody" in ran.stderr


@pytest.mark.on_node
def test_no_ca_is_rotated_in_vain_and_the_end_of_the_pinned_root_is_told(
    corp: CorpMount, clusters: ClusterFactory
) -> None:
    """A new CA would end with the policy CA above it, as the one in use does: the command names that."""
    corp.between("corp-short", max_path_length=1, ttl="2000h")
    cluster = clusters.applied(spec(corp, "corp-short"))
    env, words = cluster.environment(), ("ca", "rotate", "etcd", "-f", cluster.file)
    ran = vaultpki(*words, "--same-key", env=env, expect=1)
    told = "CN=corp-short above the CA etcd ends on"
    assert told in ran.stderr and "no time is gained. Have whoever keeps that renew it" in ran.stderr
    assert json.loads(cluster.ca("status", "--json").stdout)["rotation"] is None
    assert told in vaultpki(*words, env=env).stderr
    clock = {"LD_PRELOAD": faketime_library(), "FAKETIME": "+3000d"}
    for view in (("nodes",), ("ca", "status")):
        ran = vaultpki(*view, "-f", cluster.file, env={**cluster.environment("viewer"), **clock}, expect=3)
        assert "! CN=Corp, to which the nodes are pinned, expires on " in ran.stdout, ran


@pytest.mark.on_node
def test_a_signer_that_is_gone_stops_nothing_but_signing(
    corp: CorpMount, clusters: ClusterFactory, tmp_path: Path
) -> None:
    corp.between("corp-gone", max_path_length=1)
    cluster = clusters.applied(spec(corp, "corp-gone"))
    node = cluster.equip("worker-1", folder=tmp_path / "node")
    corp.api("DELETE", "issuer/corp-gone")
    gone = f"there is no issuer corp-gone at {corp.path}"
    assert planned(cluster)["changes"] == []
    assert cluster.applied()[1] == []
    node.run()
    said: tuple[tuple[tuple[str | Path, ...], Who, set[int]], ...] = (
        (("nodes",), "viewer", {0, 3}),
        (("ca", "status"), "viewer", {0}),
        (("issue", "admin", "--dir", tmp_path / "admin"), "operator", {0}),
        (("enroll", "cp-1", "-o", tmp_path / "join.json"), "applier", {0}),
        (("lock", "worker-1"), "locker", {0}),
    )
    for words, who, code in said:
        ran = vaultpki(*words, "-f", cluster.file, env=cluster.environment(who), expect=code)
        assert gone not in ran.stderr, ran
    # Before its record is written.
    assert gone in cluster.ca("rotate", "etcd", expect=1).stderr
    assert json.loads(cluster.ca("status", "--json").stdout)["rotation"] is None
    assert cluster.server.api("DELETE", f"{cluster.prefix}/etcd/issuer/etcd-1").status in (200, 204)
    (danger,) = planned(cluster)["dangers"]
    assert gone in danger["reason"]
