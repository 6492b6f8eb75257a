"""Has an issuer on another mount of the same server sign issuing CAs: through one path, by what it shows to everybody.

Nothing else on that mount is read or changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from vaultpki.certificates import ISSUING_BACKDATE, MOST_ISSUERS, ROOT, all_rows, ca_subject, issuing_cas
from vaultpki.errors import BadAnswer, CertificateUnreadable, Denied, ForeignObject, Refused, SpecError, StateConflict
from vaultpki.identity.token_rights import missing_right
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.pki.trust import named, self_signed
from vaultpki.records.server_facts import Fields
from vaultpki.redact import first_few, printable, stamp
from vaultpki.vault import Request, Vault, shown_certificate, shown_request, text

if TYPE_CHECKING:
    from vaultpki.outside.request import WaitingRequest
    from vaultpki.outside.verdicts import Refusal
    from vaultpki.pki.facts import Facts

# Of what signers' mounts warn: that they have no URLs of their own, and that issuing CAs can make no further CAs.
_INTENDED: Final = (
    "authority information access",
    "AIA configuration",
    "Max path length of the signed certificate is zero",
)
# Seconds that a CA ends before its chain: beyond it OpenBao signs with a warning, and Vault cuts the life with one.
_BEFORE_SIGNER: Final = 3600


def signing_path(outside: OutsideRoot) -> str:
    """Return the one path of the signer's mount that is written to; `root/sign-intermediate` ignores the issuer."""
    return f"{outside.mount}/issuer/{outside.issuer}/sign-intermediate"


def parameters(cluster: Cluster, common_name: str) -> dict[str, str]:
    """Return what every request to that path has besides the CSR and the life.

    All are texts: both servers compare nothing else in a policy's `allowed_parameters` in the same way.
    """
    return {
        "common_name": common_name,
        "exclude_cn_from_sans": "true",
        "max_path_length": "0",
        "not_before_duration": f"{ISSUING_BACKDATE}s",
        "use_csr_values": "false",
        "format": "pem",
        **{name: ",".join(values) for name, values in cluster.authority.subject.items()},
    }


def rule(cluster: Cluster) -> Fields:
    """Return the path of the signer, with the only parameters and values that it may be sent; none for other roots."""
    outside = cluster.authority.outside
    if outside is None or outside.by_people:
        return {}
    names = [ca_subject(cluster.name, ca) for ca in issuing_cas(cluster)]
    literal = {name: [value] for name, value in parameters(cluster, "").items()}
    # A later key has its number behind the name, so this ends with the only glob that a policy knows.
    literal["common_name"] = [each for name in names for each in (name, f"{name} *")]
    return {
        signing_path(outside): {
            "capabilities": ["update"],
            "allowed_parameters": {"csr": [], "ttl": [], **literal},
            # Vault allows an empty text for every value, and takes it for one that was not sent.
            "denied_parameters": {name: [""] for name in literal},
            "required_parameters": sorted(literal),
        }
    }


def complete(cluster: Cluster, vault: Vault) -> Cluster:
    """Return the cluster with the chain that the signer shows, if cluster.yaml has no `root_file`.

    Of a signer that is gone it is the chain on the root's mount, where `apply` put it: only signing needs the signer.
    Raises SpecError if it is missing and nothing is there, or if the chain has no root.
    """
    outside = cluster.authority.outside
    if outside is None or outside.by_people or outside.anchor:
        return cluster
    try:
        chain = _shown(cluster, vault, outside)
    except (SpecError, Denied, Refused):
        if not (chain := _installed(cluster, vault)):
            raise
    authority = cluster.authority
    pin = [each for each in (authority.root_sha256, *authority.other_roots) if each]
    anchors = [facts for facts in chain if (facts.fingerprint in pin if pin else self_signed(facts))]
    if len(anchors) != 1:
        why = "no certificate of that SHA-256" if pin else f"{len(anchors)} certificates that signed themselves"
        raise SpecError(
            f"{outside.mount}/issuer/{outside.issuer} shows {why}, so the root is unknown: write root_file, which "
            "names a PEM file with the root and all CAs between",
            file=cluster.file,
            field="ca.root_sha256" if pin else "ca.root",
        )
    others = tuple(facts.pem for facts in chain if facts != anchors[0])
    known = replace(outside, anchor=anchors[0].pem, others=others)
    pins = anchors[0].fingerprint, tuple(each for each in pin if each != anchors[0].fingerprint)
    return replace(cluster, authority=replace(authority, outside=known, root_sha256=pins[0], other_roots=pins[1]))


