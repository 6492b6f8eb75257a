"""Defines what an inventory has found: certificates in use, CAs, machines and members of etcd; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import laid_out
from vaultpki.kube.details import StaticPod
from vaultpki.kube.kubeconfig import KubeconfigParts
from vaultpki.kube.whole import WholeCluster
from vaultpki.model import Row
from vaultpki.pki.facts import Facts
from vaultpki.places import Layout
from vaultpki.values import hosts

CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""The components of a control-plane node beside etcd."""

ROWS: Final[Mapping[str, Row]] = {row.name: row for row in laid_out(Layout.KUBEADM)}
"""The rows of a cluster of kubeadm by name."""


@dataclass(frozen=True, slots=True)
class InUse:
    """A certificate in use today: of which node and row, where it was found, and which domain's CA has signed it.

    `place` is a path or an address. `ca` is empty if no CA of the cluster has signed it; then its names do not count.
    Of one beside the table `row` is the flag that names it, such as `--tls-cert-file of kube-scheduler.yaml`.
    """

    node: str
    row: str
    served: bool
    place: str
    facts: Facts
    ca: str = ""


@dataclass(frozen=True, slots=True)
class MachineKubeconfig:
    """A kubeconfig on a machine: its path, and what it says; `parts` is None if it could not be read."""

    path: str
    parts: KubeconfigParts | None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the disk of one machine of the cluster holds. `root` is where its root folder was read.

    `leaves` are certificates with their row and path. `cas` are the CAs by domain, `ca_keys` the paths of CAs' keys,
    `static` what the manifests run, `kubelet` its configuration file. `unread` says by path what could not be read.
    `keys_named` are the files of keys that flags of static pods name. `unfit` are sentences about what `join` and
    `adopt node` would refuse.
    """

    root: str
    node: str
    directory: str
    leaves: tuple[tuple[str, str, Facts], ...] = ()
    cas: Mapping[str, tuple[Facts, ...]] = field(default_factory=dict)
    ca_keys: tuple[str, ...] = ()
    kubeconfigs: tuple[MachineKubeconfig, ...] = ()
    static: tuple[StaticPod, ...] = ()
    kubelet: Mapping[str, Any] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    keys_named: frozenset[str] = frozenset()
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerSeen:
    """What one listener presented: its node and row, where it listens, and its leaf; `why` is why there is none."""

    node: str
    row: str
    address: str
    port: int
    leaf: Facts | None
    why: str = ""

    @property
    def place(self) -> str:
        """Its address and port as text."""
        return f"{hosts.in_url(self.address)}:{self.port}"


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """A member of etcd: its name, the node that runs it, and whether kubeadm does, as a static pod.

    `node` is a Node object's name, or the name that the draft gives a machine without one. `hosts` are the names and
    addresses at which it is called, and `tls` is False where it is called without TLS.
    """

    name: str
    node: str
    stacked: bool
    hosts: tuple[str, ...]
    addresses: tuple[str, ...]
    tls: bool = True


@dataclass(frozen=True, slots=True)
class ClusterInventory:
    """All that was read: the cluster, machines' disks, and what listeners presented, at the time `now`.

    `cas` are the cluster's CAs by domain; that of etcd is known only from a disk. `foreign` are machines whose files
    are of another cluster. `static` are the static pods by the API server, and by manifests where that shows none.
    `server_name` is that of the kubeconfig that was used, if it is not the host's.
    """

    server: str
    now: datetime
    whole: WholeCluster
    static: tuple[StaticPod, ...] = ()
    machines: tuple[Machine, ...] = ()
    foreign: tuple[Machine, ...] = ()
    listeners: tuple[ListenerSeen, ...] = ()
    cas: Mapping[str, tuple[Facts, ...]] = field(default_factory=dict)
    members: tuple[EtcdMember, ...] = ()
    certificates: tuple[InUse, ...] = ()
    directory: str = ""
    server_name: str = ""
