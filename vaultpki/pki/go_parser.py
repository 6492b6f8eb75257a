"""Finds what Go's crypto/x509 refuses to parse, and `cryptography` and OpenSSL read; pure.

Every component of Kubernetes and etcd is written in Go, and one such certificate in a file makes most of them refuse
the whole file. Go 1.26 was asked (`ParseCertificate`); a test asks it again for each of these.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from vaultpki.pki.facts import Facts
from vaultpki.values import der

NEVER_CRITICAL: Final = {
    "2.5.29.14": "subject key identifier",
    "2.5.29.35": "authority key identifier",
    "1.3.6.1.5.5.7.1.1": "authority information access",
}
"""The extensions, by object identifier, that Go refuses if they are marked critical."""

# Tags of DER (X.680).
_OID: Final = 0x06
_EXTENSIONS: Final = 0xA3
_NUMERIC_STRING, _BMP_STRING = 0x12, 0x1E
# UTF8String, PrintableString, T61String and IA5String.
_STRINGS: Final = {0x0C, _NUMERIC_STRING, 0x13, 0x14, 0x16, _BMP_STRING}
_OTHER_STRINGS: Final = {0x1A: "a VisibleString", 0x1C: "a UniversalString"}
# GeneralName (RFC 5280, section 4.2.1.6).
_MAIL, _DNS, _URI = 0x81, 0x82, 0x86
_FULL_NAME: Final = 0xA0

# RFC 4055, section 1.2.
_PSS_KEY: Final = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"

# The contents of extension identifiers (RFC 5280, section 4.2.1).
_SUBJECT_ALTERNATIVE_NAME: Final = b"\x55\x1d\x11"
_NAME_CONSTRAINTS: Final = b"\x55\x1d\x1e"
_CRL_POINTS: Final = b"\x55\x1d\x1f"
_POLICIES: Final = b"\x55\x1d\x20"
_EXTENDED_KEY_USAGE: Final = b"\x55\x1d\x25"

_NUMERIC: Final = re.compile(rb"[0-9 ]*")
# Surrogates, which pairs of units are decoded from, and what Unicode keeps for itself (parseASN1String).
_NOT_IN_BMP: Final = re.compile("[\ud800-\udfff\ufdd0-\ufdef\ufffe-\U0010ffff]")
_DOMAIN: Final = re.compile(rb"(?:\.?[^\0- .\x7f-\xff]+(?:\.[^\0- .\x7f-\xff]+)*)?")
_MAILBOX: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@")


# A bundle of many nodes has the same CAs.
@lru_cache(maxsize=128)
def unread_by_go(facts: Facts) -> str:
    """Return all that a certificate has and Go refuses, as what follows `it has`; empty if Go parses it."""
    found = " and ".join(dict.fromkeys(_oddities(facts)))
    return f"{found}, which no component of Kubernetes reads" if found else ""


def _oddities(facts: Facts) -> Iterator[str]:
    parts = der.certificate_parts(facts.der)
    for name in (parts.subject, parts.issuer):
        yield from filter(None, (_string(tag, value) for tag, value in der.leaves(name) if tag != _OID))
    (_, whole), *_ = der.elements(facts.der)
    (_, signed), *_ = der.elements(whole)
    extensions = dict(_extensions(signed))
    oids = [*der.leaves(signed), *der.leaves(extensions.get(_EXTENDED_KEY_USAGE, b""))]
    if any(tag == _OID and _too_large(value) for tag, value in oids):
        yield "an object identifier with a number of more than 31 bits"
    # `Facts.public_key` is written by cryptography, which has one form for both kinds of RSA.
    if parts.public_key != facts.public_key and _PSS_KEY not in parts.public_key:
        yield "a key in an unusual encoding"
    if (facts.path_length or 0) >= 1 << 63:
        yield "a path length of more than 63 bits"
    if len(set(parts.algorithms)) > 1:
        yield "two different algorithms of its signature"
    for oid in sorted(facts.critical & NEVER_CRITICAL.keys()):
        yield f"a critical {NEVER_CRITICAL[oid]}"
    yield from _in_extensions(extensions)


def _in_extensions(extensions: dict[bytes, bytes]) -> Iterator[str]:
    for tag, value in der.elements(_content(extensions, _SUBJECT_ALTERNATIVE_NAME)):
        if tag in (_MAIL, _DNS, _URI) and not value.isascii():
            yield "a subject alternative name that is not ASCII"
    for _, subtrees in der.elements(_content(extensions, _NAME_CONSTRAINTS)):
        for _, subtree in der.elements(subtrees):
            tag, base = next(der.elements(subtree))
            if not _fits_constraint(tag, base):
                yield f"the name constraint {base.decode('ascii', 'replace')!r}"
    for _, point in der.elements(_content(extensions, _CRL_POINTS)):
        names = [value for tag, value in der.elements(point) if tag == _FULL_NAME]
        if any(tag != _FULL_NAME for value in names for tag, _ in der.elements(value)):
            yield "a CRL distribution point with a relative name"
    policies = [next(der.elements(policy)) for _, policy in der.elements(_content(extensions, _POLICIES))]
    if len(set(policies)) < len(policies):
        yield "a certificate policy twice"


def _extensions(signed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the identifier and the value of each extension."""
    for _, listed in (each for each in der.elements(signed) if each[0] == _EXTENSIONS):
        for _, extension in der.elements(next(der.elements(listed))[1]):
            (_, oid), *_, (_, value) = der.elements(extension)
            yield oid, value


def _content(extensions: dict[bytes, bytes], oid: bytes) -> bytes:
    """Return what is in the SEQUENCE that an extension is, empty without it."""
    return next(der.elements(extensions[oid]))[1] if extensions.get(oid) else b""


def _string(tag: int, value: bytes) -> str:
    """Return what is wrong with a value of a name; `cryptography` refuses other contents by itself."""
    if tag not in _STRINGS:
        return f"a name that is {_OTHER_STRINGS.get(tag, 'no string')}"
    if tag == _NUMERIC_STRING and not _NUMERIC.fullmatch(value):
        return "a NumericString in a name with other characters than digits"
    if tag == _BMP_STRING and _NOT_IN_BMP.search(value.decode("utf-16-be", "surrogatepass")):
        return "a BMPString in a name with a character that none has"
    return ""


def _too_large(oid: bytes) -> bool:
    number = 0
    for byte in oid:
        number = number << 7 | byte & 0x7F
        if number >= 1 << 31:
            return True
        number = number if byte & 0x80 else 0
    return False


def _fits_constraint(tag: int, base: bytes) -> bool:
    """Return whether Go takes a name constraint (domainNameValid and parseRFC2821Mailbox); of most kinds any."""
    domain = base
    if tag == _MAIL and b"@" in base:
        box = _MAILBOX.match(base)
        if box is None:
            return False
        domain = base[box.end() :]
    if tag == _URI and _is_address(base):
        return False
    return tag not in (_MAIL, _DNS, _URI) or _DOMAIN.fullmatch(domain) is not None


def _is_address(text: bytes) -> bool:
    try:
        ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return False
    return True
