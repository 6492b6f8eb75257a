"""A chain is renewed by `ca import` alone: the CAs above and the issuing CAs keep their keys, and leaves stay valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.corporate_certificates import Ca, name
from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_root import OutsideRoot, put_outside
from helpers.vault.server_contents import listing
from vaultpki.certificates import ISSUING_CAS, bundle, chain_bundle
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

API = "api_server: {names: [api.example.com]"
NODELESS = f'{API}, endpoint: "https://api.example.com:6443"}}\n'
NODE = f"""{API}}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
"""
BEGUN = timedelta(minutes=18)


def later(outside: OutsideRoot) -> Ca:
    """The lower CA, with its key, for a year longer."""
    old = outside.lower.facts
    return outside.lower.again(outside.upper, begins=old.not_before, ends=old.not_after + timedelta(days=365))


def put(outside: OutsideRoot, file: str, *pems: str) -> Path:
    path = outside.cluster.folder / file
    path.write_text("".join(pems))
    return path


def signed_again(outside: OutsideRoot, domain: str, signer: Ca | None = None, **options: Any) -> str:
    """Another certificate for the key and the name that an issuing CA has, as PEM."""
    csr = (outside.cluster.folder / "requests" / f"{outside.cluster.name}-{domain}-1.csr").read_text()
    now = datetime.now(UTC).replace(microsecond=0)
    dates = {"begins": now - BEGUN, "ends": now + timedelta(days=900)}
    return (signer or outside.lower).sign(csr, **{**dates, **options})


def above(outside: OutsideRoot) -> set[Facts]:
    """The CAs from outside on the server."""
    return {*shown(outside.cluster, "root").values()}


def held(node: NodeFolder, file: str) -> tuple[Facts, ...]:
    return x509.read_certificates((node.pki / file).read_bytes())


def passes(node: NodeFolder) -> None:
    vaultpki("agent", "-c", node.config, "--once")


def test_it_is_renewed_at_once_and_a_leaf_stays(clusters: ClusterFactory) -> None:
    outside = put_outside(clusters, NODE)
    cluster, node = outside.cluster, outside.equip("cp-1")
    node.run()
    leaf = (node.pki / "etcdserver.crt").read_bytes()
    an_issuing_ca_is_renewed_by_its_rotation_with_the_same_key(outside, node)

    renewed = later(outside)
    file = put(outside, "renewed.pem", renewed.pem)
    before = listing(cluster.server, cluster.name)
    assert "+ CA " in cluster.ca("import", "--dry-run", file).stdout
    assert listing(cluster.server, cluster.name) == before
    ran = cluster.ca("import", file)
    assert f"+ CA {renewed.facts.subject_text}, until" in ran.stdout
    assert "ca.root_file of" in ran.stdout and "put the new one in its place there" in ran.stdout
    both = {each.facts for each in (outside.root, outside.upper, outside.lower, renewed)}
    assert above(outside) == both
    with cluster.untouched():
        assert "installed already" in cluster.ca("import", file).stdout
    # An apply does not take it away again, and says what is to be written.
    plan = cluster.plan()
    assert plan["changes"] == [] and plan["unmanaged"] == []
    (danger,) = plan["dangers"]
    assert danger["name"] == "ca.root_file" and renewed.facts.fingerprint in danger["reason"]
    passes(node)
    assert {*held(node, chain_bundle("etcd"))[1:]} == both
    # With the new one in the file the old one leaves, on the server and on the node.
    outside.write_chain(outside.root, outside.upper, renewed)
    cluster.apply()
    assert above(outside) == {each.facts for each in (outside.root, outside.upper, renewed)}
    with cluster.untouched():
        assert "installed already" in cluster.ca("import", file).stdout
    passes(node)
    assert held(node, chain_bundle("etcd"))[1:] == (renewed.facts, outside.upper.facts, outside.root.facts)
    assert (node.pki / "etcdserver.crt").read_bytes() == leaf
    vaultpki("status", "-c", node.config)


def an_issuing_ca_is_renewed_by_its_rotation_with_the_same_key(outside: OutsideRoot, node: NodeFolder) -> None:
    cluster = outside.cluster
    old, pem = shown(cluster, "etcd")["etcd-1"], signed_again(outside, "etcd")
    file = put(outside, "etcd.pem", pem)
    assert "another certificate for the key" in cluster.ca("import", "--dry-run", file).stdout
    assert "certificates of nodes stay as they are" in cluster.ca("import", file).stdout
    assert cluster.rotated == "published"
    assert cluster.issuer_names("etcd") == {"etcd-1", "etcd-1r2"}
    with cluster.untouched():
        cluster.ca("import", file)
    (leaf, *behind) = held(node, "etcdserver.crt")
    assert behind == [old]
    passes(node)
    assert {*held(node, bundle("etcd"))} == {old, x509.read_certificates(pem.encode())[0]}
    assert held(node, "etcdserver.crt")[0] == leaf
    # Back, and nobody waits for the node.
    cluster.ca("abort")
    assert cluster.issuer_names("etcd") == {"etcd-1"}
    passes(node)


def what_is_refused_changes_nothing(outside: OutsideRoot) -> None:
    lower, upper = outside.lower, outside.upper
    ends, now = lower.facts.not_after + timedelta(days=365), datetime.now(UTC)
    forger, etcd = Ca("", subject=upper.subject), name(f"{outside.cluster.name} etcd CA")
    cases = {
        "signed by another key": (lower.again(forger, ends=ends).pem, "another key signed it"),
        "no room below": (lower.again(upper, ends=ends, path_length=0).pem, "1 CA stands"),
        "not yet valid": (lower.again(upper, begins=now + timedelta(days=1), ends=ends).pem, "not valid before"),
        "no certSign": (lower.again(upper, ends=ends, signs=False).pem, "may not sign certificates"),
        "the root": (outside.root.again(outside.root, ends=ends).pem, "is pinned to the certificate"),
        "one that ends no later": (lower.again(upper, ends=now + timedelta(days=1)).pem, "is not needed"),
        "an older one": (signed_again(outside, "etcd", begins=now - timedelta(hours=2)), "is installed"),
        "another key": (lower.certify(upper.key.public_key(), etcd).pem, "is not needed"),
        "below a new CA": (signed_again(outside, "etcd", Ca("Corp New CA", upper)), "is missing"),
    }
    before = listing(outside.cluster.server, outside.cluster.name)
    for what, (pem, hint) in cases.items():
        ran = outside.cluster.ca("import", put(outside, "wrong.pem", pem), expect=1)
        assert hint in ran.stdout and "nothing was changed" in ran.stderr, (what, ran.stdout)
    assert listing(outside.cluster.server, outside.cluster.name) == before


@pytest.mark.parametrize(
    "size", [pytest.param(3, id="some"), pytest.param(10**6, id="each", marks=pytest.mark.exhaustive)]
)
def test_a_whole_chain_also_by_commands_that_are_killed(clusters: ClusterFactory, drawn: Drawn, size: int) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1000)
    outside = put_outside(clusters, NODELESS, ends=ends)
    what_is_refused_changes_nothing(outside)
    cluster, renewed = outside.cluster, later(outside)
    file = put(outside, "both.pem", renewed.pem, signed_again(outside, "etcd", renewed))

    def whole() -> None:
        # Here every gate is open, and an import that takes up another whose last answer was lost goes on by a step.
        assert cluster.rotated in ("published", "switched")
        assert cluster.issuer_names("etcd") == {"etcd-1", "etcd-1r2"}
        (name_,) = (each for each, facts in shown(cluster, "root").items() if facts == renewed.facts)
        with cluster.untouched():
            cluster.ca("import", file)
        while cluster.rotated:
            cluster.ca("abort")
        outside.forget("root", name_)

    since = cluster.server.audit_position()
    cluster.ca("import", file)
    last = len(cluster.server.writes(since))
    whole()
    with proxied(cluster.server) as proxy:
        for cut in drawn.some(range(1, last + 1), size):
            proxy.arm(cut, reopens=False)
            proxy.cut_off(cluster, "ca", "import", "-f", cluster.file, file)
            cluster.ca("import", file)
            whole()
    one_ca_after_the_other(outside, renewed)


def one_ca_after_the_other(outside: OutsideRoot, renewed: Ca) -> None:
    cluster = outside.cluster
    # They end after the old one above them, so they are of use below the new one alone.
    ends = outside.lower.facts.not_after + timedelta(days=30)
    pems = {domain: signed_again(outside, domain, renewed, ends=ends) for domain in ISSUING_CAS}
    file = put(outside, "all.pem", renewed.pem, *pems.values())
    for number, domain in enumerate(ISSUING_CAS):
        last = domain == ISSUING_CAS[-1]
        ran = cluster.ca("import", file, expect=0 if last else 3)
        assert last or f"the rotation of {domain}" in ran.stderr, ran.stderr
        assert ("+ CA CN=Corp Platform CA" in ran.stdout.replace("C=DE,", "")) is (number == 0) or number, ran.stdout
        # Without nodes every gate is open; a person says that nobody reads the copy of the CA of kubelets.
        words = ("--without", "kubelet-serving-ca") if domain == "kubelet" else ()
        while cluster.rotated:
            cluster.ca("continue", *words)
    assert [cluster.issuer_names(domain) for domain in ISSUING_CAS] == [{f"{domain}-1r2"} for domain in ISSUING_CAS]
    with cluster.untouched():
        cluster.ca("import", file)
    outside.write_chain(outside.root, outside.upper, renewed)
    cluster.apply()
    assert above(outside) == {each.facts for each in (outside.root, outside.upper, renewed)}
    cluster.issue("admin", cluster.folder / "operator")
