"""Decides which certificates of an outside signer are the issuing CAs that wait, and which are refused, and why; pure.

The entries for `ca csr`, `ca import` and `plan`; the time is an argument everywhere:

- `files.read_sent(files: Sequence[SentFile]) -> Sent` reads PEM, DER and PKCS#7 and raises nothing.
  `SentFile(name: str, data: bytes)`. `Sent.certificates: tuple[SentCertificate(facts, file), ...]`, `.odd`, `.others`,
  `.problems`, `.pem` (clean PEM), `.adding(certificates: Sequence[Facts], source: str) -> Sent`.
- `request.waiting_request(domain, csr, *, ttl, longest_ttl, names=NO_NAMES) -> WaitingRequest` reads a CSR in
  PEM; CertificateUnreadable. `installed_request(domain, ca: Facts, names=NO_NAMES) -> WaitingRequest` stands for an
  issuing CA that is installed, when only the CAs above it are renewed.
- `judge(sent, requests: Sequence[WaitingRequest], anchor: Facts, known: Sequence[Facts], now: datetime)
  -> Verdict`, where `known` are the further certificates of `ca.root_file`. `Verdict.accepted:
  tuple[AcceptedCa(request, certificate, chain, file, remarks), ...]`, `.refused: tuple[Refusal(domain, file, reason,
  sentence, ask), ...]`, `.unanswered: tuple[str, ...]`, `.ignored: tuple[IgnoredPart(file, reason, sentence), ...]`,
  `.ok: bool`.
- `request.terms(request, stem: str) -> SignerTerms(sentence, openssl, form)` is what the signer must grant.
- `name_constraints.cluster_names(cluster, ca: str | None = None) -> LeafNames(dns, patterns, ips)`,
  `constraints_of(facts) -> NameConstraints | None`, `forbidden(constraints, names) -> tuple[str, ...]`.
- `why_no_signer(signer, known, anchor, request, now) -> Refusal | None` says before anything is sent why the
  CAs above cannot have this issuing CA below them.

Reasons of files are `FILE_ASKS`, those of certificates `checks.ASKS`, each with what to ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.outside.checks import ASKS, FailedCheck, SignedCa, first_failure, remarks
from vaultpki.outside.files import OddCertificate, Sent, SentCertificate
from vaultpki.outside.request import WaitingRequest
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.pki.ways_up import ways_through, ways_up
from vaultpki.redact import first_few, printable

_AGAIN: Final = "Ask the signer for the certificate again, as PEM, DER or PKCS#7."
_KEPT: Final = "Tell the signer that this key left its place, delete the file, and ask for certificates alone."
_VERSION_3: Final = "Ask the signer for certificates of version 3 with a positive serial number and known extensions."

FILE_ASKS: Final = {
    "too-many": "Name fewer files: those with the signed certificates and the CAs above them.",
    "too-large": "Name files with the signed certificates and the CAs above them only.",
    "unreadable": _AGAIN,
    "private-key": _KEPT,
    "no-certificate": "Name the certificate that the signer made of the request.",
    "version-1": _VERSION_3,
    "serial-number": _VERSION_3,
    "odd-certificate": _VERSION_3,
    "no-answer": ASKS["another-key"],
    "serial-number-twice": "Ask the signer to give each certificate a serial number of its own, and to sign again.",
}
"""What to do, by the reason for which a file is refused, or a certificate that no program of a cluster accepts."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file or a certificate is refused.

    `domain` is empty for a whole file. `reason` is the short name of the check that failed, `sentence` says what is
    wrong, and `ask` is a further sentence that says what to ask the signer for.
    """

    domain: str
    file: str
    reason: str
    sentence: str
    ask: str


@dataclass(frozen=True, slots=True)
class IgnoredPart:
    """A certificate, or other content of a file, that is not used, and why. A warning, no fault."""

    file: str
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class AcceptedCa:
    """An issuing CA that passed every check.

    `chain` are the CAs above it, its signer first and the self-signed root last; the anchor is one of them. `remarks`
    are sentences of what people should know. `certificate.pem` is what the server is given, alone.
    """

    request: WaitingRequest
    certificate: Facts
    chain: tuple[Facts, ...]
    file: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be made of all files together.

    If a file is refused, nothing is accepted. A domain is either accepted, once; or refused, for each certificate of
    its key or name; or `unanswered`.
    """

    accepted: tuple[AcceptedCa, ...] = ()
    refused: tuple[Refusal, ...] = ()
    unanswered: tuple[str, ...] = ()
    ignored: tuple[IgnoredPart, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something is accepted, and nothing is refused."""
        return bool(self.accepted) and not self.refused


@dataclass(frozen=True, slots=True)
class _Tried:
    """One certificate for one request: the way up that got furthest, and the check that it failed there."""

    sent: SentCertificate
    signed: SignedCa
    passed: int
    problem: FailedCheck | None


def judge(
    sent: Sent, requests: Sequence[WaitingRequest], anchor: Facts, known: Sequence[Facts], now: datetime
) -> Verdict:
    """Return what is accepted, refused and ignored.

    `anchor` is the certificate that nodes are pinned to, `known` the further ones of `ca.root_file`, and `now` the
    server's time.
    """
    pool = (*known, *(each.facts for each in sent.certificates))
    accepted: list[AcceptedCa] = []
    refused = [_of_file(each.file, each.reason, each.problem) for each in sent.problems]
    unanswered: list[str] = []
    ignored = [IgnoredPart(each.file, "other-content", f"{each.file}: {each.what} is ignored") for each in sent.others]
    used = {anchor, *known}
    for request in requests:
        odd = [each for each in sent.odd if each.public_key == request.public_key]
        tried = [_try(each, request, anchor, pool, now) for each in _answers(sent, request)]
        used |= {facts for each in tried for facts in each.signed.chain}
        passing = [each for each in tried if each.problem is None]
        if passing:
            best = max(passing, key=_preference)
            accepted.append(_accepted(best))
            ignored += [_other_answer(each, best) for each in tried if each is not best]
        elif tried or odd:
            furthest = sorted(tried, key=lambda each: -each.passed)
            refused += [_refused(each, each.problem) for each in furthest if each.problem]
            refused += [_of_odd(each, request.domain) for each in odd]
        else:
            unanswered.append(request.domain)
    answered = {request.public_key for request in requests}
    ignored += [_ignored_odd(each) for each in sent.odd if each.public_key not in answered]
    ignored += [_of_no_chain(each) for each in sent.certificates if each.facts not in used]
    if not accepted and not refused:
        refused = list(_no_answer(sent, requests))
    if any(not each.domain for each in refused):
        accepted = []
    return Verdict(tuple(accepted), tuple(refused), tuple(unanswered), tuple(ignored))


def same_serials(accepted: Sequence[AcceptedCa], others: Iterable[Facts]) -> Iterator[Refusal]:
    """Yield a refusal for each CA whose issuer gave its serial number to another certificate too, to one of `others`.

    A CRL names a certificate by issuer and serial number alone (RFC 5280, section 4.1.2.2): one that is revoked would
    revoke the other one as well.
    """
    known = {each.fingerprint: each for each in (*others, *(one.certificate for one in accepted))}
    for one in accepted:
        own = one.certificate
        twins = [
            printable(each.subject_text)
            for fingerprint, each in known.items()
            if fingerprint != own.fingerprint and (each.issuer_text, each.serial) == (own.issuer_text, own.serial)
        ]
        if twins:
            reason, domain = "serial-number-twice", one.request.domain
            sentence = (
                f"{one.file}: the certificate for {domain} has the serial number {serial_text(own.serial)}, which "
            )
            sentence += f"{printable(own.issuer_text)} has given to {first_few(twins)} too"
            yield Refusal(domain, one.file, reason, sentence, FILE_ASKS[reason])


def why_no_signer(
    signer: Facts, known: Sequence[Facts], anchor: Facts, request: WaitingRequest, now: datetime
) -> Refusal | None:
    """Return why a CA, or one above it, cannot have the requested issuing CA below it; None if nothing is in the way.

    `known` are the certificates between it and the root. Only what can be known before anything is signed is checked:
    keys and hashes, the chain, and dates, path lengths, usages and name constraints above.
    """
    failed = []
    for way in ways_through(signer, known, anchor):
        found = first_failure(SignedCa(signer, way, request, now, planned=True))
        if found is None:
            return None
        failed.append(found)
    _, first = max(failed, key=lambda each: each[0])
    return Refusal(request.domain, "", first.reason, first.sentence, first.ask)


def _answers(sent: Sent, request: WaitingRequest) -> Sequence[SentCertificate]:
    """Return the certificates of a request's key; if there is none, those that have its name, which are refused."""
    mine = [each for each in sent.certificates if each.facts.public_key == request.public_key]
    names = {request.subject_text, f"CN={request.common_name}"}
    return mine or [
        each
        for each in sent.certificates
        if printable(each.facts.subject_text) in names or each.facts.subject.common_name == request.common_name != ""
    ]


def _try(sent: SentCertificate, request: WaitingRequest, anchor: Facts, pool: Sequence[Facts], now: datetime) -> _Tried:
    tried = []
    for way in ways_up(sent.facts, pool, anchor):
        signed = SignedCa(sent.facts, way, request, now)
        failed = first_failure(signed)
        if failed is None:
            return _Tried(sent, signed, 0, None)
        tried.append(_Tried(sent, signed, *failed))
    # The first of those that got furthest: ways that end better come first.
    return max(tried, key=lambda each: each.passed)


def _preference(tried: _Tried) -> tuple[object, ...]:
    facts = tried.sent.facts
    return facts.not_after, facts.not_before, facts.fingerprint


def _accepted(tried: _Tried) -> AcceptedCa:
    signed = tried.signed
    told = tuple(sentence for _, sentence in remarks(signed))
    return AcceptedCa(signed.request, signed.ca, signed.way.above, tried.sent.file, told)


def _refused(tried: _Tried, found: FailedCheck) -> Refusal:
    file = tried.sent.file
    return Refusal(tried.signed.request.domain, file, found.reason, f"{file}: {found.sentence}", found.ask)


def _of_file(file: str, reason: str, rest: str) -> Refusal:
    return Refusal("", file, reason, f"{file} {rest}", FILE_ASKS[reason])


def _of_odd(odd: OddCertificate, domain: str) -> Refusal:
    sentence = f"{odd.file}: the certificate for {domain} {odd.problem}"
    return Refusal(domain, odd.file, odd.reason, sentence, FILE_ASKS[odd.reason])


def _other_answer(tried: _Tried, best: _Tried) -> IgnoredPart:
    domain = best.signed.request.domain
    why = tried.problem.sentence if tried.problem else f"the one in {best.sent.file} ends later, or is as good"
    sentence = f"{tried.sent.file}: a further certificate for {domain} is ignored: {why}"
    return IgnoredPart(tried.sent.file, "other-answer", sentence)


def _ignored_odd(odd: OddCertificate) -> IgnoredPart:
    sentence = f"{odd.file}: {odd.subject_text or 'a certificate without a name'} is ignored: it {odd.problem}"
    return IgnoredPart(odd.file, odd.reason, sentence)


def _of_no_chain(sent: SentCertificate) -> IgnoredPart:
    subject = printable(sent.facts.subject_text) or "a certificate without a name"
    return IgnoredPart(
        sent.file, "stranger", f"{sent.file}: {subject} is ignored: it belongs to no chain of this cluster"
    )


def _no_answer(sent: Sent, requests: Sequence[WaitingRequest]) -> Iterator[Refusal]:
    waiting = first_few([request.domain for request in requests])
    why = f"has no certificate of a waiting request ({waiting})" if requests else "is not needed: no request waits"
    files = [*(each.file for each in sent.certificates), *(each.file for each in sent.odd)]
    for file in dict.fromkeys(files):
        yield _of_file(file, "no-answer", why)
