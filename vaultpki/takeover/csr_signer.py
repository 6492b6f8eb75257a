"""The copy of the old CA by which the controller manager signs CSRs, while bundles hold two CAs."""

from __future__ import annotations

import os

from vaultpki.disk import files
from vaultpki.disk.files import private_folder
from vaultpki.errors import StateConflict
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.takeover import folders, plain_files
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read


def _key_folder(run: TakeOver) -> str | None:
    """Return the folder in which the key of the old CA lies; None if there is none on this machine."""
    places = [run.where.directory, *(f"{run.where.aside}/{kind.value}" for kind in FolderKind)]
    keys = (path for path in places if os.path.exists(f"{path}/ca.key"))
    return next((path for path in keys if run.machine.certificates(f"{path}/ca.crt")), None)


def can_sign(run: TakeOver) -> bool:
    """Return whether the controller manager of this machine has, or must have, the old CA's key to sign CSRs with.

    It need not where that key is in Vault, and on no disk here. At the end of the way back it cannot, wherever the key
    is: a controller manager whose flags name a key that is missing does not start, and kubeadm leaves them empty then.
    """
    if "kube-controller-manager" not in run.machine.static_pods() or not run.target.signer:
        return True
    if not run.target.home and "kubernetes" not in run.imported:
        return True
    copied = not run.target.home and os.path.exists(folders.signer_files(run.where.aside)[1])
    return copied or _key_folder(run) is not None or not _names_kubeadms(run)


def is_there(run: TakeOver) -> bool:
    """Return whether the copy is there as the target needs it."""
    cert, key = folders.signer_files(run.where.aside)
    if not _names_kubeadms(run):
        return True
    source, found, held = _key_folder(run), read(cert), read(key)
    if found is None or held is None:
        return False
    same_key = source is None or held[0] == (read(f"{source}/ca.key") or (b"", None))[0]
    return found[0] == _old_ca(run) and same_key


def _names_kubeadms(run: TakeOver) -> bool:
    """Return whether the controller manager signs with kubeadm's CA, and not with one that the user gave it."""
    path = run.machine.static_pods()["kube-controller-manager"]
    flags = PodManifest(plain_files.original(run, path) or b"", path).flags
    return f"{run.where.directory}/ca.key" in flags.values()


def _old_ca(run: TakeOver) -> bytes:
    """Return the old CA alone, with the key that lies here."""
    return "".join(facts.pem for facts in run.cas.old["kubernetes"][:1]).encode()


def copy(run: TakeOver) -> None:
    """Copy the old CA, certificate and key, for the controller manager. Raises StateConflict if the key is not here."""
    source = _key_folder(run)
    if source is None:
        raise StateConflict(
            f"the key of the old CA is not on this machine ({run.where.directory}/ca.key), and its controller manager "
            "signs with it. Copy it here from another control plane"
        )
    cert, key = folders.signer_files(run.where.aside)
    private_folder(run.where.aside)
    with files.closing(files.open_folder(os.path.dirname(cert), create=True)) as folder, files.storage_errors(cert):
        data, about = read(f"{source}/ca.key") or (b"", os.stat(source))
        files.swap(os.path.basename(key), folder, data, about.st_mode & 0o777, about.st_uid, about.st_gid)
        files.swap(os.path.basename(cert), folder, _old_ca(run), 0o644)
