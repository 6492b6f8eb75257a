"""Answers one certificate request: looks at it anew, judges it, has Vault sign it, checks that, and writes it down.

Nothing is marked for a fault of ours, of Vault or of the API server: the request is tried again.
"""

from __future__ import annotations

import http
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vaultpki.csr_roles import SignerFacts
from vaultpki.disk.files import storage_errors
from vaultpki.errors import BadAnswer, Denied, Refused, Unavailable
from vaultpki.host.log import Event
from vaultpki.layout import bundle_of
from vaultpki.model import Certificate, KeyType
from vaultpki.pki import signed, x509
from vaultpki.redact import printable
from vaultpki.signer.brakes import Brakes, Key
from vaultpki.signer.known import is_open
from vaultpki.signer.requests import CLIENT, GIVEN_UP, SERVING, CsrObject, csr_object
from vaultpki.signer.requests_api import Item, RequestsApi
from vaultpki.signer.rules import BrokenRule, ClusterLook, SigningOrder, served, verdict
from vaultpki.signer.session import VaultSession
from vaultpki.values import input_file
from vaultpki.vault import Vault

BY_VAULT: Final = "31"
"""The number of the rule that is Vault's own."""

_UNAPPROVED: Final = 20.0
# What rule 28 lets pass: CA:FALSE, which no certificate gets (both servers, builtin/logical/pki, cert_util.go).
_DROPPED: Final = ("contained a Basic Constraints extension that was ignored",)
_LARGEST_BUNDLE: Final = 1 << 20
_LONGEST_REASON: Final = 300


@dataclass(slots=True)
class Tally:
    """What a signer has done since it was started: certificates by signer name, refusals by signer name and rule."""

    signed: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Later:
    """A request that waits: after `seconds` it may be tried again. `keys` are the brakes that hold it, if they do."""

    seconds: float
    keys: tuple[Key, ...] = ()


