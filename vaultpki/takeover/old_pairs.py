"""Old pairs that have ended are signed again before they are put back, with the key of the old CA that is kept."""

from __future__ import annotations

import base64
import copy
import os
from datetime import timedelta
from typing import Final

from vaultpki.disk import files
from vaultpki.errors import StateConflict
from vaultpki.pki import x509
from vaultpki.pki.signed_again import signed_again
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import folders
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import client_pem
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

ENDS_SOON: Final = timedelta(days=7)
"""A pair that ends within this time is signed again: kubeadm's own renewal may be a long way off."""

_KEYS: Final = {"kubernetes": "ca.key", "front-proxy": "front-proxy-ca.key", "etcd": "etcd/ca.key"}
_END: Final = b"-----END CERTIFICATE-----"


def ended(run: TakeOver) -> list[str]:
    """Return the old pairs that have ended or end soon: files of the folder with both CAs, and kubeconfigs."""
    folder = run.machine.folder(FolderKind.BOTH)
    if folders.kind(folder) is not FolderKind.BOTH:
        folder = run.machine.folder(FolderKind.KUBEADM)
    found = [
        f"{folder}/{crt}"
        for ca, crt, _ in folders.old_pairs()
        for facts in run.machine.certificates(f"{folder}/{crt}")[:1]
        if run.cas.signer(facts, ca) is Held.OLD and facts.not_after < run.now + ENDS_SOON
    ]
    configs = run.machine.kubeconfigs()
    return found + [path for path in run.journal.value.kept if path in configs and _kubeconfig_ends(run, path)]


def _kubeconfig_ends(run: TakeOver, path: str) -> bool:
    pem = base64.b64decode(_user(run, path).get("client-certificate-data", ""))
    leaves = x509.readable(pem.decode("ascii", "replace"))[:1] if pem else ()
    return any(f.not_after < run.now + ENDS_SOON and run.cas.signer(f, "kubernetes") is Held.OLD for f in leaves)


def _user(run: TakeOver, path: str) -> dict[str, str]:
    try:
        return dict(YamlText(run.journal.original(path) or b"").value["users"][0]["user"])
    except (UnsafePlace, LookupError, TypeError, ValueError):
        return {}


def sign_again(run: TakeOver) -> None:
    """Sign them again. Raises StateConflict if the key of the old CA is not on this machine."""
    folder = run.machine.folder(FolderKind.BOTH)
    named = []
    for ca, crt, _ in folders.old_pairs():
        path = f"{folder}/{crt}"
        if path in ended(run):
            old = read(path)
            if old is not None:
                made = _signed(run, ca, old[0])
                where, name = os.path.split(path)
                with files.closing(files.open_folder(where, create=False)) as fd, files.storage_errors(path):
                    files.swap(name, fd, made, old[1].st_mode & 0o777, old[1].st_uid, old[1].st_gid)
                named.append(crt)
    for path in ended(run):
        kept, text = run.journal.original(path), None
        if kept is not None:
            text = YamlText(kept)
            scalar = text.at("users", 0, "user", "client-certificate-data")
            data = base64.b64encode(_signed(run, "kubernetes", base64.b64decode(scalar.value))).decode()
            wanted = copy.deepcopy(YamlText(kept).value)
            wanted["users"][0]["user"]["client-certificate-data"] = data
            entry = read(path)
            about = entry[1] if entry is not None else os.stat(run.where.kubeconfigs)
            run.journal.renew(path, text.apply([text.replaced(scalar, data)], wanted), about)
            named.append(path)
    run.journal.save(signed_again=tuple(dict.fromkeys((*run.journal.value.signed_again, *named))))
    for name in named:
        run.tell(f"signed {name} again with the old CA")


def _signed(run: TakeOver, ca: str, leaf: bytes) -> bytes:
    """Return the certificate signed again; its chain, if the file has one, is left out."""
    for kind in (FolderKind.BOTH, FolderKind.KUBEADM):
        folder = run.machine.folder(kind)
        key, cas = read(f"{folder}/{_KEYS[ca]}"), run.cas.old.get(ca, ())
        if key is not None and cas:
            return signed_again(leaf[: leaf.index(_END) + len(_END)] + b"\n", cas[0].pem.encode(), key[0], run.now)
    raise StateConflict(
        f"an old pair of {ca} has ended, and the key of the old CA is not on this machine; copy it to "
        f"{run.machine.folder(FolderKind.BOTH)}/{_KEYS[ca]} from another control plane, or bring a new pair"
    )


def renew_kubelet(run: TakeOver) -> None:
    """Sign the kubelet's own old pair again if it has ended, with the old CA's key where that lies here.

    Raises StateConflict on a machine without it: there the CSR signer gives a new one.
    """
    folder = run.machine.kubelet_folder(FolderKind.KUBEADM)
    path = f"{folder}/{client_pem(folder)}"
    found = read(path)
    leaf = run.machine.certificates(path)[:1]
    if found is None or not leaf or leaf[0].not_after >= run.now + ENDS_SOON:
        return
    try:
        made = _signed(run, "kubernetes", found[0])
    except StateConflict:
        if leaf[0].not_after > run.now:
            # The kubelet renews it by itself as soon as it has started with it.
            return
        raise StateConflict(
            f"{path} ended on {leaf[0].not_after:%Y-%m-%d}, and the key of the old CA is not on this machine; have a "
            "CSR for system:node signed by the cluster, and put certificate and key in that file"
        ) from None
    rest = found[0][found[0].index(_END) + len(_END) :].lstrip(b"\r\n")
    with files.closing(files.open_folder(folder, create=False)) as fd, files.storage_errors(path):
        files.swap(os.path.basename(path), fd, made + rest, found[1].st_mode & 0o777, found[1].st_uid, found[1].st_gid)
    run.journal.save(signed_again=tuple(dict.fromkeys((*run.journal.value.signed_again, path))))
    run.tell(f"signed {path} again with the old CA")
