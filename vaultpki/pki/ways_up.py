"""Finds the CAs above a certificate, up to the self-signed root, through the certificate that nodes are pinned to."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from cryptography import x509 as certificates
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID, SignatureAlgorithmOID

from vaultpki.pki.facts import Facts
from vaultpki.values import der

MOST_ABOVE: Final = 8
"""The largest number of CAs above an issuing CA: companies have two or three."""

# Several certificates of the CAs above lead to several ways up: a renewed one, a cross certificate.
_MOST_WAYS: Final = 32
# Each certificate that can be sent, as the signer of each.
_REMEMBERED: Final = 4096

# In bits: crypto/tls refuses longer ones (checkKeySize), and NIST SP 800-131A shorter ones.
_RSA_BITS: Final = (2048, 8192)
# Go reads no larger one (crypto/rsa, checkPublicKeySize and E of PublicKey).
_LARGEST_EXPONENT: Final = 2**31 - 1
_CURVES: Final = {"secp256r1": "EC P-256", "secp384r1": "EC P-384", "secp521r1": "EC P-521"}


class Ends(enum.Enum):
    """Where the way up from a certificate ends."""

    AT_ROOT = "at a self-signed root, through the anchor"
    ABOVE_ANCHOR = "above the anchor, whose root is missing"
    OTHER_ROOT = "at a self-signed root, not through the anchor"
    MISSING = "at a CA whose signer is missing"
    NOT_SIGNED = "at a CA that was not signed by the one that it names"
    OTHER_NAME = "at a CA that names its signer in other bytes"
    TOO_LONG = "after too many CAs"


@dataclass(frozen=True, slots=True)
class WayUp:
    """The CAs above a certificate, its signer first. With NOT_SIGNED and OTHER_NAME the last one is not its signer."""

    above: tuple[Facts, ...]
    ends: Ends


@dataclass(frozen=True, slots=True)
class CaKey:
    """What people call a public key, and why it is no key for a CA: a named reason and the rest of a sentence."""

    name: str
    reason: str = ""
    problem: str = ""


def ways_up(ca: Facts, known: Sequence[Facts], anchor: Facts) -> tuple[WayUp, ...]:
    """Return every way up from a CA through certificates of `known` and the anchor, those that end best first.

    `anchor` is the certificate that nodes are pinned to; it may be an intermediate.
    """
    return _sorted(_ways(ca, (), _shown(known, anchor), anchor))


def ways_through(signer: Facts, known: Sequence[Facts], anchor: Facts) -> tuple[WayUp, ...]:
    """Return as `ways_up` every way up from a CA that `signer` has not signed yet; `signer` is the first CA of each."""
    return _sorted(_ways(signer, (signer,), _shown(known, anchor), anchor))


def self_signed(facts: Facts) -> bool:
    """Return whether it names itself as its issuer, and its own key signed it."""
    parts = der.certificate_parts(facts.der)
    return parts.subject == parts.issuer and key_signed(facts, facts)


def key_signed(facts: Facts, signer: Facts) -> bool:
    """Return whether the key of `signer` made this signature, whatever its hash; names do not count."""
    return _remembered(facts.der, signer.der)


@lru_cache(maxsize=64)
def ca_key(facts: Facts) -> CaKey:
    """Return what key a CA has. Both servers refuse Ed448 and RSASSA-PSS keys of CAs with status 400."""
    read = certificates.load_der_x509_certificate(der.readable(facts.der))
    key = read.public_key()
    if read.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        return CaKey("RSASSA-PSS", "key-kind", "an RSASSA-PSS key, which both servers refuse for a CA")
    if isinstance(key, rsa.RSAPublicKey):
        found = _rsa(key)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name, "")
        found = CaKey(name) if name else CaKey(key.curve.name, "key-kind", f"a key on the curve {key.curve.name}")
    elif isinstance(key, ed25519.Ed25519PublicKey):
        found = CaKey("Ed25519")
    elif isinstance(key, ed448.Ed448PublicKey):
        found = CaKey("Ed448", "key-kind", "an Ed448 key, which both servers refuse for a CA")
    elif isinstance(key, dsa.DSAPublicKey):
        found = CaKey("DSA", "key-kind", "a DSA key, which Go does not verify with")
    else:
        found = CaKey("unknown", "key-kind", "a key of a kind that the programs of a cluster do not know")
    return found


def pss_problem(facts: Facts) -> bool:
    """Return whether its signature is RSASSA-PSS with parameters that Go does not know.

    Go knows SHA-256, SHA-384 and SHA-512, each with MGF1 of the same hash and a salt as long as it
    (crypto/x509, getSignatureAlgorithmFromAI).
    """
    read = certificates.load_der_x509_certificate(der.readable(facts.der))
    if read.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        return False
    _, parameters = list(der.elements(next(der.elements(der.certificate_parts(facts.der).algorithms[0]))[1]))
    values = [value for _, value in der.leaves(der.element(*parameters))]
    hashed = read.signature_hash_algorithm
    known = hashed is not None and len(values) in (4, 5) and values[0] == values[2] and values[4:] in ([], [b"\x01"])
    return not known or hashed is None or int.from_bytes(values[3], "big") != hashed.digest_size


def wants_policy(facts: Facts) -> bool:
    """Return whether it demands certificate policies of everything below it, which leaves of a cluster do not have."""
    read = certificates.load_der_x509_certificate(der.readable(facts.der))
    try:
        found = read.extensions.get_extension_for_class(certificates.PolicyConstraints).value
    except certificates.ExtensionNotFound:
        return False
    return found.require_explicit_policy is not None


def signer_serial(facts: Facts) -> int | None:
    """Return the serial number of the signer's certificate in the authority key identifier; None without one."""
    read = certificates.load_der_x509_certificate(der.readable(facts.der))
    try:
        return read.extensions.get_extension_for_class(
            certificates.AuthorityKeyIdentifier
        ).value.authority_cert_serial_number
    except certificates.ExtensionNotFound:
        return None


