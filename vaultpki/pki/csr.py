"""Reads a certificate request of a stranger (PKCS#10, RFC 2986): the first eleven rules of the signer."""

from __future__ import annotations

import base64
import re
import warnings
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from vaultpki.errors import RequestRefused
from vaultpki.values import der

LARGEST_REQUEST: Final = 16 * 1024
_BLOCK: Final = re.compile(
    rb"-----BEGIN CERTIFICATE REQUEST-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n?-----END CERTIFICATE REQUEST-----[\r\n]*"
)
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
# They have a hash of their own: that no such key is signed is said below.
_WITHOUT_HASH: Final = frozenset({SignatureAlgorithmOID.ED25519, SignatureAlgorithmOID.ED448})
# 33 to 126 without `"`, `*`, `,` and a backslash: both servers split or expand texts at them.
_NAME: Final = re.compile(r"[!#-)+\--\[\]-~]{1,64}")
# extensionRequest (PKCS#9, RFC 2985 section 5.4.2).
_EXTENSIONS: Final = "1.2.840.113549.1.9.14"


@dataclass(frozen=True, slots=True)
class CsrContent:
    """What a request asks for, in plain values.

    `alternative` says that it asks for alternative names at all. `dns` and `ips` are those that a certificate may have,
    IP addresses in the form of `str(ipaddress.ip_address(x))`; `other_names` counts the others. `extensions` are the
    dotted OIDs of what else it asks for, `ca` whether that is to be a CA. `public_key` is the DER of the
    SubjectPublicKeyInfo.
    """

    common_name: str
    organization: tuple[str, ...]
    public_key: bytes
    alternative: bool = False
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    other_names: int = 0
    extensions: frozenset[str] = frozenset()
    ca: bool = False


def read_request(pem: bytes) -> CsrContent:
    """Return what a PEM request asks for; raise RequestRefused with the first of the rules 1 to 11 that it breaks.

    It raises nothing else, whatever the bytes are.
    """
    if len(pem) > LARGEST_REQUEST:
        _refuse("1", "the request is longer than 16 KiB")
    block = _BLOCK.fullmatch(pem)
    if block is None:
        _refuse("2", "the request is not exactly one PEM block")
    request, names, asked = _parsed(block[1])
    _signature(request)
    public_key = _key(request)
    common_name, organization = _subject(names)
    return CsrContent(common_name, organization, public_key, *asked)


_Asked = tuple[bool, tuple[str, ...], tuple[str, ...], int, frozenset[str], bool]


def _refuse(rule: str, problem: str) -> NoReturn:
    raise RequestRefused(problem, rule=rule) from None


def _parsed(
    text: bytes,
) -> tuple[x509.CertificateSigningRequest, list[list[tuple[x509.NameAttribute[Any], bool]]], _Asked]:
    """Return the request, the attributes of its subject by relative name, and what it asks for beside them."""
    try:
        # A name of more than 64 characters is only warned of there; a rule refuses it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = base64.b64decode(b"".join(text.split()), validate=True)
            request = x509.load_der_x509_csr(data)
            encodings = iter(der.well_encoded(der.request_parts(data).subject))
            names = [[(each, next(encodings)) for each in together] for together in request.subject.rdns]
            return request, names, _asked(request)
    # cryptography documents no closed list of what its parsers raise for bytes from outside.
    except Exception:  # noqa: BLE001 - the fact just above
        _refuse("3", "the request cannot be read")


def _asked(request: x509.CertificateSigningRequest) -> _Asked:
    """Return the fields of `CsrContent` from `alternative` on."""
    attributes = [each.oid.dotted_string for each in request.attributes]
    # cryptography reads the extensions of one attribute; in what else there is others could read more.
    further = {*attributes} - {_EXTENSIONS} | ({_EXTENSIONS} if attributes.count(_EXTENSIONS) > 1 else set())
    alternative, ca, others = False, False, 0
    dns: list[str] = []
    ips: list[str] = []
    for each in request.extensions:
        value = each.value
        if isinstance(value, x509.SubjectAlternativeName):
            alternative = True
            for name in value:
                if isinstance(name, x509.DNSName):
                    dns.append(name.value)
                elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPv4Address | IPv6Address):
                    ips.append(str(name.value))
                else:
                    others += 1
            continue
        further.add(each.oid.dotted_string)
        ca = ca or (isinstance(value, x509.BasicConstraints) and value.ca)
    return alternative, tuple(dns), tuple(ips), others, frozenset(further), ca


def _signature(request: x509.CertificateSigningRequest) -> None:
    try:
        hashed = request.signature_hash_algorithm
    except UnsupportedAlgorithm:
        _refuse("4", "the request is signed with an old hash")
    if request.signature_algorithm_oid not in _WITHOUT_HASH and (hashed is None or hashed.name not in _HASHES):
        _refuse("4", "the request is signed with an old hash")
    try:
        valid = request.is_signature_valid
    # An algorithm that does not fit the key: which exceptions that raises is documented nowhere.
    except Exception:  # noqa: BLE001 - the fact just above
        valid = False
    if not valid:
        _refuse("5", "the signature of the request is wrong")


def _key(request: x509.CertificateSigningRequest) -> bytes:
    try:
        public = request.public_key()
    except (UnsupportedAlgorithm, ValueError):
        public = None
    if isinstance(public, rsa.RSAPublicKey):
        good = 2048 <= public.key_size <= 4096 and public.public_numbers().e == 65537
    else:
        good = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in ("secp256r1", "secp384r1")
    if public is None or not good:
        _refuse("6", "the key is neither P-256, P-384 nor RSA of 2048 to 4096 bits")
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _subject(names: list[list[tuple[x509.NameAttribute[Any], bool]]]) -> tuple[str, tuple[str, ...]]:
    if any(len(together) > 1 for together in names):
        _refuse("7", "the subject has a group of several names")
    every = [each for together in names for each in together]
    if any(each.oid not in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME) for each, _ in every):
        _refuse("8", "the subject has more than O and CN")
    common = [each.value for each, _ in every if each.oid == NameOID.COMMON_NAME]
    if len(common) != 1:
        _refuse("9", "the subject has not exactly one CN")
    if not all(well and isinstance(each.value, str) and _NAME.fullmatch(each.value) for each, well in every):
        _refuse("10", "a name has a character that we do not sign")
    organization = tuple(str(each.value) for each, _ in every if each.oid == NameOID.ORGANIZATION_NAME)
    if len(set(organization)) < len(organization):
        _refuse("11", "an O stands twice")
    return str(common[0]), organization
