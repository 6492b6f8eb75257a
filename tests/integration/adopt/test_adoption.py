"""A whole adoption, and the way back from each state: a server, and a cluster that only answers and reports."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from helpers.kube.adopted_cluster import AUTHENTICATION_PATH, INFO_PATH, KEYS_PATH, AdoptedCluster, adopted
from helpers.kube.kubeadm_objects import SYSTEM, Shape
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.adopt.drive import Said
from vaultpki.records.adoption_report import OldKeys
from vaultpki.rotation.adoption_states import Side

OUTSIDE = Said(confirmed=("outside",))


def begin(one: AdoptedCluster) -> None:
    words = ("-f", one.cluster.file, "--kubeconfig", one.config, "--yes")
    vaultpki("adopt", "start", *words, env=one.cluster.environment("adopter"))
    one.passes()
    assert one.state == "prepared"


def lead_to(one: AdoptedCluster, state: str) -> None:
    """Go forward until the adoption is in this state, with all that a person does on the way."""
    begin(one)
    for _ in range(20):
        if one.state == state:
            one.settle()
            return
        found = one.onward(OUTSIDE if one.state in ("published", "closed") else None)
        if [each.node for each in found.gate.waiting] == ["pods"]:
            one.restart_pods()
    raise AssertionError((one.state, found.gate))


def test_a_whole_adoption(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path) as one:
        begin(one)
        first = one.info()
        assert one.onward().moved and one.state == "published"
        # Before anybody has a report: cluster-info has both, and who had begun to join cannot end that.
        assert [method for method, _ in one.api.changed] == ["PUT", "DELETE", "DELETE"]
        assert one.info().count("BEGIN CERTIFICATE") == 2 and first in one.info()
        assert KEYS_PATH not in one.api.values
        assert not one.api.values[f"{SYSTEM}/secrets"]["items"]
        record = one.record()
        assert record is not None and record.joins_closed is not None
        turns = []
        for _ in range(8):
            one.passes()
            one.now += timedelta(minutes=20)
            found = one.advance()
            turns.append(found.look.record.turn)
        # One after the other, and nobody at the end.
        assert list(dict.fromkeys(turns)) == ["cp-1", "cp-2", "cp-3", ""]
        assert {each.node for each in found.gate.waiting} == {"pods", "outside"} and not found.moved
        one.restart_pods()
        found = one.advance()
        assert [each.node for each in found.gate.waiting] == ["outside"]
        assert one.advance(OUTSIDE).moved and one.state == "switched"
        for state in ("closed", "retired", "done"):
            found = one.onward(OUTSIDE if state == "retired" else None)
            assert found.moved and one.state == state, found.gate
            one.settle()
        assert one.info().count("BEGIN CERTIFICATE") == 1 and first not in one.info()
        found = one.advance()
        assert found.over and not found.gate.waiting, found.gate
        # Every write that was made had been named.
        assert len(one.api.changed) == sum("kube-" in line for line in one.asked)
        text = one.held(f"{SYSTEM}/configmaps/kubeadm-config", "ClusterConfiguration")
        assert "kubelet-certificate-authority" in text and "ca-chain.crt" in text
        assert "rotateCertificates: false" in one.held(f"{SYSTEM}/configmaps/kubelet-config", "kubelet")
        assert one.objects.ca.pem not in one.held(AUTHENTICATION_PATH, "client-ca-file")
        assert all(each.keys is OldKeys.NONE for each in one.machines.values())
        one.look()
        ran = vaultpki(
            *("adopt", "status", "-f", one.cluster.file, "--kubeconfig", one.config),
            env=one.cluster.environment("adopter"),
        )
        assert "take `ca.also_trust` out of" in ran.stdout


@pytest.mark.parametrize("state", ["published", "switched", "closed", "retired"])
def test_the_way_back(clusters: ClusterFactory, tmp_path: Path, state: str) -> None:
    with adopted(clusters, tmp_path, Shape(planes=1)) as one:
        first = one.info()
        lead_to(one, state)
        passed = []
        for _ in range(12):
            said = OUTSIDE if one.state in ("returning", "re-trusting") else None
            found = one.onward(said, back=True)
            if [each.node for each in found.gate.waiting] == ["pods"]:
                one.restart_pods()
            passed.append(one.state)
            if one.state == "prepared":
                break
        way = list(dict.fromkeys(passed))
        assert way[-1] == "prepared" and ("returning" in way) is (state != "published")
        assert ("re-trusting" in way) is (state == "retired")
        for _ in range(4):
            one.passes()
            found = one.advance(back=True)
        assert all(each.trust is each.leaves is Side.OLD for each in one.machines.values())
        assert one.info() == first
        # Nothing is left but agents, each with its command; the record goes with the last of them.
        assert {each.node for each in found.gate.waiting} == set(one.machines)
        assert all("vaultpki lock" in each.reason for each in found.gate.waiting)
        for name in one.machines:
            one.end(name)
        found = one.advance(back=True)
        assert found.over and one.state == ""
        assert one.objects.ca.pem in one.held(AUTHENTICATION_PATH, "client-ca-file")
        # A later one begins with a higher revision.
        before = found.look.record.revision
        begin(one)
        record = one.record()
        assert record is not None and record.revision > before
        assert INFO_PATH in one.api.values
