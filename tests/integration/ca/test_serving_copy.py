"""A rotation of the kubelet CA waits until others trust its kubelets, by the manifest that `vaultpki issue` writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import rotation_of
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.issue.operator import issue
from vaultpki.kube.objects import KubeTrust, serving
from vaultpki.records.rotation import State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.serving_copy import WORD

# The copy is Kubernetes' own.
pytestmark = pytest.mark.on_node


def test_the_manifest_holds_both_cas_in_published_and_the_new_one_in_the_end(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    rotation = rotation_of(clusters, "kubelet")
    cluster = rotation.cluster.model

    def manifest() -> KubeTrust:
        made = issue(
            cluster, rotation.cluster.client("operator"), "admin", str(tmp_path / "operator"), rotation.now, grace=0
        )
        (file,) = (file for file in made.manifests if WORD in file)
        return KubeTrust((), (), (), tuple(serving([yaml.safe_load(Path(file).read_text())])))

    def advance(pods: KubeTrust | None, *said: str) -> Step:
        rotation.reported()
        return commands.advance(cluster, rotation.vault, rotation.now, Confirmations(checked=said, pods=pods))

    def waits(step: Step) -> list[str]:
        return [each.node for each in step.gate.waiting] if step.gate is not None else []

    before = manifest()
    rotation.reach(State.PUBLISHED)
    for pods in (None, before):
        step = advance(pods)
        assert not step.moved and waits(step) == [WORD]
    both = manifest()
    assert len(both.serving) == 2
    assert advance(both).record.state is State.SWITCHED
    assert advance(None).record.state is State.RETIRED
    step = advance(both)
    assert step.record.state is State.DONE and WORD in step.advice

    def advised(pods: KubeTrust) -> dict[str, str]:
        found = commands.status(cluster, rotation.cluster.client("viewer"), rotation.now, pods)
        return {each.domain: each.advice for each in found if each.advice}

    assert advised(both).keys() == {"kubelet"} and advised(manifest()) == {}
