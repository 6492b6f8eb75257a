"""Vault as the signer of a node is logged in there: its token, its secret id, and what it may sign now."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vaultpki.csr_roles import SignerFacts
from vaultpki.errors import CertificateUnreadable, Denied, StoreError
from vaultpki.model import AgentConfig
from vaultpki.node import credential
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.pki import x509
from vaultpki.redact import stamp
from vaultpki.signer import permission
from vaultpki.vault import Vault

LOOK_SECONDS: Final = 15.0
"""How often the cluster's records are read again."""

NO_FACTS: Final = "the cluster has no record for its signer; write `signer` into cluster.yaml, and run `vaultpki apply`"

# A token lives for 20 minutes; a login costs Vault less than a signature.
_TOKEN_SECONDS: Final = 600.0
# A secret id is replaced after 42 % of its life at the latest, the pair by the agent after two thirds.
_LATE_SHARE: Final = 0.5
_LATE_SHARE_OF_LEAF: Final = 0.8
_LEAF: Final = "signer.crt"
_LARGEST_LEAF: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Orders:
    """What the signer was told: the cluster's facts, and why it signs nothing now; "" if it signs."""

    facts: SignerFacts | None
    silent: str


class VaultSession:
    """A login that is made again before it ends, and at once after a refusal. Safe to use from several threads.

    Every method raises NeedsJoin if the credential is missing or refused, and the errors of the road to Vault.
    """

    def __init__(self, config: AgentConfig, *, allow_http: bool) -> None:
        self.config, self._allow_http = config, allow_http
        self._lock = threading.Lock()
        self._vault: Vault | None = None
        self._since = 0.0

    def vault(self, *, than: Vault | None = None) -> Vault:
        """Return Vault with a token that is valid for minutes; another one than that of `than`, which was refused."""
        with self._lock:
            if self._vault is None or self._vault is than or time.monotonic() - self._since > _TOKEN_SECONDS:
                kept, self._since = self._vault, time.monotonic()
                self._vault = None
                self._vault = credential.login(self.config, allow_http=self._allow_http, kept=kept)
            return self._vault

    def look(self) -> Orders:
        """Read what the cluster's records say now, and replace the secret id if it is due."""
        vault = self.vault()
        try:
            return self._look(vault)
        except Denied:
            # The token may have ended early.
            return self._look(self.vault(than=vault))

    def ending(self, now: datetime) -> tuple[str, ...]:
        """Return what of its own ends although it should have been replaced by now, as sentences."""
        found, files = list[str](), SecretIdFiles(self.config.state)
        with contextlib.suppress(StoreError):
            secret = files.current()
            minted = files.minted(secret) if secret is not None else None
            if minted is not None and now.timestamp() > minted[0] + minted[1] * _LATE_SHARE:
                ends = datetime.fromtimestamp(sum(minted), UTC)
                found.append(f"the secret id of this signer ends at {stamp(ends)}, and was not replaced")
        with contextlib.suppress(OSError, CertificateUnreadable):
            leaf = x509.read_certificates(Path(self.config.directory, _LEAF).read_bytes()[:_LARGEST_LEAF])[0]
            if now > leaf.not_before + (leaf.not_after - leaf.not_before) * _LATE_SHARE_OF_LEAF:
                found.append(f"the certificate of this signer ends at {stamp(leaf.not_after)}, and was not renewed")
        return tuple(found)

    def _look(self, vault: Vault) -> Orders:
        with self._lock:
            credential.roll(self.config, vault, time.time())
        prefix = self.config.prefix
        permitted, facts = permission.read_permission(vault, prefix), permission.read_facts(vault, prefix)
        return Orders(facts, permitted.why or ("" if facts else NO_FACTS))
