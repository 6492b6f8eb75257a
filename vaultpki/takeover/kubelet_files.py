"""Changes the kubelet's certificates, settings and kubeconfig, so that it can start whenever the machine is booted.

Its own old pair lies in the agent's folder too while they change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from vaultpki.disk import exchange, files
from vaultpki.disk.files import private_folder
from vaultpki.takeover import exchanging, folders, old_pairs, plain_files
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import client_pem

_LINK = "kubelet-client-current.pem"


def changes(run: TakeOver) -> Iterator[str]:
    """Yield what is not yet as the target has it."""
    kind = _kind(run)
    if folders.kind(run.where.kubelet) is not kind:
        yield f"{run.where.kubelet}: the folder {exchanging.IN_WORDS[kind]} takes its place in one step"
    for path, wanted in _files(run):
        if (read(path) or (None, None))[0] != wanted:
            yield f"{path}: changed"


def change(run: TakeOver) -> None:
    """Make it what the target has. Raises StateConflict if a certificate is missing that it needs."""
    kind = _kind(run)
    if kind is FolderKind.AGENT:
        exchanging.refuse_unready(run)
    else:
        old_pairs.renew_kubelet(run)
    if folders.kind(run.where.kubelet) is not kind:
        # Its kubeconfig names the old pair in one folder, or ours in the other, whenever the machine is booted.
        _copy_pair(run)
    if kind is FolderKind.AGENT:
        _put_folder(run, kind)
    for path, wanted in _files(run):
        if run.journal.put(path, wanted):
            run.tell(f"wrote {path}")
    if kind is not FolderKind.AGENT:
        _put_folder(run, kind)


def _kind(run: TakeOver) -> FolderKind:
    return FolderKind.AGENT if run.target.ours else FolderKind.KUBEADM


def _files(run: TakeOver) -> Iterator[tuple[str, bytes | None]]:
    path = str(run.machine.kubeconfig("kubelet"))
    yield run.machine.kubelet_settings, plain_files.kubelet_settings(run)
    yield run.machine.kubelet_flags, plain_files.kubelet_flags(run)
    yield path, plain_files.kubeconfig_of(run, path)


def _put_folder(run: TakeOver, kind: FolderKind) -> None:
    if folders.kind(run.where.kubelet) is not kind:
        private_folder(run.where.kubelet_aside)
        folders.put(run.where.kubelet, run.where.kubelet_aside, kind)
        run.tell(f"exchanged {run.where.kubelet} for the folder {exchanging.IN_WORDS[kind]}")


def _copy_pair(run: TakeOver) -> None:
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
    """Return the copies of the kubelet's old pair in the agent's folder, the link first."""
    own = run.machine.kubelet_folder(FolderKind.AGENT)
    if not os.path.isdir(own):
        return []
    names = sorted(os.listdir(own))
    found = [name for name in names if name.startswith("kubelet-client-") and name.endswith(".pem")]
    return [f"{own}/{name}" for name in sorted(found, key=lambda name: name != _LINK)]


def remove_copies(run: TakeOver) -> None:
    """Remove these copies."""
    for path in copies(run):
        exchange.remove(path)
