"""Decides which certificates of an outside signer are the issuing CAs that wait, and which are refused, and why; pure.

The entries for `ca csr`, `ca import` and `plan` are `judge` and `why_no_signer`; the time is an argument everywhere.
Reasons of files are `FILE_ASKS`, those of certificates `checks.ASKS`, each with what to ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.outside.checks import ASKS, FailedCheck, SignedCa, failures, remarks
from vaultpki.outside.files import OddCertificate, Sent, SentCertificate
from vaultpki.outside.request import WaitingRequest
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.pki.ways_up import Ends, ways_through, ways_up
from vaultpki.redact import first_few, printable

_AGAIN: Final = "Ask the signer for the certificate again, as PEM, DER or PKCS#7."
_KEPT: Final = "Tell the signer that this key left its place, delete the file, and ask for certificates alone."

FILE_ASKS: Final = {
    "too-many": "Name fewer files: those with the signed certificates and the CAs above them.",
    "too-large": "Name files with the signed certificates and the CAs above them only.",
    "unreadable": _AGAIN,
    "private-key": _KEPT,
    "no-certificate": "Name the certificate that the signer made of the request.",
    "odd-certificate": "Ask the signer for certificates with usual keys, and with each extension once.",
    "no-answer": ASKS["another-key"],
    "serial-number-twice": "Ask the signer to give each certificate a serial number of its own, and to sign again.",
}
"""What to do, by the reason for which a file is refused, or a certificate that no program of a cluster accepts."""


_ODD: Final = "has a key or an extension that cannot be read"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for which a file or a certificate is refused.

    `domain` is empty for a whole file. `reason` is the short name of the check that failed, `sentence` says what is
    wrong, and `ask` is a further sentence that says what to ask the signer for. What is wrong with a CA above has the
    same sentence for each domain.
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
    its key or name, with all that is wrong; or `unanswered`. `answers` are the accepted and the refused ones.
    """

    accepted: tuple[AcceptedCa, ...] = ()
    refused: tuple[Refusal, ...] = ()
    unanswered: tuple[str, ...] = ()
    ignored: tuple[IgnoredPart, ...] = ()
    answers: tuple[AcceptedCa, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something is accepted, and nothing is refused."""
        return bool(self.accepted) and not self.refused


@dataclass(frozen=True, slots=True)
class _Tried:
    """One certificate for one request: the best way up, and the checks that failed there."""

    sent: SentCertificate
    signed: SignedCa
    problems: tuple[FailedCheck, ...]


def judge(
    sent: Sent,
    requests: Sequence[WaitingRequest],
    anchor: Facts,
    known: Sequence[Facts],
    now: datetime,
    *,
    listed: bool = False,
) -> Verdict:
    """Return what is accepted, refused and ignored.

    `anchor` is the certificate that nodes are pinned to, `known` the further ones of `ca.root_file`, and `now` the
    server's time. With `listed` all CAs above must be among these.
    """
    only = frozenset((anchor, *known)) if listed else None
    pool = (*known, *(each.facts for each in sent.certificates))
    accepted: list[AcceptedCa] = []
    answers: list[AcceptedCa] = []
    refused = [_of_file(each.file, each.reason, each.problem) for each in sent.problems]
    unanswered: list[str] = []
    ignored = [IgnoredPart(each.file, "other-content", f"{each.file}: {each.what} is ignored") for each in sent.others]
    used = {anchor, *known}
    for request in requests:
        odd = [each for each in sent.odd if each.public_key == request.public_key]
        tried = [_try(each, request, anchor, pool, now, only) for each in _answers(sent, request)]
        used |= {facts for each in tried for facts in each.signed.chain}
        passing = [each for each in tried if not each.problems]
        if passing:
            best = max(passing, key=_preference)
            accepted.append(_accepted(best))
            answers.append(accepted[-1])
            ignored += [_other_answer(each, best) for each in tried if each is not best]
        elif tried or odd:
            best_first = sorted(tried, key=lambda each: len(each.problems))
            refused += [_refused(each, problem) for each in best_first for problem in each.problems]
            refused += [_of_odd(each, request.domain) for each in odd]
            answers += [_accepted(each) for each in tried]
        else:
            unanswered.append(request.domain)
    answered = {request.public_key for request in requests}
    ignored += [_ignored_odd(each) for each in sent.odd if each.public_key not in answered]
    ignored += [_of_no_chain(each) for each in sent.certificates if each.facts not in used]
    if not accepted and not refused:
        refused = list(_no_answer(sent, requests))
    if any(not each.domain for each in refused):
        accepted = []
    return Verdict(tuple(accepted), tuple(refused), tuple(unanswered), tuple(ignored), tuple(answers))


def same_serials(answers: Sequence[AcceptedCa], others: Iterable[Facts]) -> Iterator[Refusal]:
    """Yield a refusal for each CA whose issuer gave its serial number to another certificate too, to one of `others`.

    A CRL names a certificate by issuer and serial number alone (RFC 5280, section 4.1.2.2): one that is revoked would
    revoke the other one as well.
    """
    known = {each.fingerprint: each for each in (*others, *(one.certificate for one in answers))}
    for one in answers:
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
) -> tuple[Refusal, ...]:
    """Return all why a CA, or one above it, cannot have the requested issuing CA below it; none if it can.

    `known` are the certificates between it and the root. Only what can be known before anything is signed is checked:
    keys and hashes, the chain, and dates, path lengths, usages and name constraints above.
    """
    tried = [SignedCa(signer, way, request, now, planned=True) for way in ways_through(signer, known, anchor)]
    return tuple(Refusal(request.domain, "", each.reason, each.sentence, each.ask) for each in _best(tried)[1])


def _answers(sent: Sent, request: WaitingRequest) -> Sequence[SentCertificate]:
    """Return the certificates of a request's key; if there is none, those that have its name, which are refused."""
    mine = [each for each in sent.certificates if each.facts.public_key == request.public_key]
    names = {request.subject_text, f"CN={request.common_name}"}
    return mine or [
        each
        for each in sent.certificates
        if printable(each.facts.subject_text) in names or each.facts.subject.common_name == request.common_name != ""
    ]


def _try(
    sent: SentCertificate,
    request: WaitingRequest,
    anchor: Facts,
    pool: Sequence[Facts],
    now: datetime,
    listed: frozenset[Facts] | None,
) -> _Tried:
    ways = ways_up(sent.facts, pool, anchor)
    return _Tried(sent, *_best([SignedCa(sent.facts, way, request, now, listed=listed) for way in ways]))


def _best(tried: Sequence[SignedCa]) -> tuple[SignedCa, tuple[FailedCheck, ...]]:
    """Return the way up on which all checks pass, or that ends best, with the fewest failures, and these."""
    judged = [(signed, failures(signed)) for signed in tried]
    ends = [*Ends]
    return min(judged, key=lambda each: (bool(each[1]), ends.index(each[0].way.ends), len(each[1])))


def _preference(tried: _Tried) -> tuple[object, ...]:
    facts = tried.sent.facts
    return facts.not_after, facts.not_before, facts.fingerprint


def _accepted(tried: _Tried) -> AcceptedCa:
    signed = tried.signed
    told = tuple(sentence for _, sentence in remarks(signed))
    return AcceptedCa(signed.request, signed.ca, signed.way.above, tried.sent.file, told)


def _refused(tried: _Tried, found: FailedCheck) -> Refusal:
    file = tried.sent.file
    sentence = found.sentence if found.above else f"{file}: {found.sentence}"
    return Refusal(tried.signed.request.domain, file, found.reason, sentence, found.ask)


def _of_file(file: str, reason: str, rest: str) -> Refusal:
    return Refusal("", file, reason, f"{file} {rest}", FILE_ASKS[reason])


def _of_odd(odd: OddCertificate, domain: str) -> Refusal:
    sentence = f"{odd.file}: the certificate for {domain} {_ODD}"
    return Refusal(domain, odd.file, "odd-certificate", sentence, FILE_ASKS["odd-certificate"])


def _other_answer(tried: _Tried, best: _Tried) -> IgnoredPart:
    domain = best.signed.request.domain
    wrong = first_few([each.sentence for each in tried.problems])
    why = wrong or f"the one in {best.sent.file} ends later, or is as good"
    sentence = f"{tried.sent.file}: a further certificate for {domain} is ignored: {why}"
    return IgnoredPart(tried.sent.file, "other-answer", sentence)


def _ignored_odd(odd: OddCertificate) -> IgnoredPart:
    sentence = f"{odd.file}: {odd.subject_text or 'a certificate without a name'} is ignored: it {_ODD}"
    return IgnoredPart(odd.file, "odd-certificate", sentence)


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
