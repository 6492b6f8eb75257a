"""Old pairs that have ended are signed again before they are put back: by Vault where it has the old CA's key.

Else, and where Vault cannot, the key of the old CA that is kept on this machine signs them. Keys of pairs stay.
"""

from __future__ import annotations

import base64
import copy
import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from vaultpki.disk import files
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.identity import imported
from vaultpki.issue import signing
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node import credential
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.signed_again import signed_again
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import folders, kubelet_request
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import OldCaSigner, TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, client_pem
from vaultpki.takeover.plain_files import KUBECONFIG_ROWS
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

if TYPE_CHECKING:
    from vaultpki.vault import Vault

ENDS_SOON: Final = timedelta(days=7)
"""A pair that ends within this time is signed again: kubeadm's own renewal may be a long way off."""

_WITHOUT_KEY: Final = timedelta(days=90)
"""The same on a machine without the old CA's key: neither kubeadm nor, later, Vault could renew the pair there."""

_END: Final = b"-----END CERTIFICATE-----"
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----\n?", re.DOTALL)


def vault_signer(config: AgentConfig, *, allow_http: bool = False) -> OldCaSigner:
    """Return what has Vault sign with an imported old CA as this node, which logs in at the first request.

    It raises CertificateRefused if Vault signed something else, and the errors of the road to Vault.
    """
    known: list[Vault] = []

    def sign(want: Certificate, key_pem: bytes, ca: Facts, now: datetime) -> bytes:
        if not known:
            known.append(credential.login(config, allow_http=allow_http))
        wanted = imported.of_old_ca(want, config.prefix)
        return signing.sign_by_old_ca(known[0], wanted, keys.read_key(key_pem), ca, now)

    return sign


def ended(run: TakeOver) -> list[str]:
    """Return the old pairs that have ended or end soon: files of the folder with both CAs, and kubeconfigs.

    Where the old CA's key is only in Vault, kubeconfigs of people are left out: nodes get no certificate of those.
    """
    folder = run.machine.folder(FolderKind.BOTH)
    if folders.kind(folder) is not FolderKind.BOTH:
        folder = run.machine.folder(FolderKind.KUBEADM)
    found = [
        f"{folder}/{pair.crt}"
        for pair in folders.old_pairs()
        for facts in run.machine.certificates(f"{folder}/{pair.crt}")[:1]
        if run.cas.signer(facts, pair.ca) is Held.OLD and facts.not_after < _soon(run, pair.ca)
    ]
    configs = run.machine.kubeconfigs()
    if "kubernetes" in run.imported and _key(run, "kubernetes") is None:
        configs = [path for path in configs if os.path.basename(path) in COMPONENT_KUBECONFIGS.values()]
    return found + [path for path in run.journal.value.kept if path in configs and _kubeconfig_ends(run, path)]


def _soon(run: TakeOver, ca: str) -> datetime:
    """Return until when a pair of a domain must live not to be signed again."""
    alone = ca in run.imported and _key(run, ca) is None
    return run.now + (_WITHOUT_KEY if alone else ENDS_SOON)


def _kubeconfig_ends(run: TakeOver, path: str) -> bool:
    pem = base64.b64decode(_user(run, path).get("client-certificate-data", ""))
    leaves = x509.readable(pem.decode("ascii", "replace"))[:1] if pem else ()
    until = _soon(run, "kubernetes")
    return any(f.not_after < until and run.cas.signer(f, "kubernetes") is Held.OLD for f in leaves)


def _user(run: TakeOver, path: str) -> Mapping[str, str]:
    try:
        return dict(YamlText(run.journal.original(path) or b"").value["users"][0]["user"])
    except (UnsafePlace, LookupError, TypeError, ValueError):
        return {}


