"""Checks what a listener of a running cluster presents; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

from vaultpki.certificates import ISSUING_CAS, LEAF_BACKDATE, ca_subject, pair_files
from vaultpki.host.presented import Presented
from vaultpki.live.checks import days_left, found, not_checked
from vaultpki.live.listeners import FRONT_PROXY, Endpoint
from vaultpki.live.trust import Expected
from vaultpki.model import Certificate
from vaultpki.pki import renewal, x509
from vaultpki.pki.facts import Facts
from vaultpki.records.node_report import NodeReport
from vaultpki.verify.on_disk import Check, Holder, leaf_problems, read_bundle

# How long after a file changed a component that notices it by itself may still serve the one before: kube-apiserver
# looks once a minute at the latest (k8s.io/apiserver, dynamiccertificates/dynamic_serving_content.go).
_NOTICES: Final = timedelta(minutes=1)

# It goes on without the CA of front proxies if it starts before the API server answers, as kubeadm's does
# (kubernetes cmd/kube-scheduler/app/options/options.go, TolerateInClusterLookupFailure); no front proxy calls it.
_TOLERANT: Final = "kube-scheduler"


@dataclass(frozen=True, slots=True)
class NodeContents:
    """What lies on nodes: `files` are the certificates of each pair by node and row, `reports` the nodes' own words."""

    files: Mapping[tuple[str, str], tuple[Facts, ...]] = field(default_factory=dict)
    reports: Mapping[str, NodeReport] = field(default_factory=dict)


def read_contents(holders: Sequence[Holder], reports: Mapping[str, NodeReport]) -> NodeContents:
    """Return what these folders hold, and these reports say."""
    files = {
        (holder.name, each.name): read_bundle(holder.at(each.folder) / pair_files(each.stem)[0])
        for holder in holders
        for each in holder.certificates
        if each.usage.server
    }
    return NodeContents({key: chain for key, chain in files.items() if chain}, reports)


def served_checks(
    listener: Endpoint, shown: Presented, expected: Expected, known: NodeContents, now: datetime
) -> Iterator[Check]:
    """Check what a listener presents: its certificate, the chain, its client CAs, and whether it is what lies there."""
    if not shown.chain:
        why = f"presents no certificate that can be read ({shown.unreadable})" if shown.unreadable else "presents none"
        yield found("served certificate", listener.label, "the table", refusal=why)
        return
    leaf = shown.chain[0]
    ends = f"ends in {days_left(leaf.not_after, now)}"
    if not listener.candidates:
        # It makes its own at each start, or its owner has given it one.
        problem = f"expired on {leaf.not_after:%Y-%m-%d %H:%M}Z" if leaf.not_after <= now else _given_up(leaf, expected)
        yield found("served certificate", listener.label, "the component's own", refusal=problem, accepted=ends)
        if not problem and _signer(leaf, expected) is None and not _made_by_itself(leaf):
            why = f"{leaf.issuer_text} signed it, which is no CA of the cluster: its owner renews it"
            yield not_checked("chain", listener.label, "the cluster's CAs", why)
    else:
        each = [(node, want, list(leaf_problems(leaf, want, now))) for node, want in listener.candidates]
        node, want, problems = min(each, key=lambda one: len(one[2]))
        if not problems and _overdue(leaf, want, shown.chain[1:], now):
            problems.append(f"should have been renewed: it {ends}")
        yield found("served certificate", listener.label, "the table", refusal="; ".join(problems), accepted=ends)
        yield found("chain", listener.label, want.ca, refusal=_chain_problem(shown.chain, want, expected, now))
        yield from _pending(listener, shown.chain, node, want, known, now)
    yield found(
        "client CAs", listener.label, ", ".join(listener.cas), refusal=_client_ca_problems(listener, shown, expected)
    )


def _given_up(leaf: Facts, expected: Expected) -> str:
    """Return what is wrong with a certificate beside the table that a CA of kubeadm's signed; "" for others.

    Its CAs have these names (kubernetes cmd/kubeadm/app/phases/certs/certlist.go), and go when a cluster is taken over.
    """
    if leaf.issuer_text not in _OF_KUBEADM or _signer(leaf, expected) is not None:
        return ""
    return f"was signed by {leaf.issuer_text}, a CA of kubeadm's that is none of the cluster's: give it another one"


_OF_KUBEADM: Final = frozenset({"CN=kubernetes", "CN=etcd-ca", "CN=front-proxy-ca"})


def _signer(leaf: Facts, expected: Expected) -> Facts | None:
    """Return the CA of the cluster, or foreign one of cluster.yaml, that signed it."""
    cas = (*(each for ca in ISSUING_CAS for each in expected.of(ca)), *chain.from_iterable(expected.foreign.values()))
    return x509.issuer_of(leaf, cas)


def _made_by_itself(leaf: Facts) -> bool:
    """Return whether a component has made it at its start (client-go util/cert, GenerateSelfSignedCertKey)."""
    return "-ca@" in leaf.issuer_text or leaf.issuer_text == leaf.subject_text


