"""Removes what a machine keeps as long as there is a way back: old keys and pairs at the end, the rest at home."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from vaultpki.disk import exchange, files
from vaultpki.errors import CertificateUnreadable, StateConflict
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.kube.flags import signing_files
from vaultpki.pki import keys
from vaultpki.places import is_below
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover import beside, folders
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import JOURNAL, files_in, read

# A folder of the agent's that is being removed.
_GONE: Final = "removed"


def old_files(run: TakeOver) -> Iterator[str]:
    """Yield what of the old CAs lies on the disk in DONE."""
    paths = [f"{run.where.aside}/{name}" for name in (FolderKind.KUBEADM.value, FolderKind.BOTH.value, SIGNER_FOLDER)]
    paths.append(f"{run.where.kubelet_aside}/{FolderKind.KUBEADM.value}")
    yield from (f"{path}: deleted, it holds a key of an old CA" for path in copied_keys(run))
    yield from (f"{path}: deleted" for path in paths if os.path.lexists(path))
    if _copies(run):
        yield f"{run.journal.folder}: kubeadm's own files are deleted; after that there is no way back"


def _copies(run: TakeOver) -> list[str]:
    """Return the files of kubeadm's that are kept."""
    return [path for path in files_in(run.journal.folder) if not path.endswith(f"/{JOURNAL}")]


def _refuse_mounted(run: TakeOver) -> None:
    """Raise StateConflict if a container has something mounted that lies aside: it would find nothing any more."""
    asides = (run.where.aside, run.where.kubelet_aside)
    for each in beside.holders(run):
        if any(is_below(each.path, aside) for aside in asides):
            raise StateConflict(
                f"{each.program} (process {each.pid}) has {each.path} mounted, which is to be deleted: restart it, "
                "such as by `kubectl delete pod`, and run this again"
            )


def delete_old(run: TakeOver) -> None:
    """Delete it; there is no way back from then on. Raises StateConflict if a container has some of it mounted."""
    _refuse_mounted(run)
    # What is no key of an old CA is known as long as their certificates and kubeadm's manifests are there.
    for path in copied_keys(run):
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
    """Remove it, and the journal. Raises StateConflict if a container has some of it mounted."""
    _refuse_mounted(run)
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


def copied_keys(run: TakeOver) -> list[str]:
    """Return the paths of copies of old CAs' keys under other names: beside them, and where CSRs were signed with them.

    The inventory tells people to copy the CA for the CSR signer; others keep `ca.key.old`. A key that a component
    reads now, such as one that signs tokens too, is no copy that may be deleted.
    """
    old = {facts.public_key for cas in run.cas.old.values() for facts in cas}
    if not old:
        return []
    used = {value for path in run.machine.static_pods().values() for value in _flags(run, path).values()}
    used |= beside.paths(run)
    found = [f"{run.where.directory}/{name}" for name in folders.further_files(run.where.directory)]
    found += _signed_with(run)
    return [path for path in dict.fromkeys(found) if path not in used and _public(path) in old]


def _signed_with(run: TakeOver) -> Iterator[str]:
    """Yield the files by which the controller manager signed CSRs before the take-over."""
    path = run.machine.static_pods().get("kube-controller-manager", "")
    kept = run.journal.original(path) if run.journal.value.kept.get(path) is not None else None
    files = signing_files(PodManifest(kept, path).flags, "key") if kept is not None else {}
    yield from (value for value in files.values() if os.path.isfile(value))


def _flags(run: TakeOver, path: str) -> dict[str, str]:
    found = read(path)
    return PodManifest(found[0], path).flags if found is not None else {}


def _public(path: str) -> bytes:
    """Return the public key of the private one in a file, as Facts have it; empty if there is none to be read."""
    found = read(path)
    with contextlib.suppress(CertificateUnreadable):
        return keys.public_der(keys.read_key(found[0])) if found is not None else b""
    return b""
