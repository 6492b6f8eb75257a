"""Decides which certificates are a CA of the cluster: small pure checks, each with the reason it gives.

Most of these are what Go's crypto/x509, which Kubernetes and etcd use, requires of a CA in a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultpki.certificates import SKEW
from vaultpki.errors import CertificateUnreadable
from vaultpki.model import Subject, Usage
from vaultpki.pki.facts import Facts, Trust, UntrustedCa

SANE_SIGNATURES: Final = frozenset({"sha256", "sha384", "sha512", "ed25519"})
"""The signature hashes, or ed25519, that a certificate of ours may have."""

# Object identifiers of extensions (RFC 5280, section 4.2.1).
_KEY_USAGE: Final = "2.5.29.15"
_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_NAME_CONSTRAINTS: Final = "2.5.29.30"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"

_NOT_SIGNED: Final = "it was not signed by the cluster's root CA"

LEAF_CRITICAL: Final = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE, _SUBJECT_ALTERNATIVE_NAME})
"""The extensions that a leaf of ours may mark critical; RFC 5280 section 4.2 lets anybody reject the rest."""


def trust_below(
    issuing_pems: Sequence[bytes], roots: Sequence[Facts], now: datetime, *, name: str, parked: Sequence[Facts] = ()
) -> Trust:
    """Build the trust in one CA from what its mount shows: issuing CAs with the CN `name`, signed by one of `roots`.

    `name` is what `certificates.ca_subject` gives; the CN of a later key has a number after it. If no issuing CA is in
    date, none is live. Everything else is reported as untrusted and raises nothing: whoever may write to the mount must
    not be able to stop a node. A CA below a root of `parked` is not trusted, and is not reported as untrusted.
    """
    from vaultpki.pki import x509

    fit: set[Facts] = set()
    untrusted: dict[str, UntrustedCa] = {}
    for pem in issuing_pems:
        try:
            found = x509.read_certificates(pem)
        except CertificateUnreadable:
            unreadable = sha256(pem).hexdigest()
            untrusted[unreadable] = UntrustedCa("a certificate", unreadable, "it cannot be read")
            continue
        for facts in found:
            whys = [why_untrusted(facts, root, name) for root in roots]
            if None in whys:
                fit.add(facts)
            elif all(why_untrusted(facts, root, name) for root in parked):
                # The word of the root that signed it, if one did.
                why = next((str(why) for why in whys if why != _NOT_SIGNED), _NOT_SIGNED)
                untrusted[facts.fingerprint] = UntrustedCa(facts.subject_text, facts.fingerprint, why)
    ordered = tuple(sorted(fit, key=lambda facts: (facts.not_before, facts.serial), reverse=True))
    live = tuple(facts for facts in ordered if in_date(facts, now))
    return Trust(roots[0], ordered, live, tuple(untrusted.values()), signers=live, further_roots=tuple(roots[1:]))


def why_untrusted(facts: Facts, root: Facts, name: str) -> str | None:
    """Return why it is not an issuing CA called `name` below this root, as the rest of a sentence; None if it is one.

    Dates are not checked.
    """
    if facts == root:
        return "it is the root CA, which belongs on its own mount alone"
    if not signed_by(facts, root):
        return _NOT_SIGNED
    return no_issuing_ca(facts, name)


def is_root(facts: Facts, common_name: str, now: datetime) -> bool:
    """Return whether it is a self-signed CA that is in date at `now` and has this common name, or a later key's."""
    return named(facts, common_name) and no_root(facts) is None and signed_by(facts, facts) and in_date(facts, now)


def signed_by(facts: Facts, issuer: Facts) -> bool:
    """Return what `x509.signed_by` says, which is loaded only here."""
    from vaultpki.pki import x509

    return x509.signed_by(facts, issuer)


def in_date(facts: Facts, now: datetime) -> bool:
    """Return whether `now` is between its dates; clocks may differ by SKEW at the beginning."""
    return facts.not_before <= now + timedelta(seconds=SKEW) and now < facts.not_after


def usability(cas: Iterable[Facts], now: datetime) -> int:
    """Return what a bundle of these CAs is good for: 0 without any, 1 if all have expired, 2 if one is in date."""
    return max((1 + in_date(facts, now) for facts in cas), default=0)


def fit_key_usage(leaf: Facts, usage: Usage) -> bool:
    """Return whether a leaf's key usage is digitalSignature, marked critical.

    A server with an RSA key may have keyEncipherment too, for the RSA key exchange of TLS 1.2 (RFC 5280, 4.2.1.3).
    """
    rsa_server = usage.server and leaf.key is not None and leaf.key.rsa
    further = {"key_encipherment"} if rsa_server else set()
    return {"digital_signature"} <= leaf.key_usage <= {"digital_signature"} | further and _KEY_USAGE in leaf.critical


def named(facts: Facts, name: str) -> bool:
    """Return whether its subject is this CN alone: `name`, or `name` with the number of a later key (` 2`, ` 3`)."""
    pattern = rf"{re.escape(name)}(?: (?:[2-9]|[1-9][0-9]+))?"
    whole = not facts.further_names and facts.subject == Subject(facts.subject.common_name)
    return whole and re.fullmatch(pattern, facts.subject.common_name) is not None


def no_issuing_ca(facts: Facts, name: str) -> str | None:
    """Return why it is not an issuing CA called `name`, as the rest of a sentence about it; None if it is one."""
    if not named(facts, name):
        return f"its name is not CN={name} alone"
    return no_signer(facts)


def no_signer(facts: Facts) -> str | None:
    """Return why it may not sign as an issuing CA of any name; None if it may."""
    return _problem(facts, "its path length is not 0, so it could make further CAs", facts.path_length != 0)


def no_root(facts: Facts) -> str | None:
    """Return why it cannot be a root CA above issuing CAs; None if it can."""
    return _problem(facts, "its path length is 0, so it may not sign CAs", facts.path_length == 0)


def _problem(facts: Facts, path_length: str, wrong_path_length: bool) -> str | None:
    unknown = facts.critical - {_BASIC_CONSTRAINTS, _KEY_USAGE}
    checks = (
        (not facts.is_ca or "key_cert_sign" not in facts.key_usage, "it is not a CA that may sign certificates"),
        (wrong_path_length, path_length),
        # Go requires that the EKUs of every CA of a chain allow the leaf's.
        (_EXTENDED_KEY_USAGE in facts.extensions, "it has an extended key usage"),
        (_NAME_CONSTRAINTS in facts.extensions, "it has name constraints"),
        (unknown, f"it has a critical extension that no CA of ours has ({min(unknown, default='')})"),
        (facts.key is None, "its key is of a kind or size that no CA of ours has"),
        (facts.signature not in SANE_SIGNATURES, f"its signature is weak ({facts.signature})"),
    )
    return next((problem for fails, problem in checks if fails), None)
