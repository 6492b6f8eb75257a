"""Removes what a machine keeps as long as there is a way back: old keys and pairs at the end, the rest at home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from vaultpki.disk import exchange, files
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover import key_copies
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import JOURNAL, files_in

# A folder of the agent's that is being removed.
_GONE: Final = "removed"


def old_files(run: TakeOver) -> Iterator[str]:
    """Yield what of the old CAs lies on the disk in DONE."""
    paths = [f"{run.where.aside}/{name}" for name in (FolderKind.KUBEADM.value, FolderKind.BOTH.value, SIGNER_FOLDER)]
    paths.append(f"{run.where.kubelet_aside}/{FolderKind.KUBEADM.value}")
    yield from (f"{path}: deleted, it holds a key of an old CA" for path in key_copies.elsewhere(run))
    yield from (f"{path}: deleted" for path in paths if os.path.lexists(path))
    if _copies(run):
        yield f"{run.journal.folder}: kubeadm's own files are deleted; after that there is no way back"


def _copies(run: TakeOver) -> list[str]:
    """Return the files of kubeadm's that are kept."""
    return [path for path in files_in(run.journal.folder) if not path.endswith(f"/{JOURNAL}")]


def delete_old(run: TakeOver) -> None:
    """Delete it; there is no way back from then on."""
    # What is no key of an old CA is known as long as their certificates and kubeadm's manifests are there.
    for path in key_copies.elsewhere(run):
        exchange.remove(path)
        run.tell(f"deleted {path}, which held a key of an old CA")
    # First, since a journal that names copies which are gone says that they are lost.
    run.journal.save(kept={}, written={}, copied={}, reached=AdoptionState.DONE, ended=ended(run))
    for name in (FolderKind.KUBEADM.value, FolderKind.BOTH.value, SIGNER_FOLDER):
        exchange.remove(f"{run.where.aside}/{name}")
    exchange.remove(f"{run.where.kubelet_aside}/{FolderKind.KUBEADM.value}")
    for path in _copies(run):
        exchange.remove(path)
    run.tell("deleted the keys and pairs of the old CAs on this machine; look for copies and backups of them elsewhere")


def ended(run: TakeOver) -> dict[str, tuple[str, ...]]:
    """Return the SHA-256 of the old CAs that this machine never trusts again once it is in DONE, by domain."""
    found = dict(run.journal.value.ended)
    for ca, hashes in run.machine.old.items() if run.target.state is AdoptionState.DONE else ():
        found[ca] = tuple(sorted({*found.get(ca, ()), *hashes}))
    return found


def prepared_files(run: TakeOver) -> Iterator[str]:
    """Yield what lies beside kubeadm's files on a machine that is as kubeadm left it."""
    for path in (run.where.aside, run.where.kubelet_aside, run.journal.folder):
        if os.path.lexists(path):
            yield f"{path}: removed"


def remove_prepared(run: TakeOver) -> None:
    """Remove it, and the journal."""
    # First, since a journal that names copies which are gone says that they are lost. What was asked stays in it, and
    # its file goes last: by that the next run of a machine without a record finishes this.
    run.journal.save(kept={}, written={}, copied={}, prepared={}, reached=None, asked=AdoptionState.PREPARED)
    asides = (run.where.aside, run.where.kubelet_aside)
    for aside in asides:
        own, gone = f"{aside}/{FolderKind.AGENT.value}", f"{aside}/{_GONE}"
        exchange.remove(gone)
        # In one step: after a kill the agent makes a pass before this goes on, and half of its files would stop it.
        if files.exists(own):
            exchange.move(own, gone)
    for path in (*asides, *_copies(run)):
        exchange.remove(path)
    run.journal.remove()
