"""What a cluster's objects say of its signer, and of the nodes that joined with a token."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import example_cluster
from vaultpki.csr_roles import signer_facts
from vaultpki.findings.cluster import Judgement
from vaultpki.findings.signer import SignerSeen, of_cluster, with_signer
from vaultpki.kube.details import NodeObject, SigningRequest
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING

NOW = datetime(2026, 12, 3, 8, tzinfo=UTC)
POOL = '- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.9.0.0/16]}\n'
SIGNER = 'signer: {people: {names: ["*@example.com"], groups: [[]]}}\n'


def asked(name: str, signer: str, state: str, minutes: float, **more: Any) -> SigningRequest:
    user = more.pop("user", "system:bootstrap:abcdef")
    return SigningRequest(name, signer, user, NOW - timedelta(minutes=minutes), state, "", **more)


@pytest.fixture
def seen(tmp_path: Path) -> SignerSeen:
    facts = signer_facts(example_cluster.load(tmp_path, f"{example_cluster.WITH_POOL}{POOL}{SIGNER}"))
    assert facts is not None
    return SignerSeen(facts, lease=("cp-1", NOW - timedelta(seconds=5)))


def said(seen: SignerSeen) -> dict[str, tuple[str, str]]:
    return {each.name: (each.text, each.command) for each in of_cluster(seen, NOW)}


def test_a_signer_that_is_well_has_no_finding(seen: SignerSeen) -> None:
    requests = (
        asked("new", CLIENT_KUBELET, "approved", 1),
        asked("given-up", CLIENT_KUBELET, "approved", 20),
        asked("other", "example.com/own", "approved", 9),
        asked("denied", CLIENT, "denied", 9),
        asked("by-another", CLIENT, "failed", 9, message="no such signer"),
        asked("fresh", SERVING, "pending", 1),
    )
    tokens = (("abcdef", NOW - timedelta(hours=23)),)
    assert said(replace(seen, requests=requests, tokens=tokens)) == {}


def test_who_signs(seen: SignerSeen) -> None:
    gone = said(replace(seen, lease=("cp-1", NOW - timedelta(minutes=9))))["signer-silent"]
    assert gone == (
        "no signer holds the Lease vaultpki-signer; cp-1 renewed it 9m ago",
        "systemctl status vaultpki-signer",
    )
    assert "no signer holds" in said(replace(seen, lease=("", NOW)))["signer-silent"][0]
    assert "there is no Lease" in said(replace(seen, lease=None))["signer-silent"][0]
    # What could not be read is a finding of its own.
    assert said(replace(seen, lease=None, unread=("no",))) == {}
    waits = replace(seen, requests=(asked("csr-1", CLIENT_KUBELET, "approved", 3),))
    assert said(waits)["signer-silent"][0] == "approved and not signed, though cp-1 leads: csr-1"
    assert said(replace(waits, silent="the adoption is closed")) == {}


def test_what_needs_a_person(seen: SignerSeen) -> None:
    why = "vaultpki signer: j-1 is in no pool that joins by token"
    requests = (
        asked("csr-1", CLIENT_KUBELET, "failed", 9, message=why),
        asked("csr-2", CLIENT_KUBELET, "failed", 8, message=why),
        asked("csr-3", SERVING, "pending", 5, user="system:node:j-2"),
    )
    found = said(replace(seen, requests=requests, tokens=(("abcdef", NOW - timedelta(days=2)),), strangers=("csr-9",)))
    assert found["signer-refuses"] == (
        "2 requests of system:bootstrap:abcdef refused: j-1 is in no pool that joins by token",
        "kubectl describe csr csr-2",
    )
    assert found["serving-unapproved"] == (
        "serving certificates wait for approval: j-2",
        "kubectl certificate approve csr-3",
    )
    assert found["token-open"] == ("the bootstrap token abcdef was made 2d ago", "kubeadm token delete abcdef")
    assert found["signer-stranger"][1] == "kubectl get csr csr-9 -o yaml"
    approving = replace(seen.facts, signer=replace(seen.facts.signer, approve_serving=True))
    assert said(replace(seen, facts=approving, requests=requests))["serving-unapproved"] == (
        "the signer has not approved the serving certificates of j-2",
        "vaultpki signer --dry-run",
    )


def test_rows_of_nodes_that_joined_with_a_token(seen: SignerSeen) -> None:
    def node(name: str) -> NodeObject:
        return NodeObject(name, (), "v1.36.3", "True", control_plane=False, port=10250)

    day = timedelta(days=1)
    joined = {
        "j-1": (NOW - day, NOW + 6 * day),
        "j-2": (NOW - 6.9 * day, NOW + 0.1 * day),
        "j-3": (NOW, NOW + day),
        "x-1": (NOW, NOW + day),
    }
    shown = replace(seen, nodes=tuple(map(node, ("cp-1", "j-1", "j-2", "j-4", "w-1"))), joined=joined)
    empty = Judgement(NOW, (), (), (), ())
    judged = with_signer(empty, shown, "cluster.yaml")
    assert [(row.node, row.state.value, row.pool) for row in judged.nodes] == [
        ("j-4", "expired", "joined"),
        ("j-2", "overdue", "joined"),
        ("j-3", "joined", "joined"),
        ("j-1", "joined", "joined"),
    ]
    assert judged.stored == ("",) * 4 and not judged.ok
    assert judged.nodes[3].first_expiry == NOW + 6 * day and not judged.nodes[3].attention
    assert judged.nodes[2].message == "joined with a token, and has no Node now"
    assert with_signer(empty, None, "cluster.yaml") is empty
    unread = with_signer(empty, replace(seen, lease=None, unread=("it may not",)), "cluster.yaml")
    assert [each.name for each in unread.cluster] == ["not-read"]
