"""Obtains one certificate: makes the key and the CSR, has Vault sign it, checks the answer, makes the pair's files.

Nodes and operators share this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import pair_files, sign_parameters
from vaultpki.disk.generations import File
from vaultpki.errors import BadAnswer, CertificateRefused, CertificateUnreadable
from vaultpki.model import Certificate
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.succession import chain
from vaultpki.vault import Vault

if TYPE_CHECKING:
    from vaultpki.pki.keys import PrivateKey

KEY_MODE: Final = 0o600
CERTIFICATE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class FileOwner:
    """The owner of installed files; None is the user that this runs as."""

    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A new pair that passed every check: its facts, and the contents of its three files by name."""

    certificate: Certificate
    facts: Facts
    contents: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Signed({self.certificate.name})"


def sign(vault: Vault, want: Certificate, trust: Trust, now: datetime, key: PrivateKey | None = None) -> Signed:
    """Make a new key for `want`, have Vault sign it, and return the pair if it is exactly what was asked for.

    With `key` that one is certified, and none is made. Only a certificate of one of `trust.signers` is taken. Raises
    CertificateRefused if there is none or Vault signed something else, BadAnswer if it signed nothing, and the errors
    of the road to Vault.
    """
    from vaultpki.pki import keys, x509
    from vaultpki.pki.signed import check_signed

    if not trust.signers:
        why = "no issuing CA of {0} is in date{1}; check this machine's clock, then run `vaultpki ca rotate {0}`"
        if trust.live:
            why = "no CA on the mount of {0} may sign it now; run `vaultpki ca status` where the cluster is applied"
        if not trust.issuing:
            why = (
                "the mount of {0} shows no issuing CA of this cluster; run `vaultpki plan` where the cluster is applied"
            )
        last = max((facts.not_after for facts in trust.issuing), default=now)
        ended = f" (it expired on {last:%Y-%m-%d %H:%M}Z)" if last < now else ""
        raise CertificateRefused(f"{want.name}: {why.format(want.ca, ended)}", reason="nothing-live")
    key = key or keys.generate_key(want.key)
    leaf = check_signed(_sent(vault, want, key), key, want, trust.signers, trust.roots, now, between=trust.between)
    issuer = x509.issuer_of(leaf, trust.signers)
    assert issuer is not None  # noqa: S101 - for mypy: check_signed has found it
    return Signed(want, leaf, contents(want, keys.key_pem(key), leaf, chain(trust, issuer)))


def sign_by_old_ca(vault: Vault, want: Certificate, key: PrivateKey, ca: Facts, now: datetime) -> bytes:
    """Have Vault sign a certificate for a key that there is, with an old CA that was imported; return it as PEM.

    `want` names the mount of that CA, and `ca` is its certificate. Raises as `sign`.
    """
    from vaultpki.pki.signed import check_of_old_ca

    return check_of_old_ca(_sent(vault, want, key), key, want, ca, now).pem.encode()


def _sent(vault: Vault, want: Certificate, key: PrivateKey) -> bytes:
    """Return what Vault signs for a key, as PEM; nothing of it is checked."""
    from vaultpki.pki import keys

    parameters = sign_parameters(want, keys.request(key, want.subject))
    csr, common_name = parameters.pop("csr"), parameters.pop("common_name")
    pki = vault.sending(once=True).api.secrets.pki
    pem = pki.sign_certificate(want.role, csr, common_name, parameters, mount_point=want.mount).data.get("certificate")
    if not isinstance(pem, str):
        raise BadAnswer(f"the response has no certificate for {want.name}; check the address and any proxy in between")
    return pem.encode()


def contents(want: Certificate, key_pem: bytes, leaf: Facts, issuers: Sequence[Facts]) -> dict[str, bytes]:
    """Return the contents of a pair's three files by name: the leaf and the chain after it, the key, and both."""
    crt_name, key_name, pem_name = pair_files(want.stem)
    crt = "".join(facts.pem for facts in (leaf, *issuers)).encode()
    return {crt_name: crt, key_name: key_pem, pem_name: key_pem + crt}


def pair(contents: Mapping[str, bytes], owner: FileOwner, key_mode: int = KEY_MODE) -> dict[str, File]:
    """Return the files of a pair with their modes and owner; all but the .crt hold the key."""
    return {
        name: File(data, CERTIFICATE_MODE if name.endswith(".crt") else key_mode, owner.uid, owner.gid)
        for name, data in contents.items()
    }


def whole(contents: Mapping[str, bytes], want: Certificate) -> None:
    """Raise CertificateUnreadable unless the bytes read back from the disk are a pair that belongs together."""
    from vaultpki.pki import x509

    crt, key, pem = (contents.get(name) for name in pair_files(want.stem))
    read = x509.read_pair(crt, key, pem, None)
    if read.missing or read.unreadable or not read.matches:
        raise CertificateUnreadable(
            f"{want.name}: the files read back from the disk differ from what was written; check the disk"
        )
