"""The hooks of `kubeconfigs`: another server restarts the components, once it can be used; nothing else does."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.faults.hostile_server import serving
from helpers.faults.server_behaviours import always
from helpers.node.components import HOST, Component
from helpers.node.node_components import free_port
from helpers.node.passes import passed, report, said
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.node import state
from vaultpki.records import gaps

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://127.0.0.1:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
KEY = "kubeconfigs"


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def cluster(applied: AppliedCluster) -> Iterator[AppliedCluster]:
    yield applied
    applied.write(SPEC)
    applied.apply()


def api_server(node: NodeFolder) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(node.pki / "kube-apiserver.crt", node.pki / "kube-apiserver.key")
    return made


def test_components_restart_for_another_server_once_it_can_be_used_and_for_nothing_else(
    cluster: AppliedCluster, tmp_path: Path
) -> None:
    cp, worker = (cluster.equip(name, folder=tmp_path / name) for name in ("cp-1", "worker-1"))
    ran, silent = tmp_path / "ran", free_port()
    worker.config.write_text(f"{worker.config.read_text()}\nhooks: {{{KEY}: [[sh, -c, 'echo x >> {ran}']]}}\n")
    passed(cp)
    # What has no kubeconfig yet does not run, and each of these is read again by itself.
    passed(worker)
    passed(worker, "kubelet-client")
    (worker.pki / "kubelet.conf").unlink()
    passed(worker)
    assert not ran.exists() and "https://127.0.0.1:6443" in (worker.pki / "kubelet.conf").read_text()
    # An address at which nothing answers: components go on with the one that they have read.
    cluster.write(SPEC.replace("127.0.0.1:6443", f"127.0.0.1:{silent}"))
    cluster.apply()
    server = f"https://127.0.0.1:{silent}"
    assert said(passed(worker), "hook-failed") == [
        f"the hooks of {KEY} wait until {server} can be used: nothing answers at 127.0.0.1:{silent}"
    ]
    assert not ran.exists() and server in (worker.pki / "kube-proxy.conf").read_text()
    # One that answers, and whose certificate does not have this address yet.
    with serving(always(200, "ok"), tls=api_server(cp), host="127.0.0.2") as old:
        cluster.write(SPEC.replace('"https://127.0.0.1:6443"', f'"{old.address}", addresses: [127.0.0.2]'))
        cluster.apply()
        [text] = said(passed(worker), "hook-failed")
        assert f"the certificate at {urlsplit(old.address).netloc} is not accepted (IP address mismatch" in text
        assert KEY in state.load(str(worker.state)).owed and not ran.exists()
    # A kubeconfig that cannot be read now ends nothing that is owed.
    for name in ("kubelet.conf", "kube-proxy.conf"):
        (worker.pki / name).unlink()
        (worker.pki / name).write_text("of somebody else\n")
    passed(worker)
    assert KEY in state.load(str(worker.state)).owed and not ran.exists()
    for name in ("kubelet.conf", "kube-proxy.conf"):
        (worker.pki / name).unlink()
    passed(cp)
    with serving(always(200, "ok"), tls=api_server(cp), host="127.0.0.2") as new:
        cluster.write(SPEC.replace('"https://127.0.0.1:6443"', f'"{new.address}", addresses: [127.0.0.2]'))
        cluster.apply()
        for _ in range(2):
            assert not said(passed(worker), "hook-failed")
    assert ran.read_text() == "x\n" and not state.load(str(worker.state)).owed


def test_without_a_hook_a_person_is_told_whom_to_restart_until_it_is_done(
    cluster: AppliedCluster, tmp_path: Path
) -> None:
    cp = cluster.equip("cp-1", folder=tmp_path / "cp-1")
    assert not said(passed(cp), "advice")
    pair = (f"--tls-cert-file={cp.pki}/kube-scheduler.crt", f"--tls-private-key-file={cp.pki}/kube-scheduler.key")
    flags = (*pair, f"--kubeconfig={cp.pki}/scheduler.conf", f"--bind-address={HOST}", f"--secure-port={free_port()}")
    # A start is known to a hundredth of a second.
    time.sleep(0.1)
    with Component("kube-scheduler", tmp_path / "scheduler", flags).supervised() as scheduler:
        scheduler.serves()
        passed(cp)
        assert behind(cluster, cp) == []
        cluster.write(SPEC.replace("127.0.0.1:6443", "127.0.0.1:6444"))
        cluster.apply()
        assert [said(passed(cp), "advice") for _ in range(2)] == [
            [
                (
                    "the server in kubeconfigs changed: restart kube-scheduler and kube-controller-manager on this "
                    "node, which read it only at start"
                )
            ],
            [],
        ]
        text = (
            "kube-scheduler was not started again since the server in its kubeconfig changed: restart it on this node"
        )
        assert behind(cluster, cp) == [text]
        assert text in vaultpki("status", "-c", cp.config, "--offline", expect=3).stdout
        time.sleep(0.1)
        scheduler.restart()
        passed(cp)
        assert behind(cluster, cp) == []


def behind(cluster: AppliedCluster, node: NodeFolder) -> list[str]:
    """What every view has of the node's report about components."""
    return [text for _, text in gaps.readers_behind(report(cluster, node)) if "kube-scheduler" in text]
