"""Decides whether one root can vouch for another, and whether a cross certificate that people brought does so; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.outside.checks import FailedCheck
from vaultpki.pki import chains
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import SANE_SIGNATURES, no_root
from vaultpki.pki.ways_up import ca_key, key_signed, self_signed
from vaultpki.redact import printable
from vaultpki.values import der

CROSS_ASKS: Final = {
    "not-a-ca": "Ask for a certificate with basic constraints CA:TRUE and the key usage certificate sign.",
    "another-key": "Ask for one that is made of the request, or of the new root's certificate.",
    "subject-differs": "Ask for the subject of the new root byte for byte, without encoding it again or adding to it.",
    "expired": "Ask for a certificate that is valid.",
    "not-yet-valid": "Wait until then, or ask for a certificate that begins earlier.",
    "path-length": "Ask for a path length that counts every CA below the new root, or for none.",
    "subject-key-id": "Ask for the subject key identifier of the new root.",
    "unfit": "Ask for the profile that `vaultpki ca csr` writes.",
    "weak-signature": "Ask for a signature with SHA-256, SHA-384, SHA-512 or Ed25519.",
    "not-by-root": "Ask for a certificate that the root itself signs, not a CA below it.",
}
"""What to ask the old root's owner for, by the reason of each check, in the order of the checks."""


def cross_problems(cross: Facts, new: Facts, old: Facts, between: int, now: datetime) -> tuple[FailedCheck, ...]:
    """Return every check that a cross certificate fails by which `old` vouches for `new`; none if it is right.

    `between` is how many CAs stand between the new root and the issuing CAs.
    """
    return tuple(
        CrossCheck(reason, f"the cross certificate {rest}")
        for reason, fails, rest in _checks(cross, new, old, between, now)
        if fails
    )


class CrossCheck(FailedCheck):
    """A check of a cross certificate that failed."""

    @property
    def ask(self) -> str:
        """What to ask the old root's owner for, as a sentence."""
        return CROSS_ASKS[self.reason]


def depth(root: Facts, shown: Sequence[Facts]) -> int:
    """Return how many CAs of `shown` stand one below the other between a root and issuing CAs."""
    middle = chains.between(shown, (root,))
    return max((len(chains.chain_up(facts, (root,), middle)) for facts in middle), default=0)


def why_not(old: Facts, new: Facts, between: Sequence[Facts]) -> str:
    """Return why `old` cannot vouch for `new`, or nodes would not take its word, as a sentence; "" if it can.

    `between` are CAs between the new root and the issuing CAs, one below the other or side by side. The cross
    certificate has the new root's own path length, key usage and extensions.
    """
    below = depth(new, between) + 1
    mine, theirs = printable(old.subject_text), printable(new.subject_text)
    many = f"{below} CA{'s' if below > 1 else ''}"
    if not self_signed(new):
        return f"{theirs} is not self-signed, so no certificate of {mine} for it counts as its word"
    if old.path_length is not None and old.path_length < below + 1:
        return f"the root {mine} has path length {old.path_length}, and {theirs} with {many} below it would stand below"
    if new.path_length is not None and new.path_length < below:
        return f"{theirs} has path length {new.path_length}, and {many} would stand below it"
    if problem := no_root(new):
        return f"a certificate of {mine} for {theirs} would be refused by nodes: {problem}"
    return ""


def _checks(cross: Facts, new: Facts, old: Facts, between: int, now: datetime) -> Iterator[tuple[str, object, str]]:
    yield from (("unfit", True, problem) for _, problem in der.oddities(cross.der))
    is_ca = cross.is_ca and "key_cert_sign" in cross.key_usage
    yield "another-key", cross.public_key != new.public_key, f"is for another key than {printable(new.subject_text)}"
    yield "not-a-ca", not is_ca, "is not for a CA that may sign certificates"
    mine, theirs = (der.certificate_parts(each.der).subject for each in (cross, new))
    yield "subject-differs", mine != theirs, f"has another subject, or encoding, than {printable(new.subject_text)}"
    yield "expired", cross.not_after <= now, f"expired at {cross.not_after:%Y-%m-%d %H:%M}Z"
    yield "not-yet-valid", cross.not_before > now, f"is not valid before {cross.not_before:%Y-%m-%d %H:%M}Z"
    length = cross.path_length
    short = length is not None and length < between + 1
    yield "path-length", short, f"has path length {length}, and {between + 1} CAs stand below it"
    other_id = new.subject_key_id is not None and cross.subject_key_id != new.subject_key_id
    yield "subject-key-id", other_id, "has another subject key identifier than the new root"
    yield "weak-signature", cross.signature not in SANE_SIGNATURES, f"has a weak signature ({cross.signature})"
    names = der.certificate_parts(cross.der).issuer == der.certificate_parts(old.der).subject
    yield (
        "not-by-root",
        not names or not key_signed(cross, old),
        f"was not signed by the root that nodes trust, {printable(old.subject_text)}",
    )
    # Beside what is told above.
    signs = frozenset({"key_cert_sign"})
    rest = no_root(replace(cross, is_ca=True, key_usage=signs, path_length=None, signature="sha256"))
    yield "unfit", rest, f"would be refused by nodes: {rest}"
    yield "unfit", not rest and ca_key(cross).reason, f"has {ca_key(cross).problem}"


def missing(why: str) -> FailedCheck:
    """Return that a file has no certificate for the new root; `why` is the rest of a sentence about it."""
    return CrossCheck("another-key", f"it {why}")