def _overdue(leaf: Facts, want: Certificate, behind: Sequence[Facts], now: datetime) -> bool:
    if behind and leaf.not_after >= behind[0].not_after - timedelta(hours=1):
        # It ends with its CA, and a renewal would change nothing.
        return False
    return renewal.overdue(leaf, want.reload, now)


def _chain_problem(chain: Sequence[Facts], want: Certificate, expected: Expected, now: datetime) -> str:
    leaf, *behind = chain
    if x509.signed_by(leaf, leaf):
        return "is self-signed, so no client of this cluster accepts it; it was not issued by Vault"
    if not behind:
        signer = x509.issuer_of(leaf, expected.of(want.ca))
        known = "" if signer is not None else ", and none of the CAs signed it"
        return f"no issuing CA is served behind the certificate, so holders of the root alone refuse it{known}"
    issuer = behind[0]
    if not x509.signed_by(leaf, issuer):
        return "the CA that is served behind the certificate did not sign it"
    if why := expected.why_wrong(issuer, want.ca):
        return f"was signed by {issuer.subject_text} ({issuer.fingerprint[:12]}), which is not a CA of {want.ca}: {why}"
    if issuer.not_after <= now:
        return f"its CA expired on {issuer.not_after:%Y-%m-%d}"
    for further in behind[1:]:
        if further in expected.above:
            return f"{further.subject_text} is served too, and GnuTLS with the issuing CA alone refuses that"
        if not x509.signed_by(issuer, further) or x509.issuer_of(further, expected.roots) is None:
            return f"{further.subject_text} is served too, which no root of the cluster signed"
    return ""


def _pending(
    listener: Endpoint, chain: Sequence[Facts], node: str, want: Certificate, known: NodeContents, now: datetime
) -> Iterator[Check]:
    files, report = known.files.get((node, want.name)), known.reports.get(node)
    if files is not None:
        problem = ""
        if files[0] != chain[0]:
            problem = (
                f"serves the certificate {chain[0].serial:x}, and {files[0].serial:x} lies on disk: a reload or a "
                "restart is pending"
            )
        elif tuple(files[1:]) != tuple(chain[1:]):
            problem = "serves other CAs behind the certificate than lie on disk: a reload or a restart is pending"
        yield found("on disk", listener.label, f"files of {node}", refusal=problem)
    told = report.certificates.get(want.name) if report is not None else None
    if report is not None and told is not None and told.serial:
        target = f"report of {node}"
        leaf = chain[0]
        if int(told.serial, 16) == leaf.serial:
            behind = tuple(facts.fingerprint for facts in chain[1:])
            other = bool(told.served) and told.served != behind
            why = (
                "serves other CAs behind the certificate than the node reported: a restart is pending" if other else ""
            )
            yield found("reported", listener.label, target, refusal=why)
        elif leaf.not_before + timedelta(seconds=LEAF_BACKDATE) > report.time:
            yield not_checked("reported", listener.label, target, "it is older than the certificate that is served")
        elif told.installed is not None and now - told.installed < _NOTICES:
            yield not_checked("reported", listener.label, target, "the certificate in it has just been installed")
        else:
            why = f"serves the certificate {leaf.serial:x}, and the node reported {told.serial}: a restart is pending"
            yield found("reported", listener.label, target, refusal=why)


def _client_ca_problems(listener: Endpoint, shown: Presented, expected: Expected) -> str:
    if shown.client_cas is None:
        return "asks for no client certificate, so it cannot tell who calls"
    if not shown.client_cas:
        return "asks for client certificates and names no CA, so any public CA may do"
    own = {name: _subjects(name, expected) for name in listener.cas}
    accepted = set(shown.client_cas)
    foreign = {facts.subject_text for name in listener.cas for facts in expected.foreign.get(name, ())}
    others = sorted(accepted - foreign - {each for names in own.values() for each in names})
    problems = [_foreign_client_ca(subject, listener.cas, expected) for subject in others]
    for domain, names in own.items():
        if listener.name == _TOLERANT and domain == FRONT_PROXY and not names & accepted:
            continue
        problems += [f"does not accept clients of {name}, a CA of {domain}" for name in sorted(names - accepted)]
    return "; ".join(filter(None, problems))


def _subjects(domain: str, expected: Expected) -> set[str]:
    known = {facts.subject_text for facts in expected.of(domain)}
    return known or {f"CN={ca_subject(expected.cluster, domain)}"}


def _foreign_client_ca(subject: str, cas: Collection[str], expected: Expected) -> str:
    if any(subject == root.subject_text for root in expected.roots):
        return "accepts clients of the root CA, so of every CA of the cluster"
    for domain in ISSUING_CAS:
        name = f"CN={ca_subject(expected.cluster, domain)}"
        number = subject.removeprefix(f"{name} ")
        if subject == name or (number != subject and number.isdecimal()):
            if domain not in cas:
                return f"accepts clients of the CA {domain}, another trust domain"
            if domain not in expected.issuing:
                # A later CA of this domain; only the root is known, so it may be right.
                return ""
            return f"accepts clients of {subject}, which is not trusted any more"
    return f"accepts clients of {subject or 'a CA without a name'}, which is not a CA of the cluster"
