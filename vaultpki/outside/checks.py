"""Checks an issuing CA that an outside root signed, and everything above it: an ordered list, each with a named reason.

OpenBao and Vault import nearly everything without a word, and fail or break clients later. So each check stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from vaultpki.outside.name_constraints import constraints_of, forbidden
from vaultpki.outside.request import WaitingRequest
from vaultpki.pki.facts import EKU, Facts
from vaultpki.pki.trust import SANE_SIGNATURES
from vaultpki.pki.ways_up import MOST_ABOVE, Ends, WayUp, ca_key, pss_problem, self_signed, signer_serial, wants_policy
from vaultpki.redact import first_few, printable
from vaultpki.values import der

# Object identifiers of extensions (RFC 5280, section 4.2.1).
_KEY_USAGE: Final = "2.5.29.15"
_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_NAME_CONSTRAINTS: Final = "2.5.29.30"
_CRL_POINTS: Final = "2.5.29.31"
_POLICIES: Final = "2.5.29.32"
_POLICY_MAPPINGS: Final = "2.5.29.33"
_POLICY_CONSTRAINTS: Final = "2.5.29.36"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_INHIBIT_ANY_POLICY: Final = "2.5.29.54"

_ANY_USE: Final = "2.5.29.37.0"

# What both Go (crypto/x509, processExtensions) and OpenSSL (X509_supported_extension) know. Go refuses critical key
# identifiers and a critical authority information access.
_KNOWN_ABOVE: Final = frozenset(
    {
        *(_KEY_USAGE, _SUBJECT_ALTERNATIVE_NAME, _BASIC_CONSTRAINTS, _NAME_CONSTRAINTS, _CRL_POINTS, _POLICIES),
        *(_POLICY_MAPPINGS, _POLICY_CONSTRAINTS, _EXTENDED_KEY_USAGE, _INHIBIT_ANY_POLICY),
    }
)
# Nodes trust no issuing CA with another one (`trust.no_signer`).
_KNOWN_OWN: Final = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE})

_WEAK: Final = frozenset({"md5", "sha1", "sha224"})

_UNFIT: Final = "Ask the signer for the profile of a subordinate CA with {} (`vaultpki ca csr` writes the whole of it)."
_ABOVE: Final = "Ask the signer for a CA that may have issuing CAs below it: {}."

_VERSION_3: Final = "Ask for certificates of version 3 with a positive serial number."
_SUBJECT: Final = "Ask the signer to take the subject from the request {}."
_LATER: Final = "Wait until then, or ask the signer for a certificate that begins 10 minutes before it is signed."
_HASHES: Final = "Ask the signer for a chain that is signed with SHA-256, SHA-384, SHA-512 or Ed25519 below its root."

ASKS: Final = {
    "version-1": _VERSION_3,
    "serial-number": _VERSION_3,
    "name-encoded": "Ask for certificates that have this name as a UTF8String.",
    "not-a-ca": _UNFIT.format("basic constraints CA:TRUE and path length 0"),
    "another-key": "Ask the signer to sign the request that waits: an older one was signed, or files were mixed up.",
    "subject-encoded": _SUBJECT.format("byte for byte, without encoding it again"),
    "subject-differs": _SUBJECT.format("as it is, without adding or leaving out anything"),
    "expired": "Ask the signer to sign the request again.",
    "not-yet-valid": _LATER,
    "too-young": _LATER,
    "path-length": _UNFIT.format("path length 0"),
    "no-cert-sign": _UNFIT.format("the key usage certificate sign and CRL sign"),
    "no-crl-sign": _UNFIT.format("the key usage CRL sign"),
    "not-critical": _UNFIT.format("critical basic constraints"),
    "no-subject-key-id": _UNFIT.format("a subject key identifier"),
    "no-authority-key-id": _UNFIT.format("an authority key identifier that has a key identifier"),
    "extended-key-usage": _UNFIT.format("no extended key usage"),
    "own-constraints": _UNFIT.format("no name constraints of its own"),
    "critical-extension": _UNFIT.format("no critical extension but basic constraints and key usage"),
    "wants-policy": _UNFIT.format("no policy constraints, in no CA of its chain"),
    "rsa-too-short": "Ask the signer for a chain whose RSA keys all have at least 2048 bits.",
    "key-kind": "Ask the signer for a chain whose keys are RSA, EC P-256, P-384 or P-521, or Ed25519.",
    "key-encoded": "Ask the signer for a chain whose keys are in the usual encoding (RFC 3279, RFC 5480).",
    "weak-signature": _HASHES,
    "signature-kind": _HASHES,
    "pss-parameters": "Ask the signer for PKCS #1 v1.5, or for PSS with MGF1 of the same hash and as long a salt.",
    "chain-incomplete": "Ask the signer for the certificates of all CAs above this one, up to the self-signed root.",
    "signature-wrong": "Ask the signer for the certificate of the CA that signed; there are two of that name.",
    "issuer-encoded": "Ask the signer for the certificate of that CA that has its subject in the same encoding.",
    "chain-too-long": "Ask the signer for a CA that is nearer to the root.",
    "wrong-anchor": "Ask the signer to sign below the root in ca.root_file, or correct that before nodes trust it.",
    "root-missing": "Ask the signer for the self-signed root, and add it to ca.root_file: OpenSSL and Node need it.",
    "not-in-root-file": "Add that certificate to the file, and run this again.",
    "authority-key-id": "Ask the signer for an authority key identifier of its own key, without a serial number.",
    "above-not-a-ca": _ABOVE.format("one with basic constraints CA:TRUE"),
    "above-expired": "Ask the signer to sign below a CA that is valid, or for the renewed certificate of that one.",
    "above-not-yet-valid": "Wait until then, or ask the signer to sign below a CA that is valid already.",
    "above-path-length": _ABOVE.format("its path length counts every CA below it, or is absent"),
    "above-extended-key-usage": _ABOVE.format(
        "its extended key usage is absent, or has server and client authentication"
    ),
    "above-no-cert-sign": _ABOVE.format("its key usage has certificate sign"),
    "above-critical-extension": _ABOVE.format("it has no critical extension that Go and OpenSSL do not know"),
    "above-constraints-kind": _ABOVE.format("its name constraints are DNS names and addresses only, or absent"),
    "above-constraints": "Ask the signer for a CA without name constraints, or for one that permits these names.",
    "outlives-signer": "Ask the signer for a certificate that ends before its chain, or to renew the CAs above first.",
    "too-short": "Ask the signer for a longer life, or write a shorter ttl for the certificates in cluster.yaml.",
}
"""What to ask the signer for, by the reason of each check, in the order of the checks."""


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check that failed: its named reason, its sentence, and what to ask the signer for.

    If it is `above`, the sentence is about a CA above and says nothing of the certificate that is below.
    """

    reason: str
    sentence: str
    above: bool = False

    @property
    def ask(self) -> str:
        """What to ask the signer for, as a sentence."""
        return ASKS[self.reason]


