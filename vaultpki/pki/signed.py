"""Checks a certificate that Vault has just signed: it is exactly what was asked for, or it is rejected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from vaultpki.certificates import LEAF_BACKDATE, SKEW
from vaultpki.errors import CertificateRefused
from vaultpki.model import Certificate
from vaultpki.pki import trust, x509
from vaultpki.pki.chains import chain_up
from vaultpki.pki.facts import EKU, Facts, same_names
from vaultpki.pki.keys import PrivateKey, public_der


def check_signed(
    chain_pem: bytes,
    key: PrivateKey,
    want: Certificate,
    issuers: Sequence[Facts],
    roots: Sequence[Facts],
    now: datetime,
    *,
    between: Sequence[Facts] = (),
    slack: int = SKEW,
) -> Facts:
    """Return the first certificate of `chain_pem` if it is exactly what was asked for.

    `issuers` are the live issuing certificates of its CA, `roots` the trusted roots, and `between` the CAs between
    them; further certificates in `chain_pem` must be among these. `slack` is the seconds by which clocks may differ. A
    shorter life than asked for passes: the caller compares. Raises CertificateRefused with the first check that fails,
    CertificateUnreadable if it is not a chain.
    """
    leaf, *others = x509.read_certificates(chain_pem)
    for reason, problem in _problems(leaf, public_der(key), want, now, timedelta(seconds=slack)):
        raise _refused(want, reason, problem)
    issuer = x509.issuer_of(leaf, issuers)
    if issuer is None:
        raise _refused(want, "not-our-ca", f"was not signed by a live issuing CA of {want.ca}")
    if not trust.in_date(issuer, now) or not chain_up(issuer, roots, between):
        raise _refused(want, "not-our-ca", "was signed by a CA that is out of date or not below the pinned root")
    if why := trust.no_signer(issuer):
        raise _refused(want, "not-our-ca", f"was signed by {issuer.subject_text}, which may not sign: {why}")
    if leaf.not_after > issuer.not_after:
        raise _refused(want, "outlives-issuer", "expires later than the CA that signed it")
    if any(other not in (*issuers, *between, *roots) for other in others):
        raise _refused(want, "foreign-chain", "came with a CA that is not the cluster's")
    return leaf


def check_of_old_ca(pem: bytes, key: PrivateKey, want: Certificate, ca: Facts, now: datetime) -> Facts:
    """Return the first certificate of `pem` if it is exactly what was asked of an old CA that was imported.

    `ca` is that CA, which is no CA of the cluster's: it needs no root, and its path length may be open. Raises as
    `check_signed`.
    """
    leaf = x509.read_certificates(pem)[0]
    for reason, problem in _problems(leaf, public_der(key), want, now, timedelta(seconds=SKEW), stale=False):
        raise _refused(want, reason, problem)
    if not trust.signed_by(leaf, ca):
        raise _refused(want, "not-our-ca", f"was not signed by the old CA of {want.ca}")
    if leaf.not_after > ca.not_after:
        raise _refused(want, "outlives-issuer", "expires later than the CA that signed it")
    return leaf


def check_for_request(
    pem: bytes, public_key: bytes, want: Certificate, issuers: Sequence[Facts], now: datetime
) -> tuple[Facts, Facts]:
    """Return the first certificate of `pem`, which was signed for somebody else's request, and the CA that signed it.

    `public_key` is that of the request, as in Facts. `issuers` are the issuing CAs of this node's own bundle, which its
    agent trusts. Raises as `check_signed`.
    """
    leaf = x509.read_certificates(pem)[0]
    for reason, problem in _problems(leaf, public_key, want, now, timedelta(seconds=SKEW), stale=False):
        raise _refused(want, reason, problem)
    issuer = x509.issuer_of(leaf, issuers)
    if issuer is None or not trust.in_date(issuer, now):
        raise _refused(want, "not-our-ca", f"was not signed by a CA of {want.ca} that this node trusts")
    if leaf.not_after > issuer.not_after:
        raise _refused(want, "outlives-issuer", "expires later than the CA that signed it")
    return leaf, issuer


def _refused(want: Certificate, reason: str, problem: str) -> CertificateRefused:
    return CertificateRefused(
        f"{want.name}: the certificate Vault signed {problem}; it was not installed", reason=reason
    )


def _problems(
    leaf: Facts, public_key: bytes, want: Certificate, now: datetime, slack: timedelta, *, stale: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield the reason and the sentence of every check of the leaf alone that fails, in order."""
    further = leaf.further_names
    strange = f"has names that were not requested ({', '.join(further[:3])!r})"
    signed = min(leaf.not_before + timedelta(seconds=LEAF_BACKDATE), leaf.not_after)
    # A renewal is due after half of the life: an older certificate would be renewed in a loop.
    old = stale and leaf.not_after - now + slack < (leaf.not_after - signed) / 2
    clock = "compare this node's clock with Vault's"
    checks = (
        ("key-mismatch", leaf.public_key != public_key, "is for another key than the one sent"),
        ("names-differ", further, strange),
        ("names-differ", not same_names(leaf.subject, want.subject), "does not have exactly the requested names"),
        ("is-ca", leaf.is_ca, "is a CA"),
        (
            "usage-differs",
            leaf.usages != EKU[want.usage],
            f"does not have exactly the extended key usage {want.usage.value!r}",
        ),
        (
            "key-usage-differs",
            not trust.fit_key_usage(leaf, want.usage),
            "has another key usage than digitalSignature, marked critical",
        ),
        (
            "extensions-differ",
            leaf.critical - trust.LEAF_CRITICAL,
            "has critical extensions that were not requested",
        ),
        ("weak-signature", leaf.signature not in trust.SANE_SIGNATURES, f"has a weak signature ({leaf.signature})"),
        ("not-yet-valid", leaf.not_before > now + slack, f"is not valid yet: {clock}"),
        ("expired", leaf.not_after <= now, f"has expired already: {clock}"),
        ("too-long", leaf.not_after > now + timedelta(seconds=want.ttl) + slack, "expires later than requested"),
        ("stale", old, f"has less than half of its life left: {clock}"),
    )
    yield from ((reason, problem) for reason, fails, problem in checks if fails)
