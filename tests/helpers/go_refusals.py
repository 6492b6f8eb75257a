"""Certificates that `cryptography` reads: what Go's parser says of each that it refuses, and odd ones that it takes.

Go 1.26 was asked, and tests/conformance/verify/test_go_parser.py asks it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from helpers.outside_signers import chain, compressed_key, key, pss_key, resigned
from vaultpki.values import der

Fields = list[tuple[int, bytes]]

SEQUENCE, SET, OCTETS, OID, TRUE = 0x30, 0x31, 0x04, 0x06, b"\x01\x01\xff"
UTF8, NUMERIC, T61, IA5, VISIBLE, UNIVERSAL, BMP = 0x0C, 0x12, 0x14, 0x16, 0x1A, 0x1C, 0x1E
ISSUER, VALIDITY, SUBJECT, EXTENSIONS = 3, 4, 5, 7
MAIL, DNS, URI, IP, DIRECTORY = 0x81, 0x82, 0x86, 0x87, 0xA4
# 2.25 and a UUID (X.667), as Microsoft's tools make them.
UUID: Final = b"\x06\x14\x69" + b"\x83" + b"\xb5" * 17 + b"\x01"


@dataclass(frozen=True)
class Odd:
    """A certificate: how it is made, what Go says, and what we say; both are empty for one that is read."""

    made: Callable[[], bytes]
    go: str = ""
    says: str = ""


@cache
def root() -> bytes:
    return chain()["root"]


def signed(change: Callable[[Fields], Fields]) -> bytes:
    """A root with other fields."""
    return resigned(root(), key("root p256"), change)


def oid(text: str) -> bytes:
    """The DER of an object identifier, whose first two numbers are below 40 and whose others are below 2^28."""
    first, second, *rest = map(int, text.split("."))
    found = bytes((first * 40 + second,))
    for number in rest:
        parts = [number >> shift & 0x7F | 0x80 for shift in (21, 14, 7, 0) if number >> shift or not shift]
        found += bytes((*parts[:-1], parts[-1] & 0x7F))
    return der.element(OID, found)


def names(tag: int, value: bytes, where: int = SUBJECT, kind: bytes = b"\x06\x03\x55\x04\x03") -> Callable[[], bytes]:
    """A root whose name, or whose issuer's, is this string."""
    name = der.element(SET, der.element(SEQUENCE, kind + der.element(tag, value)))
    return lambda: signed(lambda fields: [*fields[:where], (SEQUENCE, name), *fields[where + 1 :]])


def extends(kind: str | bytes, value: bytes, *, critical: bool = False) -> Callable[[], bytes]:
    """A root with this extension, in the place of the one that it has."""
    identifier = oid(kind) if isinstance(kind, str) else kind
    added = identifier + TRUE * critical + der.element(OCTETS, value)

    def change(fields: Fields) -> Fields:
        ((_, listed),) = der.elements(fields[EXTENSIONS][1])
        kept = [each for _, each in der.elements(listed) if not each.startswith(identifier)]
        whole = b"".join(der.element(SEQUENCE, each) for each in (*kept, added))
        return [*fields[:EXTENSIONS], (0xA3, der.element(SEQUENCE, whole))]

    return lambda: signed(change)


def sequence(*parts: bytes) -> bytes:
    return der.element(SEQUENCE, b"".join(parts))


def san(tag: int, value: bytes) -> Callable[[], bytes]:
    return extends("2.5.29.17", sequence(der.element(tag, value)))


def permits(tag: int, value: bytes) -> Callable[[], bytes]:
    subtree = sequence(der.element(tag, value))
    return extends("2.5.29.30", sequence(der.element(0xA0, subtree)), critical=True)


def point(name: bytes) -> Callable[[], bytes]:
    return extends("2.5.29.31", sequence(sequence(der.element(0xA0, name))))


def two_algorithms() -> bytes:
    """A root that names ECDSA with SHA-384 outside, and SHA-256 inside."""
    (_, whole), *_ = der.elements(root())
    inner, _, signature = der.elements(whole)
    return sequence(der.element(*inner), sequence(oid("1.2.840.10045.4.3.3")), der.element(*signature))


@cache
def rsa_root() -> bytes:
    return chain(kinds={"root": "rsa2048"})["root"]