def _shown(known: Sequence[Facts], anchor: Facts) -> tuple[Facts, ...]:
    # Sorted, so that the choice is the same whatever order the files had.
    return tuple(sorted({anchor, *known}, key=lambda facts: facts.fingerprint))


def _sorted(ways: Iterator[WayUp]) -> tuple[WayUp, ...]:
    order = tuple(Ends)
    found = islice(ways, _MOST_WAYS)
    return tuple(sorted(found, key=lambda way: (order.index(way.ends), len(way.above))))


def _ways(ca: Facts, above: tuple[Facts, ...], shown: tuple[Facts, ...], anchor: Facts) -> Iterator[WayUp]:
    last = above[-1] if above else ca
    if self_signed(last):
        yield WayUp(above, Ends.AT_ROOT if anchor in above else Ends.OTHER_ROOT)
        return
    if len(above) >= MOST_ABOVE:
        yield WayUp(above, Ends.TOO_LONG)
        return
    issuer = der.certificate_parts(last.der).issuer
    others = [facts for facts in shown if facts != ca and facts not in above]
    named = [facts for facts in others if der.certificate_parts(facts.der).subject == issuer]
    signers = [facts for facts in named if key_signed(last, facts)]
    for each in signers:
        yield from _ways(ca, (*above, each), shown, anchor)
    if signers:
        return
    if named:
        yield WayUp((*above, named[0]), Ends.NOT_SIGNED)
    elif unnamed := next((facts for facts in others if key_signed(last, facts)), None):
        yield WayUp((*above, unnamed), Ends.OTHER_NAME)
    else:
        yield WayUp(above, Ends.ABOVE_ANCHOR if anchor in above else Ends.MISSING)


def _rsa(key: rsa.RSAPublicKey) -> CaKey:
    bits, exponent = key.key_size, key.public_numbers().e
    name, (least, most) = f"RSA {bits}", _RSA_BITS
    if bits < least:
        return CaKey(name, "rsa-too-short", f"an RSA key of {bits} bits; at least {least} are needed")
    if bits > most or not 3 <= exponent <= _LARGEST_EXPONENT or exponent % 2 == 0:
        return CaKey(name, "key-kind", f"an RSA key that Go refuses: {bits} bits, public exponent {exponent}")
    return CaKey(name)


def verifies(data: bytes, signer: bytes) -> bool:
    """Return as `key_signed`, of certificates in DER, and remember nothing."""
    # `verify_directly_issued_by` refuses SHA-1, which is harmless where a root signed itself.
    inner, outer = der.certificate_parts(data).algorithms
    if inner != outer:
        return False
    try:
        read = certificates.load_der_x509_certificate(der.readable(data))
        key = certificates.load_der_x509_certificate(der.readable(signer)).public_key()
        parameters, hashed = read.signature_algorithm_parameters, read.signature_hash_algorithm
        signed = read.signature, der.signed_part(data)
        if isinstance(key, rsa.RSAPublicKey) and isinstance(parameters, padding.PKCS1v15 | padding.PSS) and hashed:
            key.verify(*signed, parameters, hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(*signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and parameters is None:
            key.verify(*signed)
        elif isinstance(key, dsa.DSAPublicKey) and hashed:
            # No CA may have one; without this its own certificate would seem to be signed by another key.
            key.verify(*signed, hashed)
        else:
            return False
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


_remembered = lru_cache(maxsize=_REMEMBERED)(verifies)
