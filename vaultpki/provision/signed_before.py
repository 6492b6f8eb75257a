"""Find a CA that an earlier run had signed and whose answer was lost, so that no second one is signed for its key.

The signer stores every certificate that it signs. A key is made for one CA, or renewed with it on purpose: what lies on
the mount already is not what was lost.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from vaultpki.identity.revoked_list import stored_certificates
from vaultpki.vault import Vault, text

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

# One that lacks more of the life that is asked for now is not taken: another is signed.
_OLDEST: Final = timedelta(days=1)
_SLACK: Final = timedelta(hours=1)


def signed_before(
    vault: Vault, root: str, signer: Facts, csr: str, subject: str, ends: datetime, installed: Collection[str]
) -> str | None:
    """Return, as PEM, the newest certificate of `signer`, of the mount `root`, for the key and the name of a request.

    `csr` is the request as PEM, `subject` the common name, `ends` when one that is signed now would end. The SHA-256 in
    `installed` do not count. None if there is none of the last day, or if it was revoked. Whoever installs it checks
    the rest, as with one that is signed now.
    """
    from vaultpki.pki import keys, x509

    key = keys.requested_key(csr.encode())
    found = [
        facts
        for facts, revoked in stored_certificates(vault, root)
        if not revoked
        and facts.public_key == key
        and facts.subject.common_name == subject
        and facts.is_ca
        and facts.fingerprint not in installed
        and ends - _OLDEST <= facts.not_after <= ends + _SLACK
        and x509.signed_by(facts, signer)
    ]
    newest = max(found, key=lambda facts: facts.not_after, default=None)
    return newest.pem if newest is not None else None


def fingerprints(vault: Vault, mount: str) -> frozenset[str]:
    """Return the SHA-256 of the certificates of a mount's issuers."""
    from vaultpki.pki import x509

    issuers, read = vault.api.secrets.pki.list_issuers(mount_point=mount).keys, vault.prepare.secrets.pki.read_issuer
    pems = [
        text(answer.data, "certificate") for answer in vault.many([read(each, mount_point=mount) for each in issuers])
    ]
    return frozenset(facts.fingerprint for pem in pems for facts in x509.readable(pem)[:1])
