"""Checks the copies of CAs inside a running cluster; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.kube.cluster import AUTHENTICATION, CLUSTER_INFO, CaCopy, Copied, LiveCluster
from vaultpki.kube.objects import ROOT_COPY, SERVING_CA
from vaultpki.live.checks import days_left, found, not_checked
from vaultpki.live.trust import Expected, certificates, readable_certificates
from vaultpki.model import Row
from vaultpki.pki.facts import Facts
from vaultpki.redact import printable
from vaultpki.verify.on_disk import Check

COPY_CHECK = "copy of a CA"

_API = "API server"
# These need not exist.
_OPTIONAL = frozenset({CLUSTER_INFO, SERVING_CA})
_DOMAINS = {Copied.CLIENTS: "kubernetes", Copied.FRONT_PROXY: "front-proxy", Copied.KUBELETS: "kubelet"}


def copy_checks(live: LiveCluster, expected: Expected, rows: Sequence[Row], now: datetime) -> Iterator[Check]:
    """Check every copy of a CA that the cluster shows, and that no namespace lacks its own."""
    for copy in live.copies:
        held = _held(copy, expected)
        if copy.copied is Copied.BUNDLE and not held:
            # Whoever reads it asks nothing of the cluster's CAs.
            continue
        refusal = "; ".join(dict.fromkeys(_problems(copy, held, expected, now)))
        yield found(COPY_CHECK, _API, copy.place, refusal=refusal, accepted=_ends(held, now))
    if ROOT_COPY not in live.unread and "namespaces" not in live.unread:
        there = {copy.place for copy in live.copies}
        for space in live.namespaces:
            place = f"{ROOT_COPY} in {space}"
            if place not in there:
                why = "is missing, so its pods do not trust the API server; look at the controller manager"
                yield found(COPY_CHECK, _API, place, refusal=why)
    names = [name for name in (ROOT_COPY, CLUSTER_INFO, AUTHENTICATION, SERVING_CA) if name not in live.unread]
    for name in names:
        if name not in _OPTIONAL | {ROOT_COPY} and not any(name in copy.place for copy in live.copies):
            yield found(COPY_CHECK, _API, name, refusal="is missing; look at the log of kube-apiserver")
    for part, why in live.unread.items():
        if not part.startswith(("kubelet of ", "static pods", "nodes")):
            yield not_checked(COPY_CHECK, _API, part, why)
    if AUTHENTICATION not in live.unread:
        place = f"requestheader-allowed-names of {AUTHENTICATION} in kube-system"
        yield found("front proxies", _API, place, refusal=_names_problem(live.allowed_names, rows))


def _names_problem(allowed: tuple[str, ...] | None, rows: Sequence[Row]) -> str:
    own = {row.common_name for row in rows if row.usage.client and row.ca == "front-proxy"}
    if not allowed:
        return "is empty, so every certificate of the front-proxy CA may speak for any user"
    if others := [name for name in allowed if name not in own]:
        return f"lets {', '.join(others)} speak for any user, and the table has no such front proxy"
    return ""


def _held(copy: CaCopy, expected: Expected) -> Sequence[Facts]:
    """Return the certificates in a copy: of a bundle for anybody only the cluster's CAs, and what has their names.

    Such a bundle may well hold every public CA, and those are not ours to judge.
    """
    if copy.copied is not Copied.BUNDLE:
        return certificates(copy.pem)
    return [
        facts
        for facts in readable_certificates(copy.pem)
        if facts in expected.roots or any(expected.named(facts, ca) for ca in (ROOT, *ISSUING_CAS))
    ]


def _ends(held: Sequence[Facts], now: datetime) -> str:
    return f"ends in {days_left(min(facts.not_after for facts in held), now)}" if held else ""


def _problems(copy: CaCopy, held: Sequence[Facts], expected: Expected, now: datetime) -> Iterator[str]:
    if copy.insecure:
        yield "says that the server is not to be checked at all"
        return
    if not copy.pem.strip():
        # A public CA may know a server outside the cluster.
        if copy.copied is not Copied.SERVER or copy.service:
            yield "holds no CA, so nobody is trusted by it"
        return
    if not held:
        yield "is not a PEM of certificates that can be read"
        return
    for facts in dict.fromkeys(held):
        if facts.not_after <= now:
            yield f"holds {_about(facts)}, which expired on {facts.not_after:%Y-%m-%d}"
        elif facts.not_before > now:
            yield f"holds {_about(facts)}, which is not valid yet"
    if copy.copied in (Copied.SERVER, Copied.BUNDLE):
        yield from _of_a_server(held, expected)
    elif copy.copied in _DOMAINS:
        yield from _of_clients(held, expected, _DOMAINS[copy.copied])
    else:
        yield from _of_the_root(held, expected, pods=copy.copied is Copied.PODS)


def _of_the_root(held: Sequence[Facts], expected: Expected, *, pods: bool) -> Iterator[str]:
    """Yield what is wrong with a copy by which the API server is recognised."""
    for facts in held:
        if facts in (*expected.roots, *expected.above) or expected.may_hold(facts, "kubernetes"):
            continue
        if why := expected.why_wrong(facts, "kubernetes"):
            yield f"holds {_about(facts)}, which is not a CA of the API server: {why}"
    if not pods and expected.of("kubernetes") and set(expected.of("kubernetes")) <= set(held):
        return
    if pods or any(facts in expected.roots for facts in held) or not expected.of("kubernetes"):
        for root in (*expected.over("kubernetes"), *expected.roots):
            if root not in held:
                yield f"lacks {_about(root)}"
        return
    yield from (f"lacks {_about(facts)}" for facts in expected.of("kubernetes") if facts not in held)


def _of_clients(held: Sequence[Facts], expected: Expected, domain: str) -> Iterator[str]:
    """Yield what is wrong with a copy that must hold the issuing CAs of one domain, and no other CA."""
    for facts in held:
        if facts in expected.roots:
            yield "holds the root CA, so certificates of every other CA are accepted"
        elif expected.may_hold(facts, domain):
            continue
        elif facts in expected.above:
            yield f"holds {_about(facts)}, which stands above the CAs of this cluster, so every CA below it is accepted"
        elif why := expected.why_wrong(facts, domain):
            yield f"holds {_about(facts)}, which is not a CA of {domain}: {why}"
    for facts in expected.of(domain):
        if facts not in held:
            yield f"lacks {_about(facts)}"


def _of_a_server(held: Sequence[Facts], expected: Expected) -> Iterator[str]:
    """Yield what is wrong with the CAs of a server of the user's own: any may be there, and ours only as it is now."""
    ours = [facts for facts in held if facts in expected.roots]
    if missing := [root for root in expected.roots if ours and root not in held]:
        yield from (f"lacks {_about(root)}" for root in missing)
    for facts in held:
        domain = next((ca for ca in (ROOT, *ISSUING_CAS) if expected.named(facts, ca)), None)
        if facts in ours or domain is None or expected.may_hold(facts, domain):
            continue
        if domain == ROOT:
            yield f"holds {_about(facts)}, which has the name of the root CA and is not it"
        elif why := expected.why_wrong(facts, domain):
            yield f"holds {_about(facts)}, which is not a CA of {domain}: {why}"
        elif not ours:
            yield from (f"lacks {_about(other)}" for other in expected.of(domain) if other not in held)