@dataclass(frozen=True, slots=True)
class SignedCa:
    """An issuing CA with one way up from it, and the request that it answers.

    If it is only `planned`, there is no certificate yet, `ca` is its signer, and `way` begins with that. `listed` are
    the certificates of `ca.root_file`, None if any CA may be above.
    """

    ca: Facts
    way: WayUp
    request: WaitingRequest
    now: datetime
    planned: bool = False
    listed: frozenset[Facts] | None = None

    @property
    def above(self) -> tuple[Facts, ...]:
        """The CAs above; one that only has the name of a signer is left out."""
        return self.way.above[:-1] if self.way.ends is Ends.NOT_SIGNED else self.way.above

    @property
    def chain(self) -> tuple[Facts, ...]:
        """The certificates that there are, from below to above."""
        return self.above if self.planned else (self.ca, *self.above)


CheckResults = Iterator[tuple[str, object, Facts | str, str]]
"""The reason, whether the check fails, whom it is about, and the rest of a sentence that begins with its name.

A CA that is not there has only its name.
"""


def failures(signed: SignedCa) -> tuple[FailedCheck, ...]:
    """Return every check that fails, in their order; none if all pass.

    What only follows from another failure is left out, so that each fault is told once.
    """
    found = []
    for group in PLANNED_CHECKS if signed.planned else ANSWER_CHECKS:
        for reason, fails, about, rest in group(signed):
            if fails:
                own = about == signed.ca and not signed.planned
                above = f"{about if isinstance(about, str) else _name(about)} above the issuing CAs"
                name = f"the certificate for {signed.request.domain}" if own else above
                found.append(FailedCheck(reason, f"{name} {rest}", not own))
    return tuple(dict.fromkeys(found))