def _installed(cluster: Cluster, vault: Vault) -> tuple[Facts, ...]:
    """Return the certificates from outside on the root's mount, as it shows them to everybody."""
    from vaultpki.pki import x509

    mount = cluster.mount(ROOT)
    listed = vault.api.secrets.pki.list_issuers(mount_point=mount).keys[:MOST_ISSUERS]
    answers = vault.many([shown_request(mount, id_) for id_ in listed])
    found = [
        facts for each in zip(listed, answers, strict=True) for facts in x509.readable(shown_certificate(mount, *each))
    ]
    return tuple(facts for facts in found if not named(facts, ca_subject(cluster.name, ROOT)))


def refuse_missing(cluster: Cluster, vault: Vault) -> None:
    """Raise SpecError or ForeignObject if an issuer on another mount is to sign and is not what cluster.yaml names."""
    outside = cluster.authority.outside
    if outside is not None and not outside.by_people:
        _signer(cluster, vault, outside)


def request_of(cluster: Cluster, domain: str, csr: str) -> WaitingRequest:
    """Read a signing request in PEM as that of an issuing CA of this cluster."""
    from vaultpki.outside.name_constraints import cluster_names
    from vaultpki.outside.request import waiting_request

    ttl, names = cluster.authority.issuing_ttl, cluster_names(cluster, domain)
    return waiting_request(domain, csr, ttl=ttl, longest_ttl=_longest_ttl(cluster, domain), names=names)


def keeping_name(cluster: Cluster, ca: Facts) -> Cluster:
    """Return the cluster with the `ca.subject` that an issuing CA has, whose name a renewal with its key must keep.

    Leaves name their CA byte for byte.
    """
    from vaultpki.pki.x509 import subject_values

    return replace(cluster, authority=replace(cluster.authority, subject=subject_values(ca)))


def renewal_of(cluster: Cluster, domain: str, ca: Facts) -> WaitingRequest:
    """Return an issuing CA that is installed as a request for another certificate for its key."""
    from vaultpki.outside.name_constraints import cluster_names
    from vaultpki.outside.request import installed_request

    own = installed_request(domain, ca, cluster_names(cluster, domain))
    return replace(own, ttl=cluster.authority.issuing_ttl, longest_ttl=_longest_ttl(cluster, domain))


def chain_of(cluster: Cluster, outside: OutsideRoot) -> tuple[Facts, ...]:
    """Return the certificates of a root from outside, the anchor first; SpecError for one that is not for a CA."""
    from vaultpki.pki import x509

    try:
        found = tuple(x509.read_certificates(pem.encode())[0] for pem in outside.certificates)
    except CertificateUnreadable:
        why = "has a certificate with a key or an extension that cannot be read; ask whoever keeps that CA for another"
        raise SpecError(f"the file {why}", file=cluster.file, field="ca.root_file") from None
    if leaves := [printable(facts.subject_text) for facts in found if not facts.is_ca]:
        why = f"has {first_few(leaves)}, which is not for a CA; keep the root and the CAs between in it"
        raise SpecError(f"the file {why}", file=cluster.file, field="ca.root_file")
    return found


