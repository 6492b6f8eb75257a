"""Somebody changes a bundle, a kubeconfig or a pair on a node: the pass that mends it says so, and no other does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.foreign_ca import ForeignCa
from helpers.node.passes import command_here, passed, passed_well, said
from helpers.vault.applied_cluster import AppliedCluster
from vaultpki.agent import pairs
from vaultpki.host import processes

# What a node does by itself, whatever server there is.
pytestmark = pytest.mark.on_node


def with_stranger(file: Path) -> None:
    file.write_bytes(file.read_bytes() + ForeignCa("stranger").facts.pem.encode())


FAULTS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "a stranger's CA": ("kubelet-ca.crt", "kubelet-ca.crt", with_stranger),
    "a bundle is gone": ("kubernetes-ca-chain.crt", "kubernetes-ca-chain.crt", lambda file: file.resolve().unlink()),
    "a kubeconfig": ("kubelet.conf", "kubelet.conf", lambda file: file.write_text("{}")),
    "a key": ("kubelet.key", "kubelet.crt", lambda file: shutil.copy(file.with_name("kube-proxy.key"), file)),
    "a mode": ("kubelet.crt", "kubelet.crt", lambda file: file.chmod(0o600)),
    "a pair is gone": ("kubelet.crt", "kubelet.crt", lambda file: shutil.rmtree(file.resolve().parent)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_somebody_has_changed_is_mended_and_told_once(
    fault: str, shared: AppliedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A component of another test is none of this node's.
    monkeypatch.setattr(processes, "running", dict)
    file, place, damage = FAULTS[fault]
    node = shared.equip("worker-1", folder=tmp_path / "worker-1")
    assert passed_well(node).mended == ()
    command_here("doctor", "-c", node.config)
    damage(node.pki / file)
    for command in ("status", "doctor"):
        command_here(command, "-c", node.config, expect=3)
    outcome = passed_well(node)
    assert outcome.mended == (place,)
    assert said(outcome, "tampered") == [
        f"{place}: it is not as this agent has left it; this agent puts it right: find out who has changed it"
    ]
    assert passed_well(node).mended == ()
    command_here("doctor", "-c", node.config)


def test_what_the_agent_and_its_record_change_is_no_tampering(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = cluster.equip("worker-1", folder=tmp_path / "worker-1")
    passed_well(node)
    (node.pki / "kubelet.crt").chmod(0o600)
    # Before it has noted anything, as an agent of the release before leaves its state.
    state = node.state / "agent.json"
    state.write_text(state.read_text().replace('"left"', '"former"'))
    assert passed_well(node).mended == ()
    renewed = passed(node, pairs.EVERY, asks=False)
    assert renewed.renewed and renewed.mended == ()
    before = (node.pki / "kubelet.conf").read_bytes()
    cluster.file.write_text(cluster.file.read_text().replace(":6443", ":7443"))
    cluster.apply()
    assert passed_well(node).mended == () and (node.pki / "kubelet.conf").read_bytes() != before
