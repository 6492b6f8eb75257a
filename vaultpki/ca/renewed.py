"""Judges certificates for keys that the CAs of a cluster have already: a chain that its owner has renewed.

Leaves stay valid, since the keys and the names stay. A CA above takes the place of the one before at once. An issuing
CA is renewed by its rotation with the same key, whose gates know who reads a CA only when it starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import issuing_cas
from vaultpki.identity.outside_signer import renewal_of
from vaultpki.model import Cluster
from vaultpki.redact import printable, stamp

if TYPE_CHECKING:
    from vaultpki.ca.waiting import OutsideCas
    from vaultpki.outside.files import Sent
    from vaultpki.outside.request import WaitingRequest
    from vaultpki.outside.verdicts import AcceptedCa, IgnoredPart, Refusal
    from vaultpki.pki.facts import Facts

_OLDER_ASK: Final = "Name the newest certificate, or ask the signer to sign that CA again."
_ANCHOR_ASK: Final = (
    "Leave it out, if nobody wants another root; the certificate in ca.root_file is the one that counts."
)


@dataclass(frozen=True, slots=True)
class RenewedAbove:
    """A CA above that was renewed: its new certificate, that in `ca.root_file`, and the file that has the new one."""

    certificate: Facts
    older: Facts
    file: str


@dataclass(frozen=True, slots=True)
class AboveVerdict:
    """What is to be made of the CAs above in the files, as `outside.Verdict` has it."""

    renewed: tuple[RenewedAbove, ...] = ()
    refused: tuple[Refusal, ...] = ()
    ignored: tuple[IgnoredPart, ...] = ()


def requests(cluster: Cluster, sent: Sent, there: OutsideCas) -> Iterator[WaitingRequest]:
    """Yield a request for each issuing CA that is installed, and for whose key the files have another certificate."""
    waiting = {each.domain for each in there.waiting}
    keys = {each.facts.public_key for each in sent.certificates}
    for ca in issuing_cas(cluster):
        signing = there.signing.get(ca)
        if ca not in waiting and signing is not None and signing.public_key in keys:
            yield renewal_of(cluster, ca, signing)


def candidates(sent: Sent, others: Sequence[Facts]) -> tuple[RenewedAbove, ...]:
    """Return the certificates that may renew CAs above; `others` are those of `ca.root_file` but the anchor."""
    from vaultpki.outside.chain import is_renewal

    return tuple(
        RenewedAbove(each.facts, older, each.file)
        for each in sent.certificates
        for older in others
        if each.facts not in others and is_renewal(each.facts, older)
    )


def judge_above(
    cluster: Cluster,
    found: Sequence[RenewedAbove],
    lower: Mapping[str, Facts],
    anchor: Facts,
    others: Sequence[Facts],
    now: datetime,
) -> AboveVerdict:
    """Judge the CAs above as every CA is judged, by the issuing CAs below them; `lower` are those by domain."""
    from vaultpki.outside.checks import SignedCa, failures
    from vaultpki.outside.verdicts import IgnoredPart, Refusal
    from vaultpki.pki.ways_up import ways_up

    new = {each.certificate: each for each in found}
    pool = [*(facts for facts in others if facts not in {each.older for each in found}), *new]
    passing: set[Facts] = set()
    failing: dict[tuple[Facts, str], tuple[Refusal, ...]] = {}
    for domain, ca in lower.items() if new else ():
        request = renewal_of(cluster, domain, ca)
        for way in ways_up(ca, pool, anchor):
            failed = failures(SignedCa(ca, way, request, now))
            for facts in (facts for facts in way.above if facts in new):
                if not failed:
                    passing.add(facts)
                file = new[facts].file
                told = (Refusal(domain, file, why.reason, f"{file}: {why.sentence}", why.ask) for why in failed)
                failing.setdefault((facts, domain), tuple(told))
    refused = tuple(each for (facts, _), told in failing.items() if facts not in passing for each in told)
    unused = (each for facts, each in new.items() if facts not in {*passing, *(failed for failed, _ in failing)})
    ignored = tuple(
        IgnoredPart(
            each.file,
            "nothing-below",
            f"{each.file}: {printable(each.certificate.subject_text)} is ignored: no issuing CA is below it",
        )
        for each in unused
    )
    return AboveVerdict(tuple(each for facts, each in new.items() if facts in passing), refused, ignored)


def older(answers: Sequence[AcceptedCa], there: OutsideCas) -> Iterator[Refusal]:
    """Yield why certificates are refused that renew a CA, and were made before the one that it has."""
    from vaultpki.outside.verdicts import Refusal

    waiting = {each.domain for each in there.waiting}
    for each in answers:
        domain, ca = each.request.domain, each.certificate
        signing = there.signing.get(domain)
        if domain not in waiting and signing is not None and ca.not_before <= signing.not_before:
            sentence = (
                f"{each.file}: the certificate for {domain} begins at {stamp(ca.not_before)}, not after the one that "
                f"is installed, which begins at {stamp(signing.not_before)} and ends at {stamp(signing.not_after)}"
            )
            yield Refusal(domain, each.file, "older", sentence, _OLDER_ASK)


def of_anchor(sent: Sent, anchor: Facts) -> Iterator[Refusal]:
    """Yield why another certificate for the key of the anchor is of no use: nodes are pinned to the certificate."""
    from vaultpki.outside.verdicts import Refusal

    for each in sent.certificates:
        if each.facts.public_key == anchor.public_key and each.facts != anchor:
            sentence = (
                f"{each.file} has another certificate for the key of {printable(anchor.subject_text)}. Each node is "
                "pinned to the certificate in ca.root_file, so another one is a new root"
            )
            yield Refusal("", each.file, "anchor-renewed", sentence, _ANCHOR_ASK)