class Answerer:
    """Answers requests by the facts that each call is given. Safe to use from several threads.

    `look` returns what the rules look at of the cluster; with `anew` nothing that was read before counts.
    """

    def __init__(
        self,
        session: VaultSession,
        api: RequestsApi,
        look: Callable[[bool], ClusterLook],
        log: Callable[[Event], None],
    ) -> None:
        self._session, self._api, self._look, self._log = session, api, look, log
        self.brakes, self.tally, self._lock = Brakes(), Tally(), threading.Lock()

    def judge(self, request: CsrObject, facts: SignerFacts) -> SigningOrder | BrokenRule:
        """Return what the rules say of a request now."""
        found = verdict(request, facts, self._look(False))
        # What a kubelet has just written of itself may be newer than what was read before.
        return verdict(request, facts, self._look(True)) if isinstance(found, BrokenRule) else found

    def answer(self, name: str, facts: SignerFacts) -> Later | bool:
        """Answer a request; return whether it got a certificate, or when it is to be tried again.

        Raises VaultpkiError where nothing was marked, since it must be tried again for a fault.
        """
        item = self._api.read(name)
        request = None if item is None else csr_object(item)
        if item is None or request is None or not is_open(request) or is_late(request, datetime.now(UTC)):
            return False
        if request.signer not in served(facts):
            return False
        if not request.approved and not (request.signer == SERVING and facts.signer.approve_serving):
            return False
        found = self.judge(request, facts)
        if isinstance(found, BrokenRule):
            # What nobody has approved is not refused either: its kubelet may still write what is missing.
            return self._refuse(item, request, found) if request.approved else Later(_UNAPPROVED)
        if not request.approved:
            self._api.approve(item)
            self._tell("approved", request, f"approved {name}: {found.subject.common_name} for {request.username}")
            return False
        keys, now = keys_of(request, found), time.monotonic()
        with self._lock:
            if wait := self.brakes.wait(keys, now):
                return Later(wait, keys)
        try:
            pem = self._signed(request, found)
        except (Denied, Refused, Unavailable) as error:
            if not getattr(error, "sent", False):
                with self._lock:
                    self.brakes.give_back(keys, now)
            if (refusal := _of_vault(error)) is None:
                raise
            return self._refuse(item, request, refusal)
        self._api.write_certificate(item, pem)
        with self.tally.lock:
            self.tally.signed[request.signer] += 1
        self._tell("signed", request, f"signed {name}: {found.subject.common_name} for {request.username}")
        return True

    def held(self, keys: tuple[Key, ...]) -> float:
        """Return for how many more seconds brakes hold a request with these keys."""
        with self._lock:
            return self.brakes.left(keys, time.monotonic())

    def pace(self) -> float:
        """Return after how many seconds the next request may be worked on, and count it."""
        with self._lock:
            return self.brakes.pace(time.monotonic())

    def _refuse(self, item: Item, request: CsrObject, refusal: BrokenRule) -> bool:
        self._api.write_failed(item, refusal.message)
        with self.tally.lock:
            self.tally.refused[request.signer, refusal.rule] += 1
        text = f"refused {request.name} of {request.username} by rule {refusal.rule}: {refusal.message}"
        self._tell("refused", request, text, rule=refusal.rule)
        return False

    def _tell(self, name: str, request: CsrObject, text: str, **more: str) -> None:
        fields = {"request": request.name, "user": request.username, **more}
        self._log(Event(name, text, "warning" if name == "refused" else "info", fields))

    def _signed(self, request: CsrObject, order: SigningOrder) -> bytes:
        """Return the leaf and its issuing CA as PEM, once Vault has signed exactly what was ordered."""
        vault = self._session.vault()
        try:
            pem = self._sent(vault, request, order)
        except Denied:
            # The token may have ended early; a refusal of a new one is no verdict on the request.
            pem = self._sent(self._session.vault(than=vault), request, order)
        config, role = self._session.config, order.role
        bundle = bundle_of(config.layout, role.ca)
        path = f"{config.paths[bundle.folder]}/{bundle.file}"
        with storage_errors(path):
            # The agent keeps it: what it trusts is what this node trusts.
            issuers = x509.read_certificates(input_file.read(Path(path), _LARGEST_BUNDLE)[0])
        want = Certificate(
            name=request.name,
            usage=role.usage,
            subject=order.subject,
            ca=role.ca,
            mount=f"{config.prefix}/{role.ca}",
            role=role.name,
            ttl=order.ttl,
            key=KeyType.EC_P256,
            stem=role.name,
        )
        leaf, issuer = signed.check_for_request(pem, order.public_key, want, issuers, datetime.now(UTC))
        return (leaf.pem + issuer.pem).encode()

    def _sent(self, vault: Vault, request: CsrObject, order: SigningOrder) -> bytes:
        """Return what Vault signs, as PEM; nothing of it is checked."""
        names, role = order.subject, order.role
        # Texts: a policy compares a JSON true with nothing. Of addresses it compares each one of a list.
        more: dict[str, object] = {"ttl": str(order.ttl), "exclude_cn_from_sans": "true", "format": "pem"}
        more |= {"alt_names": ",".join(names.dns)} if names.dns else {}
        more |= {"ip_sans": [ipaddress.ip_address(each).exploded for each in names.ips]} if names.ips else {}
        pki = vault.sending(once=True, warnings=_DROPPED).api.secrets.pki
        text = request.request.decode("ascii", "replace")
        mount = f"{self._session.config.prefix}/{role.ca}"
        answer = pki.sign_certificate(role.name, text, names.common_name, more, mount_point=mount)
        pem = answer.data.get("certificate")
        if not isinstance(pem, str):
            raise BadAnswer(f"the response has no certificate for {request.name}; check the address of Vault")
        return pem.encode()


def _of_vault(error: Exception) -> BrokenRule | None:
    """Return the refusal if Vault has refused the request itself; None for a fault of ours, such as a missing role."""
    if not isinstance(error, Refused) or error.status != http.HTTPStatus.BAD_REQUEST:
        return None
    if any("unknown role" in reason for reason in error.reasons):
        return None
    why = printable("; ".join(error.reasons))[:_LONGEST_REASON]
    return BrokenRule(BY_VAULT, f"Vault refuses it: {why}")


def is_late(request: CsrObject, now: datetime) -> bool:
    """Return whether the kubelet that made the request has stopped waiting for it."""
    return request.signer != CLIENT and request.created is not None and now - request.created > GIVEN_UP


def keys_of(request: CsrObject, order: SigningOrder) -> tuple[Key, ...]:
    """Return what brakes count a request by."""
    own = ("people", "") if request.signer == CLIENT else ("node", order.subject.common_name)
    return own, ("requester", request.username)