def remarks(signed: SignedCa) -> Iterator[tuple[str, str]]:
    """Yield the reason and a sentence for everything that is no fault and that people should know."""
    request, ca = signed.request, signed.ca
    if ca.not_after < signed.now + timedelta(seconds=request.ttl) - timedelta(days=1):
        yield "shorter", f"the certificate for {request.domain} ends on {ca.not_after:%Y-%m-%d}, earlier than asked for"
    for above in signed.way.above:
        missing = [
            what
            for what, lacks in (
                ("subject key identifier", above.subject_key_id is None),
                ("authority key identifier", above.authority_key_id is None and not self_signed(above)),
                ("key usage", _KEY_USAGE not in above.extensions),
                ("critical basic constraints", _BASIC_CONSTRAINTS not in above.critical),
            )
            if lacks
        ]
        if missing:
            yield (
                "not-strict",
                f"{_name(above)} has no {first_few(missing)}: where Python since 3.13 checks the whole chain, it fails",
            )


def _readable(signed: SignedCa) -> CheckResults:
    told = set[str]()
    # Who was signed has the name of its signer too, so that is told of the signer alone.
    for each in reversed(signed.chain):
        for reason, problem in der.oddities(each.der):
            yield reason, reason != "name-encoded" or problem not in told, each, problem
            told.add(problem)


def _is_ca(signed: SignedCa) -> CheckResults:
    yield "not-a-ca", not signed.ca.is_ca and _counts(signed.ca), signed.ca, "is not for a CA"


def _key(signed: SignedCa) -> CheckResults:
    other = signed.ca.public_key != signed.request.public_key
    yield "another-key", other, signed.ca, f"is for another key than the request: {_name(signed.ca)}"


def _subject(signed: SignedCa) -> CheckResults:
    ca, request = signed.ca, signed.request
    differs = der.certificate_parts(ca.der).subject != request.subject
    same_text = printable(ca.subject_text) == request.subject_text
    words = f"has the subject {request.subject_text} in another encoding than the request, which breaks leaves in Go"
    yield "subject-encoded", differs and same_text, ca, words
    words = f"has the subject {_name(ca)}, and the request has {request.subject_text}"
    yield "subject-differs", differs and not same_text, ca, words


def _dates(signed: SignedCa) -> CheckResults:
    ca, now = signed.ca, signed.now
    begins = _time(ca.not_before)
    usable = ca.not_before + timedelta(seconds=signed.request.leaf_backdate)
    yield "expired", ca.not_after <= now, ca, f"expired at {_time(ca.not_after)}"
    words = f"is not valid before {begins}, and of use from {_time(usable)} on"
    yield "not-yet-valid", ca.not_before > now, ca, words
    words = f"begins at {begins}; leaves are backdated, so Vault signs none until {_time(usable)}"
    yield "too-young", ca.not_before <= now < usable, ca, words


def _path_length(signed: SignedCa) -> CheckResults:
    found = signed.ca.path_length
    words = "no path length" if found is None else f"path length {found} instead of 0"
    yield "path-length", found != 0 and signed.ca.is_ca, signed.ca, f"has {words}, so it could make further CAs"


def _extensions(signed: SignedCa) -> CheckResults:
    ca = signed.ca
    if not _counts(ca):
        return
    weak, signs = _BASIC_CONSTRAINTS in ca.extensions - ca.critical, "key_cert_sign" in ca.key_usage
    yield "no-cert-sign", not signs, ca, "may not sign certificates: its key usage lacks it"
    no_crl = signs and "crl_sign" not in ca.key_usage
    yield "no-crl-sign", no_crl, ca, "may not sign CRLs: its key usage lacks it"
    yield "not-critical", weak, ca, "has basic constraints that are not critical"
    yield "no-subject-key-id", ca.subject_key_id is None, ca, "has no subject key identifier, without which Vault fails"
    words = "has no authority key identifier, without which Python since 3.13 rejects it"
    yield "no-authority-key-id", ca.authority_key_id is None, ca, words


