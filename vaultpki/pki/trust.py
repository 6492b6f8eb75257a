"""Decides which certificates are a CA of the cluster: small pure checks, each with the reason it gives.

Most of these are what Go's crypto/x509, which Kubernetes and etcd use, requires of a CA in a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import SKEW
from vaultpki.model import Subject, Usage
from vaultpki.pki.facts import BADLY_ENCODED, EKU, Facts

SANE_SIGNATURES: Final = frozenset({"sha256", "sha384", "sha512", "ed25519"})
"""The signature hashes, or ed25519, that a certificate of ours may have."""

# Object identifiers of extensions (RFC 5280, section 4.2.1).
_KEY_USAGE: Final = "2.5.29.15"
_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_NAME_CONSTRAINTS: Final = "2.5.29.30"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_CERTIFICATE_POLICIES: Final = "2.5.29.32"
_ANY_USE: Final = "2.5.29.37.0"

_OF_ITS_OWNER: Final = re.compile(r"(?:O|OU|C|ST|L|STREET|DC|2\.5\.4\.(?:5|17|97))=.*", re.DOTALL)
"""The attributes beside the CN that those who sign for others demand, as RFC 4514 writes them."""

LEAF_CRITICAL: Final = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE, _SUBJECT_ALTERNATIVE_NAME})
"""The extensions that a leaf of ours may mark critical; RFC 5280 section 4.2 lets anybody reject the rest."""


def is_root(facts: Facts, common_name: str, now: datetime) -> bool:
    """Return whether it is a self-signed CA that is in date at `now` and has this common name, or a later key's."""
    return named(facts, common_name) and no_root(facts) is None and signed_by(facts, facts) and in_date(facts, now)


def signed_by(facts: Facts, issuer: Facts) -> bool:
    """Return what `x509.signed_by` says, which is loaded only here."""
    from vaultpki.pki import x509

    return x509.signed_by(facts, issuer)


def self_signed(facts: Facts) -> bool:
    """Return whether it names itself as its issuer and its own key signed it, whatever the hash.

    The signature of a root that is known by its SHA-256 proves nothing, so an old one with SHA-1 does no harm. It is
    for roots from outside; `signed_by` is stricter, and right for those that are made for a cluster.
    """
    from vaultpki.pki import ways_up

    return ways_up.self_signed(facts)


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


def named_by_owner(facts: Facts, name: str) -> bool:
    """Return whether its subject is this CN, or that of a later key, with attributes such as O, OU and C or none."""
    bare = replace(facts, further_names=(), subject=Subject(facts.subject.common_name))
    fit = all(_OF_ITS_OWNER.fullmatch(each) and not each.endswith(BADLY_ENCODED) for each in facts.further_names)
    return fit and not facts.subject.dns and not facts.subject.ips and named(bare, name)


def no_issuing_ca(facts: Facts, name: str, *, outside: bool = False) -> str | None:
    """Return why it is not an issuing CA called `name`, as the rest of a sentence about it; None if it is one.

    Its subject may have the attributes of its owner beside the CN: below a root of somebody else, with `outside`, and
    below one of ours too if it was renewed with its key.
    """
    if not named_by_owner(facts, name):
        own = f"its common name is not {name}, or its subject has names that no CA of ours has"
        return own if outside else f"its name is not CN={name} alone"
    return no_signer(facts)


def no_signer(facts: Facts) -> str | None:
    """Return why it may not sign as an issuing CA of any name; None if it may."""
    return _problem(facts, "its path length is not 0, so it could make further CAs", facts.path_length != 0)


def no_root(facts: Facts) -> str | None:
    """Return why it cannot be a root CA above issuing CAs; None if it can."""
    return _problem(facts, "its path length is 0, so it may not sign CAs", facts.path_length == 0)


def no_ca_above(facts: Facts, *, signature: bool = True) -> str | None:
    """Return why it may not stand above an issuing CA in a chain, as a CA of somebody else; None if it may.

    Its name, dates and signer are not checked. `signature` is whether the hash of its signature counts: it does not
    where its SHA-256 is pinned. Name constraints and policies are its owner's business, and judged by TLS clients.
    """
    from vaultpki.pki import keys

    known = {_BASIC_CONSTRAINTS, _KEY_USAGE, _NAME_CONSTRAINTS, _EXTENDED_KEY_USAGE, _CERTIFICATE_POLICIES}
    unknown = facts.critical - known
    narrow = _EXTENDED_KEY_USAGE in facts.extensions and not (
        _ANY_USE in facts.usages or facts.usages >= EKU[Usage.BOTH]
    )
    checks = (
        (not facts.is_ca or "key_cert_sign" not in facts.key_usage, "it is not a CA that may sign certificates"),
        (facts.path_length == 0, "its path length is 0, so it may not sign CAs"),
        (narrow, "its extended key usage lacks that of servers or that of clients"),
        (unknown, f"it has a critical extension that not every TLS library knows ({min(unknown, default='')})"),
        (not keys.fit_above(facts.public_key), "its key is of a kind or size that is not taken"),
        (signature and facts.signature not in SANE_SIGNATURES, f"its signature is weak ({facts.signature})"),
    )
    return next((problem for fails, problem in checks if fails), None)


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
