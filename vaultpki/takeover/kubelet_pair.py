"""The kubelet's own old pair lies in the agent's folder too while files change, so that it can always start."""

from __future__ import annotations

import os

from vaultpki.disk import exchange, files
from vaultpki.takeover import folders
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.machine import client_pem

_LINK = "kubelet-client-current.pem"


def copy(run: TakeOver) -> None:
    """Copy the pair with which the kubelet logs in into the agent's folder, and its link."""
    old, own = (run.machine.kubelet_folder(kind) for kind in (FolderKind.KUBEADM, FolderKind.AGENT))
    name = client_pem(old)
    if not os.path.lexists(f"{old}/{name}"):
        return
    folders.copy_files([name], old, own)
    if name == _LINK or os.path.lexists(f"{own}/{_LINK}"):
        return
    with files.closing(files.open_folder(own, create=False)) as folder, files.storage_errors(f"{own}/{_LINK}"):
        os.symlink(f"{run.where.kubelet}/{name}", _LINK, dir_fd=folder)
        os.fsync(folder)


def copies(run: TakeOver) -> list[str]:
    """Return the copies in the agent's folder, the link first."""
    own = run.machine.kubelet_folder(FolderKind.AGENT)
    if not os.path.isdir(own):
        return []
    names = sorted(os.listdir(own))
    found = [name for name in names if name.startswith("kubelet-client-") and name.endswith(".pem")]
    return [f"{own}/{name}" for name in sorted(found, key=lambda name: name != _LINK)]


def remove_copies(run: TakeOver) -> None:
    """Remove the copies."""
    for path in copies(run):
        exchange.remove(path)
