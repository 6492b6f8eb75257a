"""Makes certificate requests as a stranger can: any DER, any name, any extension, any key, well signed or not.

Everything is written byte by byte, since a library that makes requests refuses to make the bad ones.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from vaultpki.values.der import element

UTF8, PRINTABLE, IA5, BMP, T61, NUMERIC = 0x0C, 0x13, 0x16, 0x1E, 0x14, 0x12
SEQUENCE, SET, OID, OCTETS, BITS, BOOLEAN, INTEGER = 0x30, 0x31, 0x06, 0x04, 0x03, 0x01, 0x02

CN, O, OU, EMAIL, SERIAL, UID = (  # noqa: E741 - the names of RFC 4514
    "2.5.4.3",
    "2.5.4.10",
    "2.5.4.11",
    "1.2.840.113549.1.9.1",
    "2.5.4.5",
    "0.9.2342.19200300.100.1.1",
)
SAN, KEY_USAGE, EKU, BASIC, NAME_CONSTRAINTS, AIA = (
    "2.5.29.17",
    "2.5.29.15",
    "2.5.29.37",
    "2.5.29.19",
    "2.5.29.30",
    "1.3.6.1.5.5.7.1.1",
)
EXTENSION_REQUEST, CHALLENGE, MICROSOFTS = "1.2.840.113549.1.9.14", "1.2.840.113549.1.9.7", "1.3.6.1.4.1.311.2.1.14"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey
Name = tuple[str, int, bytes]
"""One attribute of a subject: OID, tag of its value, value."""

_HASHES: Final[dict[str, tuple[hashes.HashAlgorithm, str, str]]] = {
    "md5": (hashes.MD5(), "1.2.840.113549.1.1.4", ""),  # noqa: S303 - a bad one on purpose
    "sha1": (hashes.SHA1(), "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"),  # noqa: S303 - a bad one on purpose
    "sha224": (hashes.SHA224(), "1.2.840.113549.1.1.14", "1.2.840.10045.4.3.1"),
    "sha256": (hashes.SHA256(), "1.2.840.113549.1.1.11", "1.2.840.10045.4.3.2"),
    "sha384": (hashes.SHA384(), "1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"),
    "sha512": (hashes.SHA512(), "1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"),
}


_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "p224": ec.SECP224R1(),
    "p256": ec.SECP256R1(),
    "p384": ec.SECP384R1(),
    "p521": ec.SECP521R1(),
    "k1": ec.SECP256K1(),
}


@cache
def key(kind: str = "p256") -> Key:
    """A key of a kind, always the same one: p256, p384, p521, p224, k1, ed25519, dsa, rsa-BITS, rsa3 (exponent 3)."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "dsa":
        return dsa.generate_private_key(2048)
    if kind == "rsa3":
        return rsa.generate_private_key(3, 2048)
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


def oid(dotted: str) -> bytes:
    """The DER of an object identifier."""
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        out += bytes(reversed(digits))
    return element(OID, out)


def name(kind: str, value: str | bytes, tag: int = UTF8) -> Name:
    """An attribute of a subject."""
    return kind, tag, value.encode() if isinstance(value, str) else value


def subject(groups: Iterable[Sequence[Name]]) -> bytes:
    """The DER of a subject of these relative names, each of one or more attributes."""
    made = b""
    for together in groups:
        pairs = sorted(element(SEQUENCE, oid(kind) + element(tag, value)) for kind, tag, value in together)
        made += element(SET, b"".join(pairs))
    return element(SEQUENCE, made)


def extension(kind: str, value: bytes, *, critical: bool = False) -> bytes:
    """The DER of an extension with this content."""
    flag = element(BOOLEAN, b"\xff") if critical else b""
    return element(SEQUENCE, oid(kind) + flag + element(OCTETS, value))


def alternative(*names: tuple[int, bytes]) -> bytes:
    """The extension of alternative names: 0x82 is a DNS name, 0x87 an address, 0x81 e-mail, 0x86 a URI."""
    return extension(SAN, element(SEQUENCE, b"".join(element(tag, value) for tag, value in names)))


def dns(*names: str) -> list[tuple[int, bytes]]:
    """Alternative names of DNS."""
    return [(0x82, each.encode()) for each in names]


def basic(*, ca: bool) -> bytes:
    """The extension that says whether it is a CA."""
    return extension(BASIC, element(SEQUENCE, element(BOOLEAN, b"\xff") if ca else b""))


def attribute(kind: str, *values: bytes) -> bytes:
    """The DER of an attribute of a request."""
    return element(SEQUENCE, oid(kind) + element(SET, b"".join(values)))


def request_der(
    names: bytes,
    extensions: Sequence[bytes] = (),
    *,
    kind: str = "p256",
    hashed: str = "sha256",
    attributes: Sequence[bytes] = (),
    version: bytes = b"\x00",
    spoil: bool = False,
) -> bytes:
    """The DER of a request that is signed by a key of this kind; with `spoil` the signature is another one's."""
    signer = key(kind)
    public = signer.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    every = [*attributes]
    if extensions:
        every.append(attribute(EXTENSION_REQUEST, element(SEQUENCE, b"".join(extensions))))
    info = element(SEQUENCE, element(INTEGER, version) + names + public + element(0xA0, b"".join(every)))
    algorithm, signature = _signed(signer, info + b"x" if spoil else info, hashed)
    return element(SEQUENCE, info + algorithm + element(BITS, b"\0" + signature))


def _signed(signer: Key, info: bytes, hashed: str) -> tuple[bytes, bytes]:
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return element(SEQUENCE, oid("1.3.101.112")), signer.sign(info)
    algorithm, of_rsa, of_ec = _HASHES[hashed]
    if isinstance(signer, rsa.RSAPrivateKey):
        return element(SEQUENCE, oid(of_rsa) + b"\x05\x00"), signer.sign(info, padding.PKCS1v15(), algorithm)
    if isinstance(signer, dsa.DSAPrivateKey):
        return element(SEQUENCE, oid("2.16.840.1.101.3.4.3.2")), signer.sign(info, algorithm)
    return element(SEQUENCE, oid(of_ec)), signer.sign(info, ec.ECDSA(algorithm))


def pem(der: bytes, kind: str = "CERTIFICATE REQUEST") -> bytes:
    """A PEM block."""
    text = base64.b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (kind.encode(), lines, kind.encode())


def simple(common_name: str, groups: Sequence[str] = (), extensions: Sequence[bytes] = (), **how: str) -> bytes:
    """A PEM request as Go writes it: O first, each name for itself."""
    names = subject([[name(O, each)] for each in groups] + [[name(CN, common_name)]])
    return pem(request_der(names, extensions, **how))  # type: ignore[arg-type]
