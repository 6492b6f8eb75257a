"""`verify --vault`: asks a user's own server for all that a node must not have, as a node that lives only for this.

Nothing is sent that could change anything if it were allowed. Signing and reading are tried; of the rest Vault is asked
what the node's token may do; and what only its parameters forbid is tried once the node's AppRole is gone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from vaultpki import enrolment, forbidden, issuance, live_credentials
from vaultpki.checks import Check, tried
from vaultpki.errors import (
    BadAnswer,
    CertificateRefused,
    CertificateUnreadable,
    Denied,
    Refused,
    SpecError,
    Unavailable,
)
from vaultpki.forbidden import Allowed, Forbidden
from vaultpki.identities import pooled_approle
from vaultpki.model import Certificate, Cluster, KeyType, Pool, Subject
from vaultpki.values import dataclass
from vaultpki.vault import Request, Vault
from vaultpki.vault.wire import login_token

if TYPE_CHECKING:
    from vaultpki.facts import Facts, Trust
    from vaultpki.x509 import PrivateKey

_PATHS_AT_ONCE: Final = 100
# Paths that no client of ours sends; the test suite sends them raw.
_BENT: Final = re.compile(r"[^A-Za-z0-9_.:+/-]")
# OpenBao's answers, whoever asks, to what only the namespace above all has.
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
"""Gives the facts of a signed certificate that is exactly what it should be; CertificateRefused for any other."""


@dataclass(slots=True)
class Keys:
    """A key of each kind, made when it is first wanted and never kept; the `Csr` of the forbidden list."""

    _made: dict[KeyType, PrivateKey] = field(default_factory=dict, repr=False)

    def key(self, kind: KeyType) -> PrivateKey:
        from vaultpki import x509

        if kind not in self._made:
            self._made[kind] = x509.generate_key(kind)
        return self._made[kind]

    def request(self, kind: KeyType, subject: Subject) -> str:
        from vaultpki import x509

        return x509.request(self.key(kind), subject)

    def judge(self, trust: Mapping[str, Trust], now: datetime) -> Judge:
        """Holds an answer to what a node would install: our key, the names, the CA, the life."""
        from vaultpki import x509

        def judge(pem: str, want: Certificate) -> Facts:
            known = trust[want.ca]
            return x509.check_signed(pem.encode(), self.key(want.key), want, known.live, known.root, now)

        return judge


def verify_vault(cluster: Cluster, vault: Vault, *, now: datetime) -> tuple[Check, ...]:
    """Every check of the forbidden list against the server, as a node of the cluster's first pool.

    `vault` is the applier: it makes the node and takes it away again, whatever comes in between. `now` is when
    certificates are judged. SpecError where the cluster has no pool or was not applied, Denied where the token may not
    do all of this.
    """
    pool = _pool(cluster)
    name = f"{pool.node_names.removesuffix('*')}verify-{secrets.token_hex(3)}"
    enrolment.holder(cluster, name, pool.name)
    where = enrolment.place(cluster, vault)
    role = f"auth/{cluster.prefix}/pooled/role/{name}"
    try:
        # Before anything is made: who may not take the node away shall not make it either.
        vault.call(Request("DELETE", role))
    except Denied as error:
        raise Denied(f"`verify --vault` makes a node and takes it away again, as the applier may: {error}") from None
    vault.write(role, pooled_approle(cluster, pool), once=True)
    role_id = ""
    try:
        role_id = str((vault.read(f"{role}/role-id") or {}).get("role_id"))
        minted = vault.write(f"{role}/secret-id", {}, once=True).get("data") or {}
        login = f"auth/{cluster.prefix}/pooled/login"
        token = login_token(vault.write(login, {"role_id": role_id, "secret_id": minted.get("secret_id")}), login)
        node = vault.as_token(token)
        issuers = issuance.fetch_issuers(node, cluster.prefix)
        trust = issuance.trusts(issuers, where.root_sha256, now, cluster=cluster.name)
        keys = Keys()
        trial = _Trial(name, node, keys.judge(trust, now))
        checks = vault.map(trial.allowed, forbidden.allowed(cluster, name, pool, keys.request))
        listed = [f for f in forbidden.forbidden(cluster, name, pool, keys.request) if not _BENT.search(f.path)]
        checks += node.map(trial.forbidden, [f for f in listed if f.harmless])
        asked = [f for f in listed if not f.harmless and not f.spent]
        checks += trial.by_capabilities(asked, _capabilities(vault, token, [f.path for f in asked]))
        vault.call(Request("DELETE", role))
        checks += node.map(trial.forbidden, [f for f in listed if f.spent])
    finally:
        _take_away(cluster, vault, role, role_id)
    return tuple(checks)


def hole(request: Forbidden, data: Mapping[str, Any], judge: Judge) -> str:
    """What an answer to a forbidden request gave away; empty where it is no more than the node's own."""
    pem = data.get("certificate")
    if request.own is None or not isinstance(pem, str):
        return "Vault allowed it"
    try:
        judge(pem, request.own)
    except CertificateUnreadable:
        return "Vault signed it in another form than a node takes"
    except CertificateRefused as error:
        if request.held_by == "check" or _narrower(pem, request.own, judge):
            return ""
        return f"Vault signed what is not the node's: {error.reason}"
    return ""


