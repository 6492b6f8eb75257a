"""Which objects a change of cluster.yaml reaches, and no others; what it adds is removed again with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import load
from helpers.vault.plan_commands import SPEC
from vaultpki.provision.desired import desired
from vaultpki.provision.plan import Observed, plan
from vaultpki.records.server_facts import Fields, Key, ServerFacts

P = "vaultpki/prod"
ROW = "certificates:\n  roles: {kind: client, common_name: mine, ca: kubernetes, roles: [worker]}\n"
CHANGES: dict[str, tuple[str, str, dict[Key, str]]] = {
    "a node": (
        "pools:",
        "- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\npools:",
        {
            ("approle", f"{P}/listed/worker-2"): "create",
            ("policy", f"{P}/node/worker-2"): "create",
            ("config", f"{P}/config/nodes/worker-2"): "create",
        },
    ),
    "a row": (
        "api_server:",
        f"{ROW}api_server:",
        {
            ("role", f"{P}/kubernetes/roles"): "create",
            ("policy", f"{P}/node/worker-1"): "update",
            ("policy", f"{P}/pool/autoscaled"): "update",
            ("config", f"{P}/config/nodes/worker-1"): "update",
            ("config", f"{P}/config/pools/autoscaled"): "update",
        },
    ),
    "a TTL": (
        "api_server:",
        "certificates: {etcd-peer: {ttl: 7d}}\napi_server:",
        {("role", f"{P}/etcd/etcd-peer"): "update", ("config", f"{P}/config/nodes/cp-1"): "update"},
    ),
    "a further name": (
        "names: [api.example.com]",
        "names: [api.example.com, k8s.example.com]",
        {
            ("role", f"{P}/kubernetes/kube-apiserver"): "update",
            ("policy", f"{P}/node/cp-1"): "update",
            ("config", f"{P}/config/nodes/cp-1"): "update",
        },
    ),
    "a pool": (
        "pools:\n",
        'pools:\n- {name: spot, roles: [worker], node_names: "s-*"}\n',
        {
            ("role", f"{P}/kubelet/kubelet-spot"): "create",
            ("policy", f"{P}/pool/spot"): "create",
            ("policy", f"{P}/enroller"): "update",
            ("config", f"{P}/config/pools/spot"): "create",
        },
    ),
}


def objects(folder: Path, spec: str) -> dict[Key, Fields]:
    return dict(desired(load(folder, f"cluster: prod\n{spec}"), ServerFacts()))


def planned(wanted: dict[Key, Fields], found: dict[Key, Fields]) -> dict[Key, str]:
    return {change.key: change.action for change in plan(wanted, Observed(found, frozenset(found))).changes}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_reaches_these_objects(tmp_path: Path, what: str) -> None:
    old, new, expected = CHANGES[what]
    before, after = objects(tmp_path, SPEC), objects(tmp_path, SPEC.replace(old, new))
    assert planned(after, before) == expected
    assert planned(before, after) == {key: "delete" if how == "create" else how for key, how in expected.items()}