def _about(facts: Facts) -> str:
    return f"{printable(facts.subject_text[:200])} ({facts.fingerprint[:12]})"


@dataclass(frozen=True, slots=True)
class BundleWord:
    """What one node holds, by its files or its report: the SHA-256 of its issuing CAs by domain, and of its roots."""

    node: str
    source: str
    issuing: dict[str, frozenset[str]]
    roots: frozenset[str]


def bundle_checks(words: Sequence[BundleWord], expected: Expected) -> Iterator[Check]:
    """Check that the bundles of all nodes are the same, and the right ones."""
    for word in words:
        problems = []
        for domain, held in word.issuing.items():
            wanted = {facts.fingerprint for facts in expected.of(domain)}
            if wanted and held != wanted:
                problems.append(f"its bundle of {domain} {_differs(held, wanted)}")
        wanted = {facts.fingerprint for facts in expected.roots}
        if word.roots and word.roots != wanted:
            problems.append(f"its roots: it {_differs(word.roots, wanted)}")
        yield found("bundles", word.node, word.source, refusal="; ".join(problems))


def _differs(held: frozenset[str], wanted: set[str]) -> str:
    parts = [
        f"{verb} {', '.join(sorted(one[:12] for one in which))}"
        for verb, which in (("lacks", wanted - held), ("also holds", held - wanted))
        if which
    ]
    return " and ".join(parts)
