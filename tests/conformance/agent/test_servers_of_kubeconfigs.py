"""The clients of kube-apiserver read the server in their kubeconfig only when they start (vaultpki/readers.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.faults.hostile_server import Guest, Hostile, serving
from helpers.kube import containerd, machines
from helpers.kube.components import Programs
from helpers.vault.servers import wait_for
from vaultpki.model import NodeRole
from vaultpki.readers import server_readers

pytestmark = [pytest.mark.conformance, pytest.mark.on_node]

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %s}}]
contexts: [{name: x, context: {cluster: c}}]
current-context: x
"""
_LIST = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": list[str]()}
# The quick build of Kubernetes looks at the files of its kubeconfigs as often as this, and half as long again.
_LOOKS = 1.5
_STARTS = 60.0


def empty_cluster(guest: Guest) -> None:
    """An API server that is healthy and has no object."""
    while True:
        method, path, _, _ = guest.asked()
        if path in ("/healthz", "/readyz"):
            guest.answer(200, "ok")
        elif method == "GET" and path.startswith("/api") and path.count("/") > 2:
            # A list is asked for again at once.
            guest.wait(0.2) if "watch" in path else None
            guest.answer(200, _LIST)
        else:
            guest.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})


def commands(programs: Programs, folder: Path, socket: str) -> dict[str, list[str | Path]]:
    """How each client is started; kubeconfigs are `NAME.conf` in the folder."""
    proxy: dict[str, Any] = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
    proxy |= {"hostnameOverride": "n1", "clientConnection": {"kubeconfig": f"{folder}/kube-proxy.conf"}}
    proxy |= {"conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"}}
    kubelet: dict[str, Any] = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
    kubelet |= {"containerRuntimeEndpoint": f"unix://{socket}", "resolvConf": "", "failSwapOn": False}
    kubelet |= {"failCgroupV1": False, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": False, "enforceNodeAllocatable": []}
    kubelet |= {"localStorageCapacityIsolation": False, "evictionHard": {"memory.available": "1Mi"}}
    kubelet |= {"podLogsDir": f"{folder}/pods", "volumePluginDir": f"{folder}/plugins"}
    kubelet |= {"authentication": {"webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"}}
    for name, found in (("kube-proxy", proxy), ("kubelet", kubelet)):
        (folder / f"{name}.yaml").write_text(json.dumps(found))
    alone = ("--leader-elect=false", "--secure-port=0")
    own: dict[str, list[str | Path]] = {
        "kube-scheduler": [f"--kubeconfig={folder}/kube-scheduler.conf", *alone],
        "kube-controller-manager": [
            *(f"--kubeconfig={folder}/kube-controller-manager.conf", "--controllers=endpointslice-controller", *alone),
            f"--flex-volume-plugin-dir={folder}/plugins",
        ],
        "kube-proxy": [f"--config={folder}/kube-proxy.yaml"],
        "kubelet": [
            *(f"--config={folder}/kubelet.yaml", f"--kubeconfig={folder}/kubelet.conf", "--hostname-override=n1"),
            *(f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/kubelet", "--node-ip=198.51.100.11"),
        ],
    }
    return {name: [programs.path(name), *flags] for name, flags in own.items()}


def asking(server: Hostile, since: int = 0) -> Callable[[], set[str]]:
    """Who has asked a server, by the names that clients give, after so many bytes."""
    return lambda: {
        line.partition(b": ")[2].partition(b"/")[0].decode()
        for line in server.heard[since:].splitlines()
        if line.lower().startswith(b"user-agent: ")
    }


# A short name: the kubelet binds sockets below its folder, and Linux takes no more than 107 bytes.
def test_they_go_on(programs: Programs, tmp_path: Path) -> None:
    clients = set(server_readers(tuple(NodeRole)))
    with machines.lan(tmp_path, {"n1": "198.51.100.11"}) as lan:
        node = lan.machines["n1"]
        containerd.start(node)
        with node.network():
            old, new = serving(empty_cluster), serving(empty_cluster)
            with old as before, new as after:
                told = commands(programs, node.folder, str(containerd.socket_of(node)))
                assert told.keys() == clients

                def write(server: Hostile) -> None:
                    for name in clients:
                        (node.folder / "new").write_text(KUBECONFIG % server.address)
                        # By rename, as the agent installs every file.
                        (node.folder / "new").rename(node.folder / f"{name}.conf")

                write(before)
                running = [node.start(name, *command) for name, command in told.items()]
                wait_for(lambda: asking(before)() >= clients, _STARTS, lambda: f"only {asking(before)()}")
                write(after)
                time.sleep(programs.client_look * _LOOKS)
                heard = len(before.heard)
                wait_for(lambda: asking(before, heard)() >= {"kube-scheduler"}, _STARTS, lambda: "nobody asks")
                assert not asking(after)() and all(each.alive() for each in running)
                for each in running:
                    each.restart()
                wait_for(lambda: asking(after)() >= clients, _STARTS, lambda: f"only {asking(after)()}")
