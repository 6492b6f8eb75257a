"""Copies of CAs and listeners of a cluster below a PKI outside: who needs whole chains, and who must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from helpers.corporate_certificates import NOW, Ca, Corporate, name
from helpers.example_cluster import WITH_POOL, load
from vaultpki.certificates import TABLE, resolve, rows
from vaultpki.host.presented import Presented
from vaultpki.kube.cluster import CaCopy, Copied, LiveCluster
from vaultpki.live.copies import copy_checks
from vaultpki.live.listeners import Endpoint
from vaultpki.live.served import NodeContents, served_checks
from vaultpki.live.trust import Expected, from_pin
from vaultpki.pki.facts import Facts

CORP = Corporate(domain="kubernetes")
ROOT, UPPER, LOWER, ISSUING = CORP.root.facts, CORP.upper.facts, CORP.lower.facts, CORP.issuing.facts
OTHER = Ca("Corp Web CA", CORP.upper).facts
EXPECTED = Expected("prod", (ROOT,), {"kubernetes": (ISSUING,)}, "Vault", (LOWER, UPPER))
PINNED = Expected("prod", (UPPER,), {"kubernetes": (ISSUING,)}, "Vault", (LOWER, ROOT))


def said(expected: Expected, copied: Copied, *held: Facts) -> str:
    copy = CaCopy("a copy", copied, "".join(facts.pem for facts in held))
    live = LiveCluster(copies=(copy,), unread=dict.fromkeys(("kube-root-ca.crt", "namespaces"), "not asked"))
    (found,) = (each for each in copy_checks(live, expected, TABLE, NOW) if each.target == "a copy")
    return "" if found.ok else found.detail


@pytest.mark.parametrize("expected", [EXPECTED, PINNED])
def test_pods_need_the_whole_chain(expected: Expected) -> None:
    assert said(expected, Copied.PODS, ISSUING, LOWER, UPPER, ROOT) == ""
    for lacking in (LOWER, UPPER, ROOT):
        held = [facts for facts in (ISSUING, LOWER, UPPER, ROOT) if facts != lacking]
        assert f"lacks {lacking.subject_text}" in said(expected, Copied.PODS, *held)
    assert "is not a CA of the API server" in said(expected, Copied.PODS, ISSUING, LOWER, UPPER, ROOT, OTHER)


@pytest.mark.parametrize("expected", [EXPECTED, PINNED])
def test_what_checks_clients_holds_issuing_cas_alone(expected: Expected) -> None:
    assert said(expected, Copied.CLIENTS, ISSUING) == ""
    for facts in (LOWER, UPPER, ROOT):
        assert "every" in said(expected, Copied.CLIENTS, ISSUING, facts)
    assert "lacks" in said(expected, Copied.CLIENTS, OTHER)


def test_the_names_of_the_owner_are_known() -> None:
    mine = Ca("", CORP.lower, subject=name(CORP.name, O="Corp"), path_length=0).facts
    outside = replace(EXPECTED, issuing={"kubernetes": (mine,)})
    assert outside.named(mine, "kubernetes") and outside.why_wrong(mine, "kubernetes") is None
    own = Ca("", subject=name("prod root CA"))
    inside = Expected("prod", (own.facts,), {}, "Vault")
    assert inside.named(mine, "kubernetes")
    assert inside.why_wrong(mine, "kubernetes") is not None
    below = Ca("", own, subject=name(CORP.name, O="Corp"), path_length=0).facts
    # A CA that was renewed with its key below a root of ours keeps them.
    assert inside.why_wrong(below, "kubernetes") is None


def test_a_listener_serves_its_issuing_ca_and_no_ca_between(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    row = next(each for each in rows(cluster) if each.name == "kube-apiserver")
    want = resolve(row, cluster, cluster.nodes[0])
    leaf = CORP.issuing.certify(ec.generate_private_key(ec.SECP256R1()).public_key(), name("x"), ca=False)
    listener = Endpoint("cp-1/kube-apiserver", "kube-apiserver", "127.0.0.1", 6443, (("cp-1", want),), (), "/")

    def chain(*behind: Facts) -> str:
        shown = Presented((leaf, *behind), ())
        checks = served_checks(listener, shown, EXPECTED, NodeContents(), NOW)
        (found,) = (each for each in checks if each.name == "chain")
        return "" if found.ok else found.detail

    assert chain(ISSUING) == ""
    assert "GnuTLS" in chain(ISSUING, LOWER)
    assert "which no root of the cluster signed" in chain(ISSUING, OTHER)
    assert "is not a CA of kubernetes" in chain(LOWER) or "did not sign" in chain(LOWER)


def test_an_anchor_that_cluster_yaml_names_is_found_with_its_chain(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    text = "".join(facts.pem for facts in (ISSUING, LOWER, UPPER, ROOT, OTHER))
    for pin, over in ((ROOT, {UPPER, LOWER, OTHER}), (UPPER, {LOWER, OTHER, ROOT})):
        authority = replace(cluster.authority, root_sha256=pin.fingerprint)
        found = from_pin(replace(cluster, authority=authority), [text], NOW)
        assert found is not None and found.roots == (pin,) and set(found.above) == over
        assert found.why_wrong(ISSUING, "kubernetes") is None
        assert found.why_wrong(LOWER, "kubernetes")
