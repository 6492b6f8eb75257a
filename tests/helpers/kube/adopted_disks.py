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
    """A file or folder: its content, or where a link leads; its mode, and when a file was changed (ns)."""

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
            if any(f"{place}/".startswith(f"{other}/") for other in _NOT_OWN):
                continue
            about = path.lstat()
            if path.is_symlink():
                found[place] = FileSeen(os.readlink(path).encode(), about.st_mode, 0)
            elif path.is_dir():
                found[place] = FileSeen(b"", about.st_mode, 0)
            else:
                found[place] = FileSeen(path.read_bytes(), about.st_mode, about.st_mtime_ns)
    return found