def without_parameters() -> bytes:
    """A root whose RSA key lacks the NULL that RFC 3279 wants."""

    def change(fields: Fields) -> Fields:
        (_, kind), bits = der.elements(fields[6][1])
        return [*fields[:6], (SEQUENCE, sequence(kind.removesuffix(b"\5\0")) + der.element(*bits)), *fields[7:]]

    return resigned(rsa_root(), key("root rsa2048", "rsa2048"), change)


def dated() -> bytes:
    """A root whose dates are GeneralizedTime, which RFC 5280 wants only from 2050 on."""
    dates = b"".join(der.element(0x18, day) for day in (b"20260101000000Z", b"20450101000000Z"))
    return signed(lambda fields: [*fields[:VALIDITY], (SEQUENCE, dates), *fields[VALIDITY + 1 :]])


def numbered(serial: bytes) -> bytes:
    return signed(lambda fields: [fields[0], (0x02, serial), *fields[2:]])


_NAME: Final = der.element(SET, sequence(oid("2.5.4.3"), der.element(UTF8, b"Corp")))
_STRING: Final = "x509: invalid RDNSequence: invalid attribute value: "
_TYPE: Final = f"{_STRING}unsupported string type: "
_KEY: Final = "1.3.6.1.5.5.7.3.1"
_LARGE: Final = "an object identifier with a number of more than 31 bits"
_ENCODED: Final = "a key in an unusual encoding"
_NOT_ASCII: Final = "a subject alternative name that is not ASCII"
_MUNICH: Final = "M\u00fcnchen".encode()

REFUSED: Final[Mapping[str, Odd]] = {
    "a UniversalString": Odd(
        names(UNIVERSAL, "Corp Root".encode("utf-32-be")), f"{_TYPE}28", "a name that is a UniversalString"
    ),
    "a VisibleString": Odd(names(VISIBLE, b"Corp"), f"{_TYPE}26", "a name that is a VisibleString"),
    "an issuer of that kind": Odd(names(VISIBLE, b"Corp", ISSUER), f"{_TYPE}26", "a name that is a VisibleString"),
    "a bit string": Odd(names(0x03, b"\0\1", kind=oid("2.5.4.45")), f"{_TYPE}3", "a name that is no string"),
    "a time": Odd(names(0x17, b"260101000000Z"), f"{_TYPE}23", "a name that is no string"),
    "a path length of 64 bits": Odd(
        extends("2.5.29.19", sequence(TRUE, b"\x02\x09\0\x80" + bytes(7)), critical=True),
        "x509: invalid basic constraints",
        "a path length of more than 63 bits",
    ),
    "letters in a NumericString": Odd(names(NUMERIC, b"12a"), f"{_STRING}invalid NumericString", "a NumericString"),
    "a BMPString of two units": Odd(
        names(BMP, "\U0001f600".encode("utf-16-be")), f"{_STRING}invalid BMPString", "a BMPString in a name"
    ),
    "a BMPString of no character": Odd(names(BMP, b"\xff\xff"), f"{_STRING}invalid BMPString", "a BMPString in a name"),
    "a name of a kind with a UUID": Odd(
        names(UTF8, b"x", kind=UUID), "x509: invalid RDNSequence: invalid attribute type", _LARGE
    ),
    "an extension with a UUID": Odd(extends(UUID, b"\5\0"), "x509: malformed extension OID field", _LARGE),
    "a use with a UUID": Odd(extends("2.5.29.37", sequence(UUID)), "x509: invalid extended key usages", _LARGE),
    "two algorithms": Odd(
        two_algorithms, "x509: inner and outer signature algorithm identifiers don't match", "two different algorithms"
    ),
    "a compressed point": Odd(
        lambda: compressed_key(root(), key("root p256")), "ecdsa: invalid uncompressed public key", _ENCODED
    ),
    "an RSA key without parameters": Odd(without_parameters, "x509: RSA key missing NULL parameters", _ENCODED),
    "a critical subject key identifier": Odd(
        extends("2.5.29.14", der.element(OCTETS, b"\1" * 20), critical=True),
        "x509: subject key identifier incorrectly marked critical",
        "a critical subject key identifier",
    ),
    "a critical authority key identifier": Odd(
        extends("2.5.29.35", sequence(der.element(0x80, b"\1" * 20)), critical=True),
        "x509: authority key identifier incorrectly marked critical",
        "a critical authority key identifier",
    ),
    "a critical authority information access": Odd(
        extends(
            "1.3.6.1.5.5.7.1.1",
            sequence(sequence(oid("1.3.6.1.5.5.7.48.1"), der.element(URI, b"http://x"))),
            critical=True,
        ),
        "x509: authority info access incorrectly marked critical",
        "a critical authority information access",
    ),
    "a DNS name that is not ASCII": Odd(san(DNS, _MUNICH), "x509: SAN dNSName is malformed", _NOT_ASCII),
    "an address of mail that is not ASCII": Odd(san(MAIL, _MUNICH), "x509: SAN rfc822Name is malformed", _NOT_ASCII),
    "a URI that is not ASCII": Odd(san(URI, _MUNICH), "x509: SAN uniformResourceIdentifier is malformed", _NOT_ASCII),
    "a constraint with a dot at its end": Odd(
        permits(DNS, b"corp."), 'x509: failed to parse dnsName constraint "corp."', "the name constraint 'corp.'"
    ),
    "a constraint with two dots": Odd(
        permits(DNS, b"a..b"), 'x509: failed to parse dnsName constraint "a..b"', "the name constraint 'a..b'"
    ),
    "a constraint with a space": Odd(
        permits(DNS, b"a b"), 'x509: failed to parse dnsName constraint "a b"', "the name constraint 'a b'"
    ),
    "a constraint on mail without a user": Odd(
        permits(MAIL, b"@corp.example"),
        'x509: failed to parse rfc822Name constraint "@corp.example"',
        "the name constraint '@corp.example'",
    ),
    "a constraint on an address as a URI": Odd(
        permits(URI, b"10.0.0.1"),
        'x509: failed to parse URI constraint "10.0.0.1": cannot be IP address',
        "the name constraint '10.0.0.1'",
    ),
    "a constraint that is not ASCII": Odd(
        permits(DNS, _MUNICH), 'x509: invalid constraint value: x509: "M\u00fcnchen"', "the name constraint "
    ),
    "a CRL by a relative name": Odd(
        point(der.element(0xA1, sequence(oid("2.5.4.3"), der.element(UTF8, b"x")))),
        "x509: invalid CRL distribution point",
        "a CRL distribution point with a relative name",
    ),
    "a policy twice": Odd(
        extends("2.5.29.32", sequence(sequence(oid("1.2.3.4")), sequence(oid("1.2.3.4")))),
        "x509: invalid certificate policies",
        "a certificate policy twice",
    ),
}

