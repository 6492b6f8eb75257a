"""A root CA from outside: `apply` makes keys and all else, exits 3 with what is missing; a second run adds nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.corporate_certificates import Ca
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_root import put_outside
from helpers.vault.outside_signer import SPEC, OutsideSigner
from helpers.vault.server_contents import listing
from vaultpki.pki import x509

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def signer(tmp_path: Path) -> OutsideSigner:
    return OutsideSigner.made(tmp_path / "offline")


def test_apply_makes_keys_and_says_what_is_missing(clusters: ClusterFactory, signer: OutsideSigner) -> None:
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    planned = vaultpki("plan", "-f", cluster.file, "--json", env=cluster.environment())
    assert json.loads(planned.stdout)["waiting"] == list(CAS)
    ran = cluster.apply(expect=3)
    assert "the issuing CAs kubernetes, kubelet, etcd, front-proxy wait" in ran.stderr, ran.stderr
    assert f"`vaultpki ca csr -f {cluster.file} -o DIR`" in ran.stderr
    there = listing(cluster.server, cluster.name)
    for ca in CAS:
        assert len(there[f"vaultpki/CLUSTER/{ca}/keys"]) == 1
        assert len(there[f"vaultpki/CLUSTER/{ca}/issuers"]) == 0
    assert there["vaultpki/CLUSTER/root/keys"] == []
    assert set(there["auth/vaultpki/CLUSTER/listed/role"]) == {"cp-1", "worker-1"}
    assert cluster.root_sha256 == signer.root_sha256
    root = cluster.read(f"{cluster.prefix}/root/issuer/root-1")
    assert (root["key_id"], root["usage"]) == ("", "read-only")
    since = cluster.server.audit_position()
    again = cluster.apply(expect=3)
    assert cluster.server.writes(since) == []
    assert again.stderr == ran.stderr
    assert listing(cluster.server, cluster.name) == there


@pytest.mark.on_node
def test_a_root_from_outside_with_the_name_of_ours_is_refused_before_the_first_write(clusters: ClusterFactory) -> None:
    cluster, now = clusters.written(SPEC), datetime.now(UTC)
    root = Ca(f"{cluster.name} root CA", begins=now - timedelta(days=1), ends=now + timedelta(days=3000))
    (cluster.folder / "corp-root.pem").write_text(root.pem)
    since, before = cluster.server.audit_position(), listing(cluster.server, cluster.name)
    for words in (("plan",), ("apply", "--yes"), ("ca", "import", "--dry-run", "--csr", ".", "corp-root.pem")):
        ran = vaultpki(*words, "-f", cluster.file, env=cluster.environment(), expect=1)
        assert "it needs another name" in ran.stderr and "changed" not in ran.stderr, ran.stderr
    corporate = Ca("Corp Root", begins=now - timedelta(days=1), ends=now + timedelta(days=3000))
    leaf = Ca("www.corp.example", corporate, begins=now - timedelta(days=1), ends=now + timedelta(days=90), ca=False)
    (cluster.folder / "corp-root.pem").write_text(corporate.pem + leaf.pem)
    ran = vaultpki("apply", "--yes", "-f", cluster.file, env=cluster.environment(), expect=1)
    assert "which is not for a CA; keep the root" in ran.stderr, ran.stderr
    assert cluster.server.writes(since) == [] and listing(cluster.server, cluster.name) == before


def above(cluster: AppliedCluster) -> set[str]:
    """The subjects' SHA-256 of the CAs on the root's mount."""
    listed = cluster.server.api("LIST", f"{cluster.prefix}/root/issuers").data["keys"]
    pems = [cluster.read(f"{cluster.prefix}/root/issuer/{each}")["certificate"] for each in listed]
    return {x509.fingerprint(pem.encode()) for pem in pems}


def planned(cluster: AppliedCluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vaultpki("plan", "-f", cluster.file, "--json", env=cluster.environment()).stdout)
    return found


@pytest.mark.on_node
def test_a_ca_that_leaves_root_file_stays_while_something_is_below_it(clusters: ClusterFactory) -> None:
    outside = put_outside(clusters, SPEC[: SPEC.index("ca: {")])
    cluster, (root, upper, lower) = outside.cluster, (outside.root, outside.upper, outside.lower)
    other = Ca("Corp Web CA", upper, begins=upper.facts.not_before, ends=upper.facts.not_after)
    outside.write_chain(root, upper, lower, other)
    cluster.apply()
    assert other.facts.fingerprint in above(cluster)
    # Nothing is below this one.
    outside.write_chain(root, upper, lower)
    (change,) = (each for each in planned(cluster)["changes"] if each["kind"] == "issuer")
    assert (change["action"], change["fields"]["subject"]["from"]) == ("delete", other.facts.subject_text)
    assert f"- CA {other.facts.subject_text}" in vaultpki(
        "plan", "-f", cluster.file, env=cluster.environment()
    ).stdout.replace("\n      ", " ")
    cluster.apply()
    assert above(cluster) == {each.facts.fingerprint for each in (root, upper, lower)}
    # All issuing CAs are below these two.
    outside.write_chain(root)
    found = planned(cluster)
    assert not found["changes"], found["changes"]
    told = {each["reason"] for each in found["dangers"] if each["name"].endswith(tuple("0123456789abcdef"))}
    for ca in (upper, lower):
        (one,) = (each for each in told if f"does not name {ca.facts.subject_text} any more" in each)
        assert "below it: kubernetes, kubelet, etcd" in one, one
    cluster.apply()
    assert above(cluster) == {each.facts.fingerprint for each in (root, upper, lower)}
    # A renewed one takes the place of the old one in one step.
    renewed = lower.again(upper, begins=lower.facts.not_before, ends=lower.facts.not_after + timedelta(days=9))
    outside.write_chain(root, upper, renewed)
    cluster.apply()
    assert above(cluster) == {each.facts.fingerprint for each in (root, upper, renewed)}
    # One that has expired is not installed.
    old = lower.again(upper, begins=lower.facts.not_before, ends=datetime.now(UTC) - timedelta(hours=1))
    outside.write_chain(root, upper, old, renewed)
    assert f"{lower.facts.subject_text} that expired on" in str(planned(cluster)["dangers"])
    since = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(since) == []
    assert above(cluster) == {each.facts.fingerprint for each in (root, upper, renewed)}
