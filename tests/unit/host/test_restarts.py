"""Which component a hook restarts: the program of its pod, or the name of its pod or its unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaultpki.host.restarts import component_of
from vaultpki.model import Hook

POD = "kind: Pod\nspec:\n  containers:\n  - name: a\n    command: {}\n  - {{name: b, command: [kube-scheduler]}}\n"


@pytest.mark.parametrize(
    ("name", "text", "component"),
    [
        ("etcd", POD.format("[etcd, --name=a]"), "etcd"),
        ("member", POD.format("[/usr/local/bin/etcd]"), "etcd"),
        ("etcd", POD.format("[sh, -c, 'exec etcd']"), "etcd"),
        ("etcd", "kind: Pod", "etcd"),
        ("etcd", "a: [", "etcd"),
        ("kube-apiserver", POD.format("[/go-runner, kube-apiserver]"), "kube-apiserver"),
        ("kube-apiserver", POD.format("[haproxy]"), "kube-apiserver"),
        ("scheduler", '{\n\t"spec": {"containers": [{"command": ["kube-scheduler"]}]}\n}', "kube-scheduler"),
        ("haproxy", POD.format("[haproxy]"), None),
        ("haproxy", POD.format("3"), None),
        ("haproxy", "", None),
    ],
)
def test_a_static_pod_is_known_by_its_first_program_or_else_by_its_name(
    name: str, text: str, component: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    assert component_of(Hook("static_pod", name=str(path))) == component


@pytest.mark.parametrize(
    ("unit", "component"),
    [
        ("etcd", "etcd"),
        ("etcd.service", "etcd"),
        ("etcd@member.service", "etcd"),
        ("kubelet.service", "kubelet"),
        ("etcd.timer", None),
        ("etcd-proxy", None),
        ("haproxy.service", None),
    ],
)
def test_a_unit_is_known_by_its_name(unit: str, component: str | None) -> None:
    assert component_of(Hook("systemd", name=unit)) == component


def test_a_command_may_do_anything() -> None:
    assert component_of(Hook("command", argv=("etcd",))) is None
