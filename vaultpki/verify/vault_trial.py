"""Asks a user's own server, as a temporary node, for everything that a node must not have (`verify --vault`).

No request would change anything if it were allowed. Signing and reading are tried. For the rest Vault is asked what the
node's token may do. Requests that only their parameters forbid are tried after the node's AppRole is deleted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import ROOT
from vaultpki.errors import (
    BadAnswer,
    CertificateRefused,
    CertificateUnreadable,
    Denied,
    Refused,
    SpecError,
    Unavailable,
)
from vaultpki.identity import anchor, ending, enrol, token_rights
from vaultpki.identity.access import pooled_approle
from vaultpki.issue.issuers import fetch_issuers, roots_below, trusts
from vaultpki.issue.rotations import fetch_rotations, read_rotations
from vaultpki.model import Certificate, Cluster, KeyType, Pool, Subject
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.keys import PrivateKey
from vaultpki.pki.signed import check_signed
from vaultpki.vault import Request, Vault
from vaultpki.vault.answers import login_token
from vaultpki.verify import forbidden_signing
from vaultpki.verify.forbidden_paths import Forbidden
from vaultpki.verify.forbidden_signing import Allowed
from vaultpki.verify.on_disk import Check, tried

# Our client does not send such paths; the test suite sends them raw.
_BENT: Final = re.compile(r"[^A-Za-z0-9_.:+/-]")
# OpenBao's answers, for any token, to requests that only the root namespace allows.
_NOT_IN_A_NAMESPACE: Final = frozenset(
    {"operation unavailable in namespaces", "operation only available in root namespace"}
)
_NEEDS: Final[Mapping[str, frozenset[str]]] = {
    "GET": frozenset({"read"}),
    "LIST": frozenset({"list"}),
    "POST": frozenset({"create", "update"}),
    "PUT": frozenset({"create", "update"}),
    "PATCH": frozenset({"patch"}),
    "DELETE": frozenset({"delete"}),
}

Judge = Callable[[str, Certificate], "Facts"]
"""Returns the facts of a signed certificate that is exactly what it should be; CertificateRefused for any other."""


@dataclass(slots=True)
class Keys:
    """A key of each type, made at first use and never stored; `request` is the `Csr` of the forbidden list."""

    _made: dict[KeyType, PrivateKey] = field(default_factory=dict, repr=False)

    def key(self, kind: KeyType) -> PrivateKey:
        if kind not in self._made:
            self._made[kind] = keys.generate_key(kind)
        return self._made[kind]

    def request(self, kind: KeyType, subject: Subject) -> str:
        return keys.request(self.key(kind), subject)

    def judge(self, trust: Mapping[str, Trust], now: datetime) -> Judge:
        """Return a check of signed certificates by the rules of a node: our key, the names, the CA, the life."""

        def judge(pem: str, want: Certificate) -> Facts:
            known = trust[want.ca]
            key = self.key(want.key)
            return check_signed(pem.encode(), key, want, known.live, known.roots, now, between=known.between)

        return judge


def verify_vault(
    cluster: Cluster, vault: Vault, *, now: datetime, step: Callable[[int], None] = lambda total: None
) -> tuple[Check, ...]:
    """Check the forbidden list against the server, as a node of the cluster's first pool that uses AppRole.

    `step` is called after each request that must be refused, from any thread, with how many there are.
    `vault` is the applier: it makes the node and removes it again, whatever happens in between. `now` is the time at
    which certificates are judged. Raises SpecError if the cluster has no such pool or was not applied, Denied if the
    token may not do all of this.
    """
    pool = _pool(cluster)
    name = f"{pool.node_names.removesuffix('*')}verify-{secrets.token_hex(3)}"
    enrol.holder(cluster, name, pool.name)
    where = enrol.place(cluster, vault)
    mount = f"{cluster.prefix}/pooled"
    approle = vault.sending(once=True).api.auth.approle
    try:
        # First of all: a token that may not remove the node must not make it.
        vault.api.auth.approle.delete_role(name, mount_point=mount)
    except Denied as error:
        text = f"`verify --vault` makes a node and removes it again, as only the applier may: {error}"
        raise Denied(text, weak=error.weak) from None
    # hvac's method writes lists as one string.
    vault.write(f"auth/{mount}/role/{name}", pooled_approle(cluster, pool), once=True)
    role_id = ""
    try:
        role_id = str(vault.api.auth.approle.read_role_id(name, mount_point=mount).data.get("role_id"))
        secret_id = approle.generate_secret_id(name, mount_point=mount).data.get("secret_id")
        login = vault.prepare.auth.approle.login(role_id, secret_id, use_token=False, mount_point=mount)
        token = login_token(vault.call(login).body, login.path)
        node = vault.as_token(token)
        issuers = fetch_issuers(node, cluster.prefix)
        record = read_rotations(fetch_rotations(node, cluster.prefix), cluster.prefix).records.get(ROOT)
        pins = anchor.every_pin(cluster, where.root_sha256)
        above = roots_below(issuers, pins, record, now, cluster=cluster.name)
        trust = trusts(issuers, above, now, cluster=cluster.name)
        keys = Keys()
        trial = _Trial(name, node, keys.judge(trust, now))
        checks = vault.map(trial.allowed, forbidden_signing.allowed(cluster, name, pool, keys.request))
        listed = [f for f in forbidden_signing.forbidden(cluster, name, pool, keys.request) if not _BENT.search(f.path)]
        sent = [f for f in listed if f.harmless or f.spent]

        def forbidden(request: Forbidden) -> Check:
            check = trial.forbidden(request)
            step(len(sent))
            return check

        checks += node.map(forbidden, [f for f in sent if f.harmless])
        asked = [f for f in listed if not f.harmless and not f.spent]
        checks += trial.by_capabilities(asked, token_rights.granted(vault, [f.path for f in asked], token=token))
        vault.api.auth.approle.delete_role(name, mount_point=mount)
        checks += node.map(forbidden, [f for f in sent if f.spent])
    finally:
        _remove(cluster, vault, name, role_id)
    return tuple(checks)


def hole(request: Forbidden, data: Mapping[str, Any], judge: Judge) -> str:
    """Return what an answer to a forbidden request gave the node; empty if it is no more than the node's own."""
    pem = data.get("certificate")
    if request.own is None or not isinstance(pem, str):
        return "Vault allowed it"
    try:
        judge(pem, request.own)
    except CertificateUnreadable:
        return "Vault signed it in another format than a node accepts"
    except CertificateRefused as error:
        if request.held_by == "check" or _narrower(pem, request.own, judge):
            return ""
        return f"Vault signed what is not the node's: {error.reason}"
    return ""


