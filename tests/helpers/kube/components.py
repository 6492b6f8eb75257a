"""How each component of Kubernetes is started: the flags of docs/components.md, and what else one needs in a test.

What is here never names a certificate, a key or a CA: those come from the page alone.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helpers import pages
from helpers.kube import containerd
from helpers.kube.machines import Machine

API_PORT = 6443
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
KUBELET_PORT = 10250
SERVICE_CIDR = "10.96.0.0/12"

_AUDIT_POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"


# One that cannot renew its lease in time ends itself. On a machine with much else to do an API server that is restarted
# takes a minute until it answers.
_PATIENT = ("--leader-elect-lease-duration=120s", "--leader-elect-renew-deadline=110s")


@dataclass(frozen=True, slots=True)
class Programs:
    """The folders where what `make conformance` builds lies."""

    kubernetes: Path
    etcd: Path

    @property
    def version(self) -> str:
        """The version of Kubernetes that was built, such as v1.37.2."""
        return _version(self.path("kubeadm"))

    @property
    def client_look(self) -> int:
        """The seconds between two looks of its clients at their files, as `tests/setup/kubernetes` built them."""
        named = self.kubernetes / "client-look"
        return int(named.read_text()) if named.exists() else 5 * 60

    @property
    def named(self) -> str:
        """The version, and the build of it: what figures say."""
        return (
            self.version if self.client_look == 5 * 60 else f"{self.version} (clients look every {self.client_look} s)"
        )

    def path(self, name: str) -> Path:
        found = (self.etcd if name.startswith("etcd") else self.kubernetes) / name
        assert found.is_file(), f"{found} is missing; `make conformance` builds it"
        return found

    @property
    def minor(self) -> int:
        """What tests choose by: 36 of v1.36.3."""
        return int(self.version.split(".")[1])


@functools.cache
def _version(kubeadm: Path) -> str:
    asked = [str(kubeadm), "version", "-o", "short"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class ServiceAccountKeys:
    """The pair by which service accounts' tokens are signed: no certificate, and so not the product's."""

    private: Path
    public: Path


def etcd(programs: Programs, machine: Machine, pki: Path, members: Mapping[str, str]) -> list[str | Path]:
    """`members` are all members' addresses by name."""
    address = machine.address
    return [
        programs.path("etcd"),
        f"--name={machine.name}",
        f"--data-dir={machine.folder}/etcd",
        f"--listen-client-urls=https://{address}:{ETCD_PORT},https://127.0.0.1:{ETCD_PORT}",
        f"--advertise-client-urls=https://{address}:{ETCD_PORT}",
        f"--listen-peer-urls=https://{address}:{ETCD_PEER_PORT}",
        f"--initial-advertise-peer-urls=https://{address}:{ETCD_PEER_PORT}",
        "--initial-cluster=" + ",".join(f"{name}=https://{at}:{ETCD_PEER_PORT}" for name, at in members.items()),
        # Nothing has to outlive this machine, whose disk may let others wait for seconds.
        "--unsafe-no-fsync",
        *pages.flags("etcd", pki),
    ]


def kube_apiserver(
    programs: Programs,
    machine: Machine,
    pki: Path,
    members: Iterable[str],
    keys: ServiceAccountKeys,
    *,
    by_name: bool,
) -> list[str | Path]:
    """`members` are etcd's addresses. The audit log is `audit.log` in the machine's folder.

    `by_name` leaves it to reach kubelets as it does by itself, by the names of their nodes. It finds the servers behind
    a service by itself too: no kube-proxy needs to run beside it.
    """
    policy = machine.folder / "audit-policy.yaml"
    policy.write_text(_AUDIT_POLICY)
    return [
        programs.path("kube-apiserver"),
        f"--advertise-address={machine.address}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=" + ",".join(f"https://{address}:{ETCD_PORT}" for address in members),
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.public}",
        f"--service-account-signing-key-file={keys.private}",
        *(["--enable-aggregator-routing"] if by_name else ["--kubelet-preferred-address-types=InternalIP"]),
        f"--audit-policy-file={policy}",
        f"--audit-log-path={machine.folder}/audit.log",
        *pages.flags("kube-apiserver", pki),
    ]


def kube_controller_manager(
    programs: Programs, machine: Machine, pki: Path, keys: ServiceAccountKeys
) -> list[str | Path]:
    return [
        programs.path("kube-controller-manager"),
        f"--service-account-private-key-file={keys.private}",
        "--use-service-account-credentials",
        f"--flex-volume-plugin-dir={machine.folder}/plugins",
        *_PATIENT,
        *pages.flags("kube-controller-manager", pki),
    ]


def kube_scheduler(programs: Programs, pki: Path) -> list[str | Path]:
    return [programs.path("kube-scheduler"), *_PATIENT, *pages.flags("kube-scheduler", pki)]


def kubelet(programs: Programs, machine: Machine, pki: Path, cgroup: str) -> list[str | Path]:
    """`cgroup` is where the pods' control groups go: a path below each hierarchy's root."""
    own: dict[str, Any] = {
        "containerRuntimeEndpoint": f"unix://{containerd.socket_of(machine)}",
        "podLogsDir": f"{machine.folder}/pods",
        "volumePluginDir": f"{machine.folder}/plugins",
        "resolvConf": "",
        # The machine of a test may be a container with cgroup v1, swap, a full disk, and no say over limits.
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
    }
    configuration = _configuration("kubelet", machine, pki, own)
    return [
        programs.path("kubelet"),
        f"--config={configuration}",
        f"--root-dir={machine.folder}/kubelet",
        f"--hostname-override={machine.name}",
        f"--node-ip={machine.address}",
        *pages.flags("kubelet", pki),
    ]


def kube_proxy(programs: Programs, machine: Machine, pki: Path) -> list[str | Path]:
    own: dict[str, Any] = {
        "hostnameOverride": machine.name,
        # The host's own connection tracking is not a test's to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    }
    return [programs.path("kube-proxy"), f"--config={_configuration('kube-proxy', machine, pki, own)}"]


def _configuration(component: str, machine: Machine, pki: Path, own: dict[str, Any]) -> Path:
    said = pages.configuration(component, pki)
    assert not said.keys() & own.keys(), (
        f"components.md and the tests both say {said.keys() & own.keys()} of {component}"
    )
    path = machine.folder / f"{component}.yaml"
    path.write_text(yaml.safe_dump(said | own))
    return path