def _limits(signed: SignedCa) -> CheckResults:
    ca = signed.ca
    policies = wants_policy(ca)
    told = {_EXTENDED_KEY_USAGE, _NAME_CONSTRAINTS, *([_POLICY_CONSTRAINTS] if policies else [])}
    unknown = sorted(ca.critical - _KNOWN_OWN - told)
    yield "extended-key-usage", _EXTENDED_KEY_USAGE in ca.extensions, ca, "has an extended key usage"
    yield "own-constraints", _NAME_CONSTRAINTS in ca.extensions, ca, "has name constraints of its own"
    words = f"has critical extensions that no CA of a cluster has ({first_few(unknown)})"
    yield "critical-extension", unknown, ca, words
    yield "wants-policy", policies, ca, "demands certificate policies of everything below it"


def _keys_and_hashes(signed: SignedCa) -> CheckResults:
    for each, signer in zip(signed.chain, (*signed.chain[1:], None), strict=True):
        key = ca_key(each)
        yield key.reason or "key-kind", key.reason, each, f"has {key.problem}"
        # A root's own signature proves nothing, and nobody checks it.
        if self_signed(each):
            continue
        weak = each.signature in _WEAK
        yield "weak-signature", weak, each, f"has a weak signature ({each.signature})"
        if weak or (signer is not None and ca_key(signer).reason == "key-kind"):
            continue
        other = each.signature not in SANE_SIGNATURES
        yield "signature-kind", other, each, "has a signature of a kind that Go does not know"
        yield "pss-parameters", pss_problem(each), each, "has RSASSA-PSS parameters that Go does not know"


def _complete(signed: SignedCa) -> CheckResults:
    ends, last = signed.way.ends, signed.way.above[-1] if signed.way.above else signed.ca
    before = signed.chain[-2] if len(signed.chain) > 1 and ends is Ends.OTHER_NAME else signed.chain[-1]
    above = printable(last.issuer_text)
    yield "chain-incomplete", ends is Ends.MISSING, above, "is missing"
    words = f"names {_name(last)} as its signer, and another key signed it"
    yield "signature-wrong", ends is Ends.NOT_SIGNED, before, words
    words = f"names {_name(last)}, which signed it, in other bytes, which breaks Go"
    yield "issuer-encoded", ends is Ends.OTHER_NAME, before, words
    yield "chain-too-long", ends is Ends.TOO_LONG, last, f"has further CAs above it, more than {MOST_ABOVE} in all"
    words = "is the root of the chain, which does not lead through the certificate that ca.root_file pins"
    yield "wrong-anchor", ends is Ends.OTHER_ROOT, last, words
    yield "root-missing", ends is Ends.ABOVE_ANCHOR, above, "is missing"
    words = "is not in ca.root_file, from which nodes get the chain"
    listed = signed.listed
    for each in signed.above if listed is not None and ends is not Ends.OTHER_ROOT else ():
        yield "not-in-root-file", listed is not None and each not in listed, each, words
    for below, signer in pairwise(signed.chain):
        theirs, serial = below.authority_key_id, signer_serial(below)
        wrong = theirs and signer.subject_key_id and theirs != signer.subject_key_id
        yield "authority-key-id", wrong, below, "has the authority key identifier of another key than its signer's"
        words = "has the serial number of another certificate than its signer's in its authority key identifier"
        yield "authority-key-id", serial is not None and serial != signer.serial, below, words