READ: Final[Mapping[str, Odd]] = {
    "as usual": Odd(root),
    "a BMPString": Odd(names(BMP, "Corp M\u00fcnchen".encode("utf-16-be"))),
    "a T61String": Odd(names(T61, b"Corp")),
    "an IA5String": Odd(names(IA5, b"pki@corp.example")),
    "a NumericString": Odd(names(NUMERIC, b"12 34")),
    "dates of another kind": Odd(dated),
    "a serial number of 40 bytes": Odd(lambda: numbered(b"\x7f" * 40)),
    "an object identifier with 31 bits": Odd(extends(b"\x06\x06\x2a\x87\xff\xff\xff\x7f", b"\5\0")),
    "a policy with a UUID": Odd(extends("2.5.29.32", sequence(sequence(UUID)))),
    "a directory name of another kind": Odd(
        san(DIRECTORY, sequence(der.element(SET, sequence(oid("2.5.4.3"), der.element(VISIBLE, b"x")))))
    ),
    "a URI": Odd(san(URI, b"spiffe://corp.example/ca")),
    "odd constraints": Odd(permits(DNS, b"-corp_1.example")),
    "a constraint on what is below": Odd(permits(DNS, b".corp.example")),
    "a constraint on everything": Odd(permits(DNS, b"")),
    "a constraint on a mailbox": Odd(permits(MAIL, b"pki@corp.example")),
    "a constraint on addresses": Odd(permits(IP, b"\x0a\0\0\0\xff\0\0\0")),
    "a constraint on URIs": Odd(permits(URI, b".corp.example")),
    "a constraint on a directory": Odd(permits(DIRECTORY, sequence(_NAME))),
    "a CRL by URI": Odd(point(der.element(0xA0, der.element(URI, b"ldap:///CN=x,DC=y?crl")))),
    "a CRL by directory name": Odd(point(der.element(0xA0, der.element(DIRECTORY, sequence(_NAME))))),
    "a key for RSASSA-PSS": Odd(lambda: pss_key(rsa_root(), key("root rsa2048", "rsa2048"))),
    "a use twice": Odd(extends("2.5.29.37", sequence(oid(_KEY), oid(_KEY)))),
}
