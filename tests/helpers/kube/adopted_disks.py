"""What lies on the disks of machines that are taken over: kubeadm's own files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from helpers.kube.kubeadm_nodes import KubeadmNode

# kubeadm's own files, and what is not: the agent's folders aside, and this test's configuration.
_OWN = ("/etc/kubernetes", "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/pki")
_NOT_OWN = ("/etc/kubernetes/vaultpki", "/etc/kubernetes/kubeadm", "/etc/kubernetes/tmp")


class FileSeen(NamedTuple):
    """A file: its content, or where a link leads; its mode, and when it was changed (ns)."""

    data: bytes
    mode: int
    changed: int


Files = dict[str, FileSeen]


def changed(before: Mapping[str, FileSeen], after: Mapping[str, FileSeen]) -> list[str]:
    """The paths that differ."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def files(node: KubeadmNode) -> Files:
    """What kubeadm and the kubelet have on a machine, by path."""
    found = {}
    for top in _OWN:
        for path in sorted([node.seen(top), *node.seen(top).rglob("*")]):
            place = str(path).removeprefix(str(node.seen("/")).rstrip("/"))
            if path.is_dir() and not path.is_symlink():
                continue
            if any(f"{place}/".startswith(f"{other}/") for other in _NOT_OWN):
                continue
            about = path.lstat()
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[place] = FileSeen(data, about.st_mode, about.st_mtime_ns)
    return found
