"""Judges the signer of certificate requests by what a cluster's objects show, and shows the nodes that joined with it.

Pure: the time is that of the reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.csr_roles import NODE_PREFIX, SignerFacts, token_pool_of
from vaultpki.findings import nodes
from vaultpki.findings.catalogue import Severity
from vaultpki.findings.cluster import Judgement, of_problems
from vaultpki.findings.finding import Finding, found, some
from vaultpki.findings.nodes import NodeRow, ago, life_left
from vaultpki.kube.details import NodeObject, SigningRequest
from vaultpki.redact import printable
from vaultpki.signer.requests import CLIENT, GIVEN_UP, SAID, SERVING, WAITS_LONG
from vaultpki.signer.rules import served

_STALE: Final = timedelta(minutes=1)
_OPEN: Final = timedelta(days=1)
# Of the life: a kubelet renews at nine tenths at the latest.
_LEAST_LIFE: Final = 0.08
_LONGEST: Final = 100


@dataclass(frozen=True, slots=True)
class SignerSeen:
    """What a cluster with a signer shows of it.

    `silent` is why nothing is signed now, "" if the signer may sign. `lease` is who holds its Lease, and when that was
    renewed; None without a Lease. `strangers` are the names of issued requests whose certificates no CA of the cluster
    has signed. `tokens` are ids of bootstrap tokens, with when they were made. `joined` says when the newest
    certificate of each node was signed that joined with a token, and when it ends. `nodes` is None where nobody asked
    the cluster itself. `unread` are sentences.
    """

    facts: SignerFacts
    silent: str = ""
    lease: tuple[str, datetime | None] | None = None
    requests: tuple[SigningRequest, ...] = ()
    strangers: tuple[str, ...] = ()
    tokens: tuple[tuple[str, datetime], ...] = ()
    nodes: tuple[NodeObject, ...] | None = ()
    joined: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def with_signer(judged: Judgement, seen: SignerSeen | None, file: str) -> Judgement:
    """Return the judgement with what the cluster shows of its signer, and with a row for each node that joined so."""
    if seen is None:
        return judged
    rows = [*zip(judged.nodes, judged.stored, strict=True), *((row, "") for row in joined_rows(seen, judged.now))]
    rows.sort(key=lambda pair: nodes.order(pair[0]))
    further = (*of_cluster(seen, judged.now), *of_problems(seen.unread, file)) if seen.nodes is not None else ()
    return replace(
        judged,
        nodes=tuple(row for row, _ in rows),
        stored=tuple(stored for _, stored in rows),
        cluster=(*judged.cluster, *further),
    )


def joined_rows(seen: SignerSeen | None, now: datetime) -> Iterator[NodeRow]:
    """Yield a row for each node that joined with a token: it has a live certificate, or a Node."""
    if seen is None:
        return
    there = {each.name for each in seen.nodes or ()}
    for name in sorted({*seen.joined, *there}):
        pool = token_pool_of(name, seen.facts.token_pools)
        if pool is None or name in seen.facts.nodes:
            continue
        signed, ends = seen.joined.get(name, (None, None))
        left = life_left(signed, ends, now) if signed is not None and ends is not None else None
        finding = _of_joined(left, there=seen.nodes is None or name in there)
        yield NodeRow(printable(name), pool.name, ("worker",), (finding,), first_expiry=ends, life_left=left)


def _of_joined(left: float | None, *, there: bool) -> Finding:
    if left is None:
        text = "it joined with a token, and has no live certificate: it joins anew, or its Node is left over"
        return found("expired", text, severity=Severity.WARNING, command="kubeadm token create --print-join-command")
    if there and left < _LEAST_LIFE:
        return found("overdue", "its kubelet has not renewed its certificate", command="systemctl status kubelet")
    return found("joined", "joined with a token" if there else "joined with a token, and has no Node now")


def of_cluster(seen: SignerSeen, now: datetime) -> Iterator[Finding]:
    """Yield what a person must know of the signer."""
    mine = [each for each in seen.requests if each.signer in served(seen.facts)]
    if not seen.silent:
        yield from _silent(seen, mine, now)
    yield from _refusals(mine)
    if asked := [each for each in mine if each.signer == SERVING and each.state == "pending" and _waits(each, now)]:
        yield _unapproved(asked, approves=seen.facts.signer.approve_serving)
    for name in sorted(seen.strangers):
        text = f"the certificate of the request {name} is of no CA of this cluster: another signer answers too"
        yield found("signer-stranger", text, command=f"kubectl get csr {name} -o yaml")
    for token, made in sorted(seen.tokens):
        if now - made > _OPEN:
            text = f"the bootstrap token {token} was made {ago(now - made)}"
            yield found("token-open", text, command=f"kubeadm token delete {token}")


def _silent(seen: SignerSeen, mine: Iterable[SigningRequest], now: datetime) -> Iterator[Finding]:
    holder, renewed = seen.lease or ("", None)
    if seen.lease is None:
        if not seen.unread:
            yield found("signer-silent", "there is no Lease vaultpki-signer in kube-system: signer.yaml is not applied")
        return
    if not holder or renewed is None or now - renewed > _STALE:
        last = f"; {printable(holder)} renewed it {ago(now - renewed)}" if holder and renewed else ""
        yield found("signer-silent", f"no signer holds the Lease vaultpki-signer{last}")
        return
    if held := [each.name for each in mine if each.state == "approved" and _waits(each, now)]:
        yield found("signer-silent", f"approved and not signed, though {printable(holder)} leads: {some(sorted(held))}")


def _refusals(mine: Iterable[SigningRequest]) -> Iterator[Finding]:
    """Yield one finding for each reason and requester: Kubernetes removes a refused request after an hour."""
    refused = [each for each in mine if each.state == "failed" and each.message.startswith(SAID)]
    counted = Counter((each.user[:_LONGEST], each.message.removeprefix(SAID)) for each in refused)
    last = {(each.user[:_LONGEST], each.message.removeprefix(SAID)): each.name for each in refused}
    for (user, why), count in sorted(counted.items()):
        often = f"{count} requests" if count > 1 else "a request"
        command = f"kubectl describe csr {last[user, why]}"
        yield found("signer-refuses", f"{often} of {printable(user)} refused: {printable(why)}", command=command)


def _unapproved(asked: Iterable[SigningRequest], *, approves: bool) -> Finding:
    by_user = {each.user: each.name for each in asked}
    names = some(sorted(printable(user.removeprefix(NODE_PREFIX)) for user in by_user))
    if approves:
        # A rule does not pass, or nobody signs.
        text = f"the signer has not approved the serving certificates of {names}"
        return found("serving-unapproved", text, command="vaultpki signer --dry-run")
    command = f"kubectl certificate approve {' '.join(sorted(by_user.values())[:20])}"
    return found("serving-unapproved", f"serving certificates wait for approval: {names}", command=command)


def _waits(each: SigningRequest, now: datetime) -> bool:
    """Return whether a request has waited for too long, and its owner still waits."""
    age = now - each.made if each.made is not None else timedelta()
    return age > WAITS_LONG and (each.signer == CLIENT or age < GIVEN_UP)