def _above(signed: SignedCa) -> CheckResults:
    now = signed.now
    for below, ca in enumerate(signed.above, 1):
        yield "above-not-a-ca", not ca.is_ca and _counts(ca), ca, "is not a CA"
        yield "above-expired", ca.not_after <= now, ca, f"expired at {_time(ca.not_after)}"
        yield "above-not-yet-valid", ca.not_before > now, ca, f"is not valid before {_time(ca.not_before)}"
        length = ca.path_length
        words = f"has path length {length}, and {below} CA{'s stand' if below > 1 else ' stands'} below it"
        yield "above-path-length", length is not None and length < below, ca, words
        uses = ca.usages
        lacking = _EXTENDED_KEY_USAGE in ca.extensions and _ANY_USE not in uses and signed.request.uses - uses
        words = f"has an extended key usage that lacks {_uses(lacking)}"
        yield "above-extended-key-usage", lacking, ca, words
        may_sign = _KEY_USAGE not in ca.extensions or "key_cert_sign" in ca.key_usage
        yield "above-no-cert-sign", not may_sign, ca, "may not sign certificates: its key usage lacks it"
        unknown = sorted(ca.critical - _KNOWN_ABOVE)
        words = f"has critical extensions that not every program knows ({first_few(unknown)})"
        yield "above-critical-extension", unknown, ca, words
        yield "wants-policy", wants_policy(ca), ca, "demands certificate policies of everything below it"


def _constraints(signed: SignedCa) -> CheckResults:
    for ca in signed.above:
        constraints = constraints_of(ca)
        if constraints is None:
            continue
        unknown = [printable(kind) for kind in constraints.unknown]
        words = f"has name constraints of a kind that Go does not know ({first_few(unknown)})"
        yield "above-constraints-kind", unknown, ca, words
        names = forbidden(constraints, signed.request.names)
        words = f"has name constraints that forbid names of this cluster: {first_few(names)}"
        yield "above-constraints", names, ca, words


def _ends(signed: SignedCa) -> CheckResults:
    ca, now = signed.ca, signed.now
    # What has expired is told already.
    if ca.not_after <= now:
        return
    above = [facts for facts in signed.above if facts.not_after > now]
    first = min(above, key=lambda facts: facts.not_after, default=ca)
    words = f"ends at {_time(ca.not_after)}, after {_name(first)} above it, which ends at {_time(first.not_after)}"
    yield "outlives-signer", ca.not_after > first.not_after, ca, words
    words = f"ends at {_time(ca.not_after)}; {_for_leaves(signed)}"
    yield "too-short", ca.not_after <= _least(signed), ca, words


def _life_left(signed: SignedCa) -> CheckResults:
    first = min(signed.above, key=lambda facts: facts.not_after)
    short = signed.now < first.not_after <= _least(signed)
    yield "too-short", short, first, f"ends at {_time(first.not_after)}; {_for_leaves(signed)}"


def _least(signed: SignedCa) -> datetime:
    # As a CA that our own root signs (`ca.facts.life`): half of it is left for its successor.
    return signed.now + 2 * timedelta(seconds=signed.request.longest_ttl)


def _for_leaves(signed: SignedCa) -> str:
    life = _life(signed.request.longest_ttl)
    return f"the CA of leaves that live {life} must end after {_time(_least(signed))}"


ANSWER_CHECKS: Final[tuple[Callable[[SignedCa], CheckResults], ...]] = (
    _readable,
    _is_ca,
    _key,
    _subject,
    _dates,
    _path_length,
    _extensions,
    _limits,
    _keys_and_hashes,
    _complete,
    _above,
    _constraints,
    _ends,
)
"""The checks in their order; what a file itself may be is decided when it is read."""

PLANNED_CHECKS: Final = (_readable, _keys_and_hashes, _complete, _above, _constraints, _life_left)
"""Those that can be made before anything is signed."""


def _name(facts: Facts) -> str:
    return printable(facts.subject_text) or "a CA without a name"


def _counts(facts: Facts) -> bool:
    """Return whether its extensions count: those of a certificate that is not of version 3 do not."""
    return all(reason != "version-1" for reason, _ in der.oddities(facts.der))


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}Z"


def _life(seconds: int) -> str:
    return f"{seconds // 86400} days" if seconds >= 2 * 86400 else f"{seconds // 3600} hours"


def _uses(oids: object) -> str:
    wanted = oids if isinstance(oids, frozenset) else frozenset()
    return first_few(sorted(next((use.value for use, own in EKU.items() if own == {oid}), oid) for oid in wanted))