def sign_again(run: TakeOver) -> None:
    """Sign them again. Raises StateConflict if neither Vault nor this machine has the key of the old CA."""
    folder = run.machine.folder(FolderKind.BOTH)
    named = []
    for pair in folders.old_pairs():
        path = f"{folder}/{pair.crt}"
        if path in ended(run):
            old = read(path)
            if old is not None:
                made = _signed(run, pair.ca, pair.row, old[0], (read(f"{folder}/{pair.key}") or (b"", None))[0])
                where, name = os.path.split(path)
                with files.closing(files.open_folder(where, create=False)) as fd, files.storage_errors(path):
                    files.swap(name, fd, made, old[1].st_mode & 0o777, old[1].st_uid, old[1].st_gid)
                named.append(pair.crt)
    for path in ended(run):
        kept, text = run.journal.original(path), None
        if kept is not None:
            text = YamlText(kept)
            scalar = text.at("users", 0, "user", "client-certificate-data")
            key = base64.b64decode(_user(run, path).get("client-key-data", ""))
            row = KUBECONFIG_ROWS.get(os.path.basename(path), "")
            made = _signed(run, "kubernetes", row, base64.b64decode(scalar.value), key)
            data = base64.b64encode(made).decode()
            wanted = copy.deepcopy(YamlText(kept).value)
            wanted["users"][0]["user"]["client-certificate-data"] = data
            entry = read(path)
            about = entry[1] if entry is not None else os.stat(run.where.kubeconfigs)
            run.journal.renew(path, text.apply([text.replaced(scalar, data)], wanted), about)
            named.append(path)
    run.journal.save(signed_again=tuple(dict.fromkeys((*run.journal.value.signed_again, *named))))
    for name in named:
        run.tell(f"signed {name} again with the old CA")


def _signed(run: TakeOver, ca: str, row: str, leaf: bytes, own_key: bytes) -> bytes:
    """Return the certificate of a pair, signed again; its chain, if the file has one, is left out.

    `own_key` is the pair's own key, and `row` the certificate that Vault gives this node in its place.
    """
    cas, refused = run.cas.old.get(ca, ()), ""
    want = next((each for each in run.assignment.certificates if each.name == row), None)
    signs = ca in run.imported and run.target.state is AdoptionState.RETURNING
    if signs and run.sign is not None and want is not None and cas and own_key:
        try:
            return run.sign(want, own_key, cas[0], run.now)
        except VaultpkiError as error:
            # The key on this machine does it as well, if it is there.
            refused = str(error)
    ca_key = _key(run, ca)
    if ca_key is not None and cas:
        return signed_again(leaf[: leaf.index(_END) + len(_END)] + b"\n", cas[0].pem.encode(), ca_key, run.now)
    place = f"{run.machine.folder(FolderKind.BOTH)}/{folders.KEY_FILES[ca]}"
    if refused:
        raise StateConflict(
            f"an old pair of {ca} has ended, and Vault, which has the key of the old CA, does not sign it: {refused}. "
            f"Cure that, or copy the key to {place}"
        )
    raise StateConflict(
        f"an old pair of {ca} has ended, and the key of the old CA is not on this machine. Copy it to {place} from "
        "another control plane, or bring a new pair"
    )


def _key(run: TakeOver, ca: str) -> bytes | None:
    """Return the key of the old CA of a domain that lies on this machine; None without one."""
    for kind in (FolderKind.BOTH, FolderKind.KUBEADM):
        found = read(f"{run.machine.folder(kind)}/{folders.KEY_FILES[ca]}")
        if found is not None:
            return found[0]
    return None


def renew_kubelet(run: TakeOver) -> None:
    """Sign the kubelet's own old pair again if it has ended, by Vault or with the old CA's key where that lies here.

    Where neither can, the CSR signer does it. Raises StateConflict if it does not.
    """
    folder = run.machine.kubelet_folder(FolderKind.KUBEADM)
    path = f"{folder}/{client_pem(folder)}"
    found = read(path)
    leaf = run.machine.certificates(path)[:1]
    if found is None or not leaf or leaf[0].not_after >= _soon(run, "kubernetes"):
        return
    held = _KEY.search(found[0])
    own_key = held[0] if held is not None else b""
    try:
        made = _signed(run, "kubernetes", KUBECONFIG_ROWS["kubelet.conf"], found[0], own_key)
    except StateConflict as error:
        if leaf[0].not_after > run.now:
            # The kubelet renews it by itself as soon as it has started with it.
            return
        try:
            made = kubelet_request.signed(run, own_key)
        except VaultpkiError as refused:
            if "kubernetes" in run.imported:
                raise error from refused
            raise StateConflict(
                f"{path} ended on {leaf[0].not_after:%Y-%m-%d}, and the key of the old CA is not on this machine. The "
                f"cluster did not sign it again: {refused}. Run this again, or have the cluster sign a CSR for "
                "system:node, and put certificate and key in that file"
            ) from error
    rest = found[0][found[0].index(_END) + len(_END) :].lstrip(b"\r\n")
    with files.closing(files.open_folder(folder, create=False)) as fd, files.storage_errors(path):
        files.swap(os.path.basename(path), fd, made + rest, found[1].st_mode & 0o777, found[1].st_uid, found[1].st_gid)
    run.journal.save(signed_again=tuple(dict.fromkeys((*run.journal.value.signed_again, path))))
    run.tell(f"signed {path} again with the old CA")
