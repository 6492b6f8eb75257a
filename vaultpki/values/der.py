"""Reads the structure of DER (X.690), and from a certificate what `cryptography` does not show, such as encodings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
# The first field of a certificate of version 3: [0] INTEGER 2 (RFC 5280, 4.1). Version 1 has no such field.
_VERSION_3: Final = (0xA0, b"\x02\x01\x02")
_INTEGER: Final = 0x02
_NULL: Final = 0x05
_CONSTRUCTED: Final = 0x20

# X.680 section 41.4.
_PRINTABLE: Final = re.compile(rb"[A-Za-z0-9 '()+,./:=?-]*")
# What Go accepts (encoding/asn1, isPrintable); OpenSSL and GnuTLS read any byte.
_NOT_FOR_GO: Final = re.compile(rb"[^A-Za-z0-9 '()+,./:=?*&-]")


def elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element; raises ValueError or IndexError for anything but DER."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if len(der) - at < length:
            raise ValueError("cut short")
        yield tag, der[at : at + length]
        at += length


def oddities(certificate: bytes) -> Iterator[tuple[str, str]]:
    """Yield why no program of a cluster takes a certificate: a short name, and the rest of a sentence about it.

    Go's crypto/x509 rejects negative serial numbers and ignores extensions in older versions; RFC 5280 section 4.1.2.2
    requires positive ones. Raises ValueError or IndexError for anything but a certificate.
    """
    version, serial = _version_and_serial(certificate)
    if version != _VERSION_3:
        yield "version-1", "is not of version 3, so it has no extensions that count and cannot be a CA"
    if not _positive(serial):
        yield "serial-number", "has a serial number that is not positive"
    if found := sorted({each for value in _printable_strings(certificate) for each in _NOT_FOR_GO.findall(value)}):
        shown = " and ".join(f"`{each.decode('ascii')}`" if b" " < each < b"\x7f" else each.hex() for each in found[:3])
        yield "name-encoded", f"has {shown} in a name that is a PrintableString, which Go does not read"


def refuse_odd(certificate: bytes) -> None:
    """Raise ValueError for a certificate that has oddities."""
    for _, why in oddities(certificate):
        raise ValueError(why)


def readable(certificate: bytes) -> bytes:
    """Return a certificate of which `cryptography` can read the values; its signature may not fit it any more.

    It loads none with other characters in a PrintableString than X.680 has, such as `&`: they become UTF8Strings here.
    It warns of serial numbers that are not positive, and is to refuse them: here they are.
    """
    _, serial = _version_and_serial(certificate)
    if not _positive(serial):
        positive = (_INTEGER, bytes((serial[1][0] & 0x7F | 1,)) + serial[1][1:])
        certificate = certificate.replace(element(*serial), element(*positive), 1)
    for value in set(_printable_strings(certificate)):
        if not _PRINTABLE.fullmatch(value):
            shown = value.decode("ascii", "replace").encode("ascii", "replace")
            certificate = certificate.replace(element(_PRINTABLE_STRING, value), element(_UTF8_STRING, shown))
    return certificate


def _version_and_serial(certificate: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    _, whole = next(elements(certificate))
    _, signed = next(elements(whole))
    first, second = islice(elements(signed), 2)
    return first, second if first[0] == _VERSION_3[0] else first


def _positive(serial: tuple[int, bytes]) -> bool:
    tag, number = serial
    return tag == _INTEGER and not number[0] & 0x80 and any(number)


def _printable_strings(certificate: bytes) -> Iterator[bytes]:
    parts = certificate_parts(certificate)
    for name in (parts.issuer, parts.subject):
        yield from (value for tag, value in leaves(name) if tag == _PRINTABLE_STRING)


def well_encoded(name: bytes) -> list[bool]:
    """Return for each attribute of a Name whether its value is a UTF8String or a PrintableString, as RFC 5280 requires.

    Libraries read other types differently, and Go rejects some of them.
    """
    (_, sequence), *_ = elements(name)
    values = [list(elements(pair))[1] for _, together in elements(sequence) for _, pair in elements(together)]
    return [
        tag == _UTF8_STRING or (tag == _PRINTABLE_STRING and not _NOT_FOR_GO.search(value)) for tag, value in values
    ]


def element(tag: int, content: bytes) -> bytes:
    """Return the DER of one element with a tag of one byte."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@dataclass(frozen=True, slots=True)
class DerParts:
    """The parts of a certificate or a signing request as DER, byte for byte; `issuer` is empty in a request.

    Go compares names by these bytes, not by what they say (crypto/x509, Certificate.isValid). `algorithms` are the
    identifiers of the signature's algorithm, which a certificate has twice.
    """

    subject: bytes
    public_key: bytes
    issuer: bytes = b""
    algorithms: tuple[bytes, ...] = ()


def certificate_parts(certificate: bytes) -> DerParts:
    """Return the parts of a certificate of any version; raises ValueError or IndexError for anything else."""
    _, whole = next(elements(certificate))
    (_, signed), algorithm, *_ = elements(whole)
    fields = list(elements(signed))
    # Version 1 has no such field (RFC 5280, 4.1).
    _, inner, issuer, _, subject, public_key = fields[fields[0][0] == _VERSION_3[0] :][:6]
    return DerParts(element(*subject), element(*public_key), element(*issuer), (element(*inner), element(*algorithm)))


def signed_part(certificate: bytes) -> bytes:
    """Return what the signature of a certificate is made over, byte for byte; raises ValueError or IndexError."""
    _, whole = next(elements(certificate))
    return element(*next(elements(whole)))


def request_parts(request: bytes) -> DerParts:
    """Return the parts of a PKCS#10 request (RFC 2986); raises ValueError or IndexError for anything else."""
    _, whole = next(elements(request))
    (_, info), *_ = elements(whole)
    _, subject, public_key, *_ = elements(info)
    return DerParts(element(*subject), element(*public_key))


def leaves(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the primitive elements inside, in their order, without NULLs."""
    for tag, content in elements(der):
        if tag & _CONSTRUCTED:
            yield from leaves(content)
        elif tag != _NULL:
            yield tag, content
