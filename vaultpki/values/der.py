"""Reads the structure of DER (X.690), and whose name and whose signature a certificate has, without `cryptography`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice


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


def names_of(certificate: bytes) -> tuple[bytes, bytes]:
    """Return the issuer and the subject of a certificate of version 3, each as the content of its Name.

    Raises ValueError or IndexError for anything else. The order of the fields is that of RFC 5280, section 4.1.
    """
    (_, whole), *_ = elements(certificate)
    (_, signed), *_ = elements(whole)
    fields = list(islice(elements(signed), 6))
    # Version, serial number, signature algorithm, issuer, validity, subject.
    if len(fields) < 6 or fields[0][0] != 0xA0:
        raise ValueError("not a certificate of version 3")
    return fields[3][1], fields[5][1]