def refused(request: Forbidden, status: int) -> bool:
    """Whether a status is Vault's refusal of this request, and not of some mistake in it.

    Where the policy lets nothing pass it is 403, before Vault looks at the request; at the node's own roles also 400.
    """
    return status == 403 or (status == 400 and request.own is not None)


def _narrower(pem: str, own: Certificate, judge: Judge) -> bool:
    """Whether a certificate says less than the node's own, and nothing else: names that are none are dropped."""
    from vaultpki import x509

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
    """The throwaway node at work; each call gives the check it amounts to."""

    name: str
    node: Vault
    judge: Judge

    def allowed(self, request: Allowed) -> Check:
        """The positive control: where the node's own certificates are not signed, a refusal proves nothing."""
        refusal = ""
        try:
            answer = self.node.write(request.path, request.body, once=True)
            self.judge(str((answer.get("data") or {}).get("certificate")), request.certificate)
        except (Denied, Refused, BadAnswer, CertificateRefused) as error:
            refusal = str(error)
        return tried(f"its own {request.certificate.name}", "vault", self.name, request.path, refusal=refusal)

    def forbidden(self, request: Forbidden) -> Check:
        try:
            # Any warning will do: what counts is what was answered.
            wrap_ttl = request.wrap_ttl or None
            answer = self.node.call(
                Request(request.method, request.path, request.body, once=True, warnings=("",), wrap_ttl=wrap_ttl)
            )
        except Denied:
            return self._told(request, "")
        except Refused as error:
            if refused(request, error.status) or _NOT_IN_A_NAMESPACE.intersection(error.reasons):
                return self._told(request, "")
            return self._told(request, f"its policy let it pass (HTTP {error.status})")
        except BadAnswer:
            return self._told(request, "Vault allowed it")
        except Unavailable as error:
            if not error.sent:
                raise
            # Where the server is away this raises again; else it failed over this request, behind the policy.
            self.node.call(Request("GET", "sys/leader"))
            return self._told(request, "its policy let it pass, and Vault failed over it")
        data = answer.body.get("data")
        return self._told(request, hole(request, data if isinstance(data, dict) else {}, self.judge))

    def by_capabilities(self, requests: Sequence[Forbidden], granted: Mapping[str, frozenset[str]]) -> list[Check]:
        checks = []
        for request in requests:
            may = granted[request.path] & (_NEEDS[request.method] | {"root"})
            checks.append(self._told(request, f"its token may {', '.join(sorted(may))} there" if may else ""))
        return checks

    def _told(self, request: Forbidden, found: str) -> Check:
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
    """What of a request makes it forbidden, for a person to repeat it; a certificate request is left out."""
    body = {name: value for name, value in (request.body or {}).items() if name not in ("csr", "format")}
    wrapped = f", to be wrapped for {request.wrap_ttl}" if request.wrap_ttl else ""
    return f"; sent {body!r}{wrapped}" if body or wrapped else ""


def _pool(cluster: Cluster) -> Pool:
    pool = next((pool for pool in cluster.pools if not pool.jwt), None)
    if pool is None:
        raise SpecError(
            "`verify --vault` asks as a throwaway node of a pool whose nodes log in by AppRole, and there is none; add "
            "one to `pools` and apply",
            file=cluster.file,
        )
    return pool


def _capabilities(vault: Vault, token: str, paths: Sequence[str]) -> dict[str, frozenset[str]]:
    """What a token may do at each path: a node's own token may not ask that of itself."""
    granted: dict[str, frozenset[str]] = {}
    for some in _in_parts(list(dict.fromkeys(paths))):
        said = vault.write("sys/capabilities", {"paths": some, "token": token}).get("data") or {}
        for path in some:
            may = said.get(path)
            if not isinstance(may, list):
                raise BadAnswer(f"sys/capabilities says nothing of {path}; is this address really a Vault?")
            granted[path] = frozenset(map(str, may)) - {"deny"}
    return granted


def _in_parts(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _PATHS_AT_ONCE):
        yield items[start : start + _PATHS_AT_ONCE]


def _take_away(cluster: Cluster, vault: Vault, role: str, role_id: str) -> None:
    vault.call(Request("DELETE", role))
    accessor = str(((vault.read("sys/auth") or {}).get(f"{cluster.prefix}/pooled/") or {}).get("accessor"))
    # Nobody else had its secret id, so no login of it can be under way.
    live_credentials.end_entities(vault, accessor, [role_id], wait=0)
