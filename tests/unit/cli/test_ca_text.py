"""What `ca status` says about restarts that no gate can see."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vaultpki.cli import ca_text
from vaultpki.provision.gates import Gate
from vaultpki.spec.rotation_record import CaRef, RotationRecord, State

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
OLDER = {
    "kubernetes": (
        "Before Kubernetes 1.36, restart kube-controller-manager, kube-scheduler, kubelet, kube-proxy first, node by "
        "node: no step waits for that."
    ),
    "kubelet": "Before Kubernetes 1.36, restart kube-apiserver first, node by node: no step waits for that.",
}


@pytest.mark.parametrize("state", [state for state in State if not state.resting])
@pytest.mark.parametrize("domain", ["kubernetes", "kubelet", "etcd", "front-proxy", "root"])
def test_restarts_of_an_older_kubernetes(domain: str, state: State) -> None:
    old, new = (CaRef(f"{domain}-{number}", "", "", str(number) * 64) for number in (1, 2))
    record = RotationRecord(domain=domain, state=state, revision=3, since=WHEN, old=old, new=new)
    said = list(ca_text.record_lines(record, Gate(opens=WHEN), WHEN, "cluster.yaml"))
    changing = state in (State.PUBLISHED, State.RETIRED, State.RETRUSTING)
    expected = [OLDER[domain]] if changing and domain in OLDER else []
    assert [line for line in said if line.startswith("Before Kubernetes")] == expected
    if expected and state is not State.RETRUSTING:
        assert said[said.index(expected[0]) + 1].startswith("Next: ")
