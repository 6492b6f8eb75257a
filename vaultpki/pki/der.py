"""Reads from a certificate's DER (X.690) what `cryptography` does not show: encodings of names, version, serial."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from vaultpki.values import der

elements: Final = der.elements

_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
# The first field of a certificate of version 3: [0] INTEGER 2 (RFC 5280, 4.1). Version 1 has no such field.
_VERSION_3: Final = (0xA0, b"\x02\x01\x02")
_INTEGER: Final = 0x02

# X.680 section 41.4. Go accepts `*` and `&` too, which no name of ours has (encoding/asn1, isPrintable).
_PRINTABLE: Final = re.compile(rb"[A-Za-z0-9 '()+,./:=?-]*")


def refuse_odd(certificate: bytes) -> None:
    """Raise ValueError for a certificate that is not of version 3, or whose serial number is not positive.

    Go's crypto/x509 rejects negative serial numbers and ignores extensions in older versions; RFC 5280 section 4.1.2.2
    requires positive ones.
    """
    _, whole = next(elements(certificate))
    _, signed = next(elements(whole))
    version, (tag, serial) = islice(elements(signed), 2)
    if version != _VERSION_3:
        raise ValueError("not of version 3")
    if tag != _INTEGER or serial[0] & 0x80 or not any(serial):
        raise ValueError("no positive serial number")


def well_encoded(name: bytes) -> list[bool]:
    """Return for each attribute of a Name whether its value is a UTF8String or a PrintableString, as RFC 5280 requires.

    Libraries read other types differently, and Go rejects some of them.
    """
    (_, sequence), *_ = elements(name)
    values = [list(elements(pair))[1] for _, together in elements(sequence) for _, pair in elements(together)]
    return [
        tag == _UTF8_STRING or (tag == _PRINTABLE_STRING and _PRINTABLE.fullmatch(value) is not None)
        for tag, value in values
    ]