def refuse_our_name(cluster: Cluster) -> None:
    """Raise StateConflict for a root from outside that is called as the cluster's own: nothing tells it from ours."""
    outside = cluster.authority.outside
    if outside is None:
        return
    anchor = chain_of(cluster, outside)[0]
    # Whatever stands behind it: plans tell ours by that alone.
    if anchor.subject.common_name.startswith(ca_subject(cluster.name, ROOT)):
        raise StateConflict(
            f"the root from outside is called {printable(anchor.subject_text)}, as roots are that vaultpki makes for "
            f"{cluster.name}; it needs another name"
        )


def sign(cluster: Cluster, vault: Vault, domain: str, csr: str, common_name: str, ttl: int) -> str:
    """Have the signer sign a request, check the certificate by all rules, and return it as PEM.

    `ttl` is the life in seconds, which is cut where the chain above ends. Raises StateConflict, before anything is
    signed, if the signer cannot have such a CA below it, and BadAnswer if what it signed is not right.
    """
    from vaultpki.outside import verdicts as rules
    from vaultpki.outside.files import SentFile, read_sent

    found = cluster.authority.outside
    assert found is not None  # noqa: S101 - for mypy: whoever calls this has looked
    now, request = _now(vault), request_of(cluster, domain, csr)
    signer, anchor, others = _signer(cluster, vault, found)
    for refusal in rules.why_no_signer(signer, others, anchor, request, now):
        raise StateConflict(f"{refusal.sentence}. {refusal.ask}")
    if young := _too_young(signer, now):
        raise StateConflict(young)
    first = min((signer, anchor, *others), key=lambda facts: facts.not_after)
    life = min(ttl, int((first.not_after - now).total_seconds()) - _BEFORE_SIGNER)
    body = {**parameters(cluster, common_name), "csr": csr, "ttl": f"{life}s"}
    # hvac has no method to sign by an issuer that is not the default.
    answer = vault.call(Request("POST", signing_path(found), body, once=True, warnings=_INTENDED))
    pem = text(answer.data, "certificate")
    sent = read_sent([SentFile(signing_path(found), pem.encode())])
    verdict = rules.judge(sent, [request], anchor, (signer, *others), now)
    if not verdict.ok:
        why = first_few([each.sentence for each in verdict.refused])
        raise BadAnswer(f"what the signer made is not what was asked for, and was not installed: {why}")
    return verdict.accepted[0].certificate.pem


def problems(cluster: Cluster, vault: Vault, missing: Sequence[str]) -> Iterator[str]:
    """Yield what is in the way of signing these issuing CAs, each as a sentence; nothing is written.

    For a signer that people carry requests to, those CAs of `ca.root_file` are looked at that have none below them.
    """
    outside = cluster.authority.outside
    if outside is None or not missing:
        return
    now = _now(vault)
    if outside.by_people:
        anchor, *others = chain_of(cluster, outside)
        signers = _lowest((anchor, *others))
        refusals = [[_refusals(cluster, domain, each, others, anchor, now) for each in signers] for domain in missing]
        # One that fits is enough.
        yield from _told(refusal for each in refusals if all(each) for refusal in each[0])
        return
    try:
        signer, anchor, between = _signer(cluster, vault, outside)
    except (SpecError, ForeignObject) as error:
        yield str(error)
        return
    yield from _told(each for ca in missing for each in _refusals(cluster, ca, signer, between, anchor, now))
    if young := _too_young(signer, now):
        yield young
    first = min((signer, anchor, *between), key=lambda facts: facts.not_after)
    if first.not_after < now + timedelta(seconds=cluster.authority.issuing_ttl):
        yield (
            f"{printable(first.subject_text)} ends at {stamp(first.not_after)}, so the issuing CAs end before that, "
            "and earlier than ca.issuing_ttl asks for"
        )
    if lacking := missing_right(vault, {signing_path(outside): "update"}):
        yield (
            f"the token may not update {lacking[0]}; `vaultpki policy{cluster.file_option} applier` has that path, "
            "which whoever keeps that mount must grant"
        )