def refused(request: Forbidden, status: int) -> bool:
    """Return whether a status is Vault's refusal of this request, and not of a mistake in it.

    A policy refuses with 403, before Vault reads the request; the node's own roles refuse with 400 too.
    """
    return status == 403 or (status == 400 and request.own is not None)


def _narrower(pem: str, own: Certificate, judge: Judge) -> bool:
    """Return whether a certificate is the node's own with fewer names: Vault drops names that are not valid."""
    said = x509.read_certificates(pem.encode())[0].subject
    less = replace(
        own.subject,
        dns=tuple(name for name in own.subject.dns if name in said.dns),
        ips=tuple(address for address in own.subject.ips if address in said.ips),
    )
    try:
        judge(pem, replace(own, subject=less))
    except CertificateRefused:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Trial:
    """Sends requests as the temporary node; each call returns a check."""

    name: str
    node: Vault
    judge: Judge

    def allowed(self, request: Allowed) -> Check:
        """Send the node's own request: a refusal proves nothing unless this succeeds."""
        refusal = ""
        try:
            # What an agent sends, byte by byte, and not what hvac would make of it.
            answer = self.node.write(request.path, request.body, once=True)
            self.judge(str((answer.get("data") or {}).get("certificate")), request.certificate)
        except (Denied, Refused, BadAnswer, CertificateRefused) as error:
            refusal = str(error)
        return tried(f"its own {request.certificate.name}", "vault", self.name, request.path, refusal=refusal)

    def forbidden(self, request: Forbidden) -> Check:
        try:
            # Any warning is accepted: only the answer counts. hvac has no method for most of what a policy forbids.
            wrap_ttl = request.wrap_ttl or None
            answer = self.node.call(
                Request(request.method, request.path, request.body, once=True, warnings=("",), wrap_ttl=wrap_ttl)
            )
        except Denied:
            return self._check(request, "")
        except Refused as error:
            if refused(request, error.status) or _NOT_IN_A_NAMESPACE.intersection(error.reasons):
                return self._check(request, "")
            return self._check(request, f"its policy let it pass (HTTP {error.status})")
        except BadAnswer:
            return self._check(request, "Vault allowed it")
        except Unavailable as error:
            if not error.sent:
                raise
            # If the server is down this raises again; otherwise the request passed the policy and made the server fail.
            self.node.api.sys.read_leader_status()
            return self._check(request, "its policy let it pass, and Vault failed on it")
        data = answer.body.get("data")
        return self._check(request, hole(request, data if isinstance(data, dict) else {}, self.judge))

    def by_capabilities(self, requests: Sequence[Forbidden], granted: Mapping[str, Any]) -> list[Check]:
        """Judge by what Vault grants at each path: a node's token may not ask for itself."""
        checks = []
        for request in requests:
            listed = granted.get(request.path)
            if not isinstance(listed, list):
                raise BadAnswer(
                    f"sys/capabilities has no answer for {request.path}; check that the address is a Vault server"
                )
            may = {*map(str, listed)} & (_NEEDS[request.method] | {"root"})
            checks.append(self._check(request, f"its token may {', '.join(sorted(may))} there" if may else ""))
        return checks

    def _check(self, request: Forbidden, found: str) -> Check:
        return tried(
            request.group,
            "vault",
            self.name,
            f"{request.method} {request.path}",
            good=False,
            refusal="" if found else "refused",
            accepted=f"({found}): {request.why}{_sent(request)}",
        )


def _sent(request: Forbidden) -> str:
    """Return what makes a request forbidden, so that a person can repeat it; the CSR is left out."""
    body = {name: value for name, value in (request.body or {}).items() if name not in ("csr", "format")}
    wrapped = f", to be wrapped for {request.wrap_ttl}" if request.wrap_ttl else ""
    return f"; sent {body!r}{wrapped}" if body or wrapped else ""


def _pool(cluster: Cluster) -> Pool:
    pool = next((pool for pool in cluster.pools if not pool.jwt), None)
    if pool is None:
        raise SpecError(
            "`verify --vault` makes a temporary node in a pool whose nodes log in by AppRole; add one to `pools` "
            "and apply",
            file=cluster.file,
        )
    return pool


def _remove(cluster: Cluster, vault: Vault, name: str, role_id: str) -> None:
    vault.api.auth.approle.delete_role(name, mount_point=f"{cluster.prefix}/pooled")
    accessor = ending.read_accessors(cluster, vault)["pooled"]
    # Nobody else had its secret id, so no login of it can be under way.
    ending.end_entities(vault, accessor, [role_id])
