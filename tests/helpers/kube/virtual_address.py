"""A static pod on each control plane that holds a virtual address by a Lease, as kube-vip does with admin.conf.

Its manifest has the form of kube-vip's own: the host's network, NET_ADMIN, and admin.conf as a single file of the host.
The program is a stand-in: kubectl reads that file at each request, so it is refused as soon as the file is an old one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from helpers.kube import containerd
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.kube.machines import NETWORK, Machine
from helpers.vault.servers import wait_for

ADDRESS = f"{NETWORK}.50"
ADMIN = "/etc/kubernetes/admin.conf"
MANIFEST = "/etc/kubernetes/manifests/kube-vip.yaml"
_LOGS = "/var/log/kube-vip"
_SECONDS = 180.0
# It asks the API server of its own machine, as kube-vip does. leaseTransitions is the time of the last renewal.
_PROGRAM = """
ask() {{ timeout 20 /programs/kubectl --kubeconfig {admin} --server https://127.0.0.1:6443 \
--tls-server-name kubernetes -n kube-system "$@"; }}
set -- $(ip -o -4 addr show to {network}.0/24); device=$2
while :; do
  now=$(date +%s); held=0
  why=$(ask get lease plndr-cp-lock --ignore-not-found -o \
'jsonpath={{.spec.holderIdentity}} {{.spec.leaseTransitions}} {{.metadata.resourceVersion}}' 2>&1 >/tmp/lease)
  if [ -z "$why" ]; then
    set -- $(cat /tmp/lease)
    if [ -z "$1" ]; then
      why=$(echo '{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"plndr-cp-lock"}},\
"spec":{{"holderIdentity":"{node}","leaseTransitions":1}}}}' | ask create -f - 2>&1 >/dev/null)
    elif [ "$1" = {node} ] || [ $((now - $2)) -gt 10 ]; then
      why=$(ask patch lease plndr-cp-lock --type=merge -p '{{"metadata":{{"resourceVersion":"'"$3"'"}},\
"spec":{{"holderIdentity":"{node}","leaseTransitions":'"$now"'}}}}' 2>&1 >/dev/null) && held=1
    fi
  fi
  if [ $held = 1 ]; then ip addr replace {address}/32 dev $device
  else ip addr del {address}/32 dev $device 2>/dev/null; fi
  printf '{{"at": %s, "held": %s, "error": "%s"}}\\n' "$(date +%s)" $held \
"$(printf %s "$why" | tr -d '"\\\\' | tr '\\n' ' ')" >>/log/kube-vip.log
  sleep 2
done
"""


def manifest(node: str, programs: Path) -> str:
    """The manifest of the static pod on a node; `programs` is the folder with kubectl."""
    files = {"usr": ("/usr", "/usr"), "lib": ("/usr/lib", "/lib"), "lib64": ("/usr/lib64", "/lib64")}
    files |= {"programs": (str(programs), "/programs"), "log": (_LOGS, "/log"), "kubeconfig": (ADMIN, ADMIN)}
    program = _PROGRAM.format(admin=ADMIN, network=NETWORK, node=node, address=ADDRESS)
    container = {
        "name": "kube-vip",
        "image": containerd.IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", program],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        "volumeMounts": [{"mountPath": inside, "name": name} for name, (_, inside) in files.items()],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kube-vip", "namespace": "kube-system"},
        "spec": {
            "containers": [container],
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"hostPath": {"path": path}, "name": name} for name, (path, _) in files.items()],
        },
    }
    return yaml.safe_dump(pod)


@dataclass(slots=True)
class VirtualAddress:
    """The pods on these nodes, and whether the address was answered from outside."""

    nodes: Sequence[KubeadmNode]
    outside: Machine
    programs: Path
    answered: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Puts the manifests there, and waits until one of the pods holds the address and all are let in."""
        for node in self.nodes:
            node.seen(_LOGS).mkdir(exist_ok=True)
            node.seen(MANIFEST).write_text(manifest(node.name, self.programs))
        self.await_work(time.time())

    def await_work(self, since: float) -> None:
        """Waits until each pod was let in, and the address was held, after this time."""

        def missing() -> list[str]:
            silent = [each.name for each in self.nodes if not any(not one["error"] for one in self.lines(each, since))]
            held = any(one["held"] for each in self.nodes for one in self.lines(each, since))
            return silent if held else [*silent, "nobody holds the address"]

        wait_for(lambda: not missing(), _SECONDS, lambda: f"{missing()}: {self.refused(since)}", pause=1)

    def lines(self, node: KubeadmNode, since: float) -> list[dict[str, Any]]:
        """What a node's pod has done since a time."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in node.seen(f"{_LOGS}/kube-vip.log").read_text(errors="replace").splitlines():
                # The last line may still be on its way.
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return [each for each in found if each["at"] >= since]

    def refused(self, since: float) -> list[str]:
        """The answers to pods that were not let in, or did not believe the server; one that is away says neither."""
        words = ("x509", "Unauthorized", "must be logged in", "certificate", "is a directory")
        return [
            f"{node.name} {one['at']}: {one['error']}"
            for node in self.nodes
            for one in self.lines(node, since)
            if any(word in one["error"] for word in words)
        ]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody outside asks for /readyz at the address each second."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.wait(1):
                # Nobody tells the network that the address has moved.
                self.outside.run("ip", "neigh", "flush", "to", ADDRESS, expect=None)
                url = f"https://{ADDRESS}:6443/livez"
                if self.outside.run("curl", "-sk", "--max-time", "3", url, expect=None).stdout == "ok":
                    self.answered.append(time.time())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            yield
        finally:
            ended.set()
            asking.join(20)

    def longest_gap(self, begin: float, end: float) -> float:
        """For how many seconds on end the address did not answer."""
        times = [begin, *(each for each in self.answered if begin <= each <= end), end]
        return max(after - before for before, after in itertools.pairwise(times))