def _too_young(signer: Facts, now: datetime) -> str:
    """Return when a signer can sign a CA that is backdated, as a sentence; "" if it can now.

    Vault answers 400 for a certificate that begins before its signer; OpenBao signs it.
    """
    usable = signer.not_before + timedelta(seconds=ISSUING_BACKDATE)
    if usable <= now:
        return ""
    return (
        f"{printable(signer.subject_text)} is valid from {stamp(signer.not_before)} on, and issuing CAs begin "
        f"{ISSUING_BACKDATE // 60} minutes before they are signed: wait until {stamp(usable)}"
    )


def _told(refusals: Iterable[Refusal]) -> Iterable[str]:
    """Return each reason once, whichever of the issuing CAs it is in the way of."""
    return dict.fromkeys(f"{each.sentence}. {each.ask}" for each in refusals)


def _refusals(
    cluster: Cluster, domain: str, signer: Facts, others: Sequence[Facts], anchor: Facts, now: datetime
) -> tuple[Refusal, ...]:
    from vaultpki.outside.name_constraints import cluster_names
    from vaultpki.outside.request import WaitingRequest
    from vaultpki.outside.verdicts import why_no_signer

    name, ttl = ca_subject(cluster.name, domain), cluster.authority.issuing_ttl
    longest, names = _longest_ttl(cluster, domain), cluster_names(cluster, domain)
    planned = WaitingRequest(domain, "", b"", f"CN={name}", name, b"", ttl, longest, names)
    return why_no_signer(signer, others, anchor, planned, now)


def _lowest(chain: Sequence[Facts]) -> list[Facts]:
    from vaultpki.pki import x509

    above = [one for one in chain if any(each != one and x509.signed_by(each, one) for each in chain)]
    return [facts for facts in chain if facts not in above]


def _signer(cluster: Cluster, vault: Vault, outside: OutsideRoot) -> tuple[Facts, Facts, tuple[Facts, ...]]:
    """Return the certificate of the signer, the anchor, and the other certificates of the chain."""
    signer = _shown(cluster, vault, outside)[0]
    anchor, *others = chain_of(cluster, outside)
    if signer not in (anchor, *others):
        raise ForeignObject(
            f"{outside.mount}/issuer/{outside.issuer} is {printable(signer.subject_text)} with the SHA-256 "
            f"{signer.fingerprint}, which is not in the chain of the root that {cluster.file} names. Add it to "
            "ca.root_file if it is right"
        )
    return signer, anchor, tuple(facts for facts in others if facts != signer)


def _shown(cluster: Cluster, vault: Vault, outside: OutsideRoot) -> tuple[Facts, ...]:
    """Return the certificate of the signer and those above it, as its mount shows them to everybody."""
    from vaultpki.pki import x509

    answer = vault.call(shown_request(outside.mount, outside.issuer))
    if not answer.found:
        raise SpecError(
            f"there is no issuer {outside.issuer} at {outside.mount} on {vault.address}: write the mount and the "
            "issuer that sign",
            file=cluster.file,
            field="ca.root",
        )
    data: Mapping[str, Any] = answer.data
    if outside.issuer not in (data.get("issuer_id"), data.get("issuer_name")):
        raise BadAnswer(
            f"{outside.mount}/issuer/{outside.issuer}/json shows another issuer; check the address and any proxy in "
            "between"
        )
    above = data.get("ca_chain")
    pems = [text(answer.data, "certificate"), *(str(each) for each in (above if isinstance(above, list) else ()))]
    found = [facts for pem in pems for facts in x509.readable(pem)[:1]]
    return tuple(dict.fromkeys(found))


def _longest_ttl(cluster: Cluster, domain: str) -> int:
    return max((row.ttl or cluster.ttl for row in all_rows(cluster) if row.ca == domain), default=cluster.ttl)


def _now(vault: Vault) -> datetime:
    """Return the server's time, by the clock of its last answer."""
    return datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)
