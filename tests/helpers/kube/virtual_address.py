"""kube-vip as a static pod on each control plane: it holds a virtual address by a Lease, and mounts admin.conf."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
_QUIET = 10.0
"""Seconds after which a program that asks each second, and complains of nothing, is let in."""

# The libraries of Kubernetes complain so, with the time of day.
_COMPLAINT = re.compile(r"^E\d{4} (\d\d):(\d\d):(\d\d)\.\d+ +\d+ \S+\] (.*)$", re.MULTILINE)


def manifest(node: KubeadmNode, program: Path) -> str:
    """What `kube-vip manifest` prints for a node; the program is mounted from the host, since no image is pulled."""
    (device,) = {
        line.split()[1]
        for line in node.run("ip", "-o", "-4", "address", "show", "to", f"{NETWORK}.0/24").stdout.splitlines()
    }
    words = ("manifest", "pod", "--controlplane", "--arp", "--leaderElection", "--address", ADDRESS)
    pod = yaml.safe_load(node.run(program, *words, "--interface", device).stdout)
    (container,) = pod["spec"]["containers"]
    container |= {"image": containerd.IMAGE, "imagePullPolicy": "Never"}
    container["command"] = ["/bin/sh", "-c", 'exec /kube-vip "$@" >>/log/kube-vip.log 2>&1', "kube-vip"]
    for name, (outside, inside) in {"program": (program, "/kube-vip"), "log": (_LOGS, "/log")}.items():
        container["volumeMounts"].append({"mountPath": inside, "name": name})
        pod["spec"]["volumes"].append({"hostPath": {"path": str(outside)}, "name": name})
    return yaml.safe_dump(pod)


@dataclass(slots=True)
class VirtualAddress:
    """The pods on these nodes, and whether the address was answered from outside."""

    nodes: Sequence[KubeadmNode]
    outside: Machine
    program: Path
    answered: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Puts the manifests there, and waits until one of the pods holds the address and all are let in."""
        for node in self.nodes:
            node.seen(_LOGS).mkdir(exist_ok=True)
            node.seen(MANIFEST).write_text(manifest(node, self.program))
        self.await_work()

    def await_work(self) -> None:
        """Waits until each pod has run for a while and complained of nothing, and one of them holds the address."""

        def missing() -> list[str]:
            since = time.time() - _QUIET
            held = any(ADDRESS in node.run("ip", "-4", "address").stdout for node in self.nodes)
            unwell = [node.name for node in self.nodes if not _runs(node) or any(_complaints(node, since))]
            return unwell if held else [*unwell, "nobody holds the address"]

        wait_for(lambda: not missing(), _SECONDS, lambda: f"{missing()}: {self.refused(time.time() - 60)}", pause=1)

    def refused(self, since: float) -> list[str]:
        """Complaints of pods that were not let in, or did not believe the server; not those of one that is away."""
        words = ("x509", "Unauthorized", "must be logged in", "certificate", "is a directory")
        return [
            f"{node.name}: {said}"
            for node in self.nodes
            for said in _complaints(node, since)
            if any(word in said for word in words)
        ]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody outside asks for /livez at the address each second."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.wait(1):
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


def _runs(node: KubeadmNode) -> bool:
    """Whether the program on a node has run for as long as a complaint would take."""
    return bool(node.run("pgrep", "-x", "--older", f"{_QUIET:.0f}", "kube-vip", expect=None).stdout)


def _complaints(node: KubeadmNode, since: float) -> Iterator[str]:
    """What the program on a node has complained of since a time less than a day ago."""
    now = datetime.now(UTC)
    with contextlib.suppress(FileNotFoundError):
        for found in _COMPLAINT.finditer(node.seen(f"{_LOGS}/kube-vip.log").read_text(errors="replace")):
            hour, minute, second = map(int, found.groups()[:3])
            at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
            # Its log names no day: what would come later than now was yesterday.
            at -= timedelta(days=at > now + timedelta(minutes=1))
            if at.timestamp() >= since:
                yield found[4]
