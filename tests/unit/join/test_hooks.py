"""The hooks that a join writes for static pods: what they are for each role, and what they leave alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from helpers.example_agent import agent_config
from vaultpki.config.hooks import plain_hooks
from vaultpki.join import hooks
from vaultpki.model import Hook, NodeRole
from vaultpki.places import Layout
from vaultpki.readers import CA_OF_BUNDLE, READERS

CONTROL_PLANE, ETCD, WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
CONFIG = agent_config(directory="/etc/kubernetes/pki", state="/var/lib/vaultpki", layout=Layout.KUBEADM)
MANAGER, BOTH = [{"static_pod": "kube-controller-manager"}], [{"static_pod": "etcd"}, {"static_pod": "kube-apiserver"}]

CLIENTS = [{"static_pod": "kube-scheduler"}, *MANAGER]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ((CONTROL_PLANE, ETCD, WORKER), {"kubernetes-ca": MANAGER, "etcd-ca": BOTH, "kubeconfigs": CLIENTS}),
        ((CONTROL_PLANE, WORKER), {"kubernetes-ca": MANAGER, "etcd-ca": BOTH[1:], "kubeconfigs": CLIENTS}),
        ((ETCD,), {"etcd-ca": BOTH[:1]}),
        ((WORKER,), {}),
    ],
)
@pytest.mark.parametrize("layout", Layout)
def test_the_hooks_of_each_role(roles: Collection[NodeRole], layout: Layout, expected: dict[str, object]) -> None:
    assert plain_hooks(hooks.static_pods(roles, layout)) == expected


def test_every_reader_of_the_table_has_a_hook_and_can_be_a_static_pod() -> None:
    found = hooks.static_pods(tuple(NodeRole), Layout.KUBEADM)
    assert plain_hooks({"": found.pop("kubeconfigs")}) == {"": CLIENTS}
    written = {(CA_OF_BUNDLE[key], hook.name) for key, each in found.items() for hook in each}
    assert written == {(reader.ca, reader.component) for reader in READERS if reader.follows is None}
    # The kubelet runs static pods, and is none; kubeadm runs kube-proxy by a DaemonSet.
    assert not {component for _, component in written} & {"kubelet", "kube-proxy"}


def told(added: hooks.Added) -> list[str]:
    return [event.text for event in hooks.events(added)]


def test_what_is_written_is_told() -> None:
    config, added = hooks.add(CONFIG, (CONTROL_PLANE, ETCD))
    assert plain_hooks(config.hooks) == {"kubernetes-ca": MANAGER, "etcd-ca": BOTH, "kubeconfigs": CLIENTS}
    assert config.hook_timeout == 240
    assert told(added) == [
        "when kubernetes-ca changes, a hook restarts the static pod kube-controller-manager and waits up to 4m for it",
        "when etcd-ca changes, hooks restart the static pods etcd and kube-apiserver and wait up to 4m for each",
        (
            "when the server in kubeconfigs changes, hooks restart the static pods kube-scheduler and "
            "kube-controller-manager and wait up to 4m for each"
        ),
    ]


def test_what_runs_elsewhere_gets_no_hook() -> None:
    config, _ = hooks.add(CONFIG, (CONTROL_PLANE, ETCD), runs=lambda name: name != "etcd")
    assert plain_hooks(config.hooks) == {"kubernetes-ca": MANAGER, "etcd-ca": BOTH[1:], "kubeconfigs": CLIENTS}
    config, added = hooks.add(CONFIG, (ETCD,), runs=lambda name: False)
    assert config == CONFIG and not added.hooks


def test_a_node_that_needs_none_is_told_so() -> None:
    config, added = hooks.add(CONFIG, (WORKER,))
    assert config == CONFIG
    assert told(added) == [
        "this node gets no hooks: it has no static pod that reads a CA or a server only when it starts"
    ]


def test_hooks_of_the_owner_stay() -> None:
    own = {"etcd-ca": (Hook("systemd", name="etcd"),), "kubelet": (Hook("systemd", name="kubelet"),)}
    config, added = hooks.add(replace(CONFIG, hooks=own, hook_timeout=600), (CONTROL_PLANE, ETCD))
    clients = [Hook("static_pod", name=each) for each in ("kube-scheduler", "kube-controller-manager")]
    assert config.hooks == {**own, "kubernetes-ca": (clients[1],), "kubeconfigs": tuple(clients)}
    assert config.hook_timeout == 600
    assert told(added)[2:] == ["agent.yaml has hooks of etcd-ca already; they stay"]
    again, added = hooks.add(replace(config, hook_timeout=30), (CONTROL_PLANE, ETCD))
    assert again == replace(config, hook_timeout=30) and not added.hooks


def test_what_signs_tokens_restarts_for_keys_of_its_own() -> None:
    found = hooks.static_pods((CONTROL_PLANE,), Layout.KUBEADM, token_keys=True)
    assert plain_hooks(found)["service-account-keys"] == [
        {"static_pod": "kube-apiserver"},
        {"static_pod": "kube-controller-manager"},
    ]
