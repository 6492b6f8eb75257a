"""Has Vault sign an old pair again, with an old CA that was imported with its key; the pair keeps its own key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from vaultpki.identity import imported
from vaultpki.issue import signing
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node import credential
from vaultpki.pki import keys
from vaultpki.pki.facts import Facts

if TYPE_CHECKING:
    from vaultpki.vault import Vault

OldCaSigner = Callable[[Certificate, bytes, Facts, datetime], bytes]
"""Returns a certificate of the old CA that is given, for the key that is given, both as PEM."""


def of_node(config: AgentConfig, *, allow_http: bool = False) -> OldCaSigner:
    """Return what asks Vault as this node, which logs in at the first request.

    It raises CertificateRefused if Vault signed something else, and the errors of the road to Vault.
    """
    known: list[Vault] = []

    def sign(want: Certificate, key_pem: bytes, ca: Facts, now: datetime) -> bytes:
        if not known:
            known.append(credential.login(config, allow_http=allow_http))
        wanted = imported.of_old_ca(want, config.prefix)
        return signing.sign_by_old_ca(known[0], wanted, keys.read_key(key_pem), ca, now)

    return sign
