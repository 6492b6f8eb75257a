"""Takes the certificates out of a file that a person names: PEM, DER or PKCS#7, whatever text is around them; pure.

OpenBao and Vault refuse a comment before a later block, a BOM, indentation, a missing newline between blocks, and
PKCS#7, all of which signers send.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.values import der

MOST_FILE_BYTES: Final = 256 * 1024
"""The largest file, in bytes: a PKCS#7 with the whole PKI of a large company has less."""

# Of a DER file, each of which is copied once.
_MOST_PARTS: Final = 256
# Of a PKCS#7, in which certificates stand at the fifth level.
_DEEPEST: Final = 16

_BEGIN: Final = b"-----BEGIN "
_DASHES: Final = b"-----"
_LABEL: Final = re.compile(rb"[A-Z0-9 #]{1,40}")
# Damaged keys too, and those of OpenSSH and PGP.
_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY", re.IGNORECASE)
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
# A certificate for OpenSSL's own store: what it is trusted for follows it in the block.
_TRUSTED: Final = b"TRUSTED CERTIFICATE"

# Tags of DER (X.690), and the OID 1.2.840.113549.1.7.2 of PKCS#7 signedData.
_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_BITS: Final = 0x03
_OCTETS: Final = 0x04
_OID: Final = 0x06
_TIMES: Final = (0x17, 0x18)
_SIGNED_DATA: Final = bytes.fromhex("2a864886f70d010702")
# In signedData (RFC 2315, 9.1): certificates [0] IMPLICIT.
_CERTIFICATES: Final = 0xA0
# The length of an element that ends by a mark: BER, which some signers write PKCS#7 in.
_INDEFINITE: Final = b"\x30\x80"
_MARK: Final = b"\x00\x00"

_OTHERS: Final = {"request": "a signing request", "crl": "a CRL", "other": "something that is no certificate"}
_KEYS: Final = {
    "key": "contains a private key",
    "pkcs12": "is a PKCS#12 file, which is made to carry a private key",
}


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file contains: each certificate once, as DER, what else there is, and every reason to refuse the file.

    A problem is `too-large`, `too-many`, `private-key`, `unreadable` or `no-certificate`, and the rest of a sentence
    that begins with the name of the file.
    """

    certificates: tuple[bytes, ...] = ()
    others: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


def read(data: bytes) -> FileContent:
    """Read a file in PEM, DER or PKCS#7 (RFC 7468, X.690, RFC 2315); raises nothing.

    A certificate is what has the form of one; whether it decodes is for others to say.
    """
    if len(data) > MOST_FILE_BYTES:
        return FileContent(problems=(("too-large", f"is longer than {MOST_FILE_BYTES // 1024} KiB"),))
    if data.startswith(_UTF16):
        # What PowerShell writes with `>`.
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    problems = [("private-key", _KEYS["key"])] if _KEY.search(data) else []
    found: list[tuple[str, bytes]] = []
    for part in _pem(data) if _BEGIN in data else _der(data):
        if isinstance(part, str):
            problems.append(("unreadable", part))
            continue
        kind = _kind(part)
        if kind in _KEYS:
            problems.append(("private-key", _KEYS[kind]))
        try:
            found += [("certificate", each) for each in _opened(part)] if kind == "pkcs7" else [(kind, part)]
        except (ValueError, IndexError):
            problems.append(("unreadable", "contains a PKCS#7 that does not decode"))
    if len(found) > _MOST_PARTS:
        problems.append(("too-many", f"has more than {_MOST_PARTS} parts"))
        found = found[:_MOST_PARTS]
    certificates = tuple(dict.fromkeys(each for kind, each in found if kind == "certificate"))
    others = tuple(dict.fromkeys(_OTHERS[kind] for kind, _ in found if kind in _OTHERS))
    if not certificates and not problems:
        held = next(iter(others), "nothing that can be read")
        problems.append(("no-certificate", f"contains no certificate, but {held}"))
    return FileContent(certificates, others, tuple(dict.fromkeys(problems)))


def _pem(data: bytes) -> Iterator[bytes | str]:
    """Yield the DER of each block, or why it cannot be read."""
    # The running time is linear in the length: no part is looked at twice.
    for piece in data.split(_BEGIN)[1:]:
        label, dashes, rest = piece.partition(_DASHES)
        if not dashes or not _LABEL.fullmatch(label) or b"PRIVATE KEY" in label:
            continue
        body, end, _ = rest.partition(_DASHES + b"END " + label + _DASHES)
        shown = label.decode("ascii")
        if not end:
            yield f"contains a block {shown} without its end: it was cut short"
            continue
        try:
            decoded = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            yield f"contains a block {shown} that does not decode"
            continue
        yield _first(decoded) if label == _TRUSTED else decoded


def _der(data: bytes) -> Iterator[bytes | str]:
    """Yield the elements that follow each other in a file, or why there are none."""
    if data.startswith(_INDEFINITE):
        yield data
        return
    at = 0
    # One more than is possible is said by the count. A mail program adds a newline, which may also end a signature.
    for _ in range(_MOST_PARTS + 1):
        if at == len(data) or (data[at] != _SEQUENCE and not data[at:].strip()):
            break
        first = _first(data[at:]) if data[at] == _SEQUENCE else b""
        if not first:
            yield "is neither PEM nor DER nor PKCS#7"
            return
        yield first
        at += len(first)
    if at == 0:
        yield "is empty"


def _first(data: bytes) -> bytes:
    """Return the first element of a DER; empty if it is none."""
    try:
        return der.element(*next(der.elements(data)))
    except (ValueError, IndexError, StopIteration):
        return b""


def _kind(data: bytes) -> str:
    """Return what a DER is by its form, whatever its label says: some signers write PKCS#7 as CERTIFICATE."""
    if data.startswith(_INDEFINITE):
        return "pkcs7"
    try:
        ((tag, whole),) = der.elements(data)
        fields = list(der.elements(whole)) if tag == _SEQUENCE else []
        return _form(fields)
    except (ValueError, IndexError):
        # The parser of certificates says that it cannot read it.
        return "certificate"


def _form(fields: Sequence[tuple[int, bytes]]) -> str:
    tags = tuple(tag for tag, _ in fields)
    if tags[:1] == (_OID,):
        return "pkcs7" if fields[0][1] == _SIGNED_DATA else "other"
    if tags[:1] == (_INTEGER,):
        # RFC 5208, 5958, 8017, 5915: PKCS#8, PKCS#1 and SEC1 begin with version 0 or 1; RFC 7292: PKCS#12 with 3.
        version = int.from_bytes(fields[0][1], "big")
        return "key" if version in (0, 1) else "pkcs12" if version == 3 and _SEQUENCE in tags else "other"
    if tags == (_SEQUENCE, _OCTETS):
        # EncryptedPrivateKeyInfo (RFC 5208 section 6).
        return "key"
    if tags != (_SEQUENCE, _SEQUENCE, _BITS):
        return "other"
    inner = [tag for tag, _ in der.elements(fields[0][1])]
    if any(tag in _TIMES for tag in inner):
        return "crl"
    return "request" if inner[:1] == [_INTEGER] and len(inner) <= 4 else "certificate"


def _opened(data: bytes) -> Iterator[bytes]:
    """Yield the certificates of a PKCS#7; raises ValueError or IndexError if it does not decode."""
    (_, content), *_ = _ber(data)
    (_, oid), (_, explicit), *_ = _ber(content)
    if oid != _SIGNED_DATA:
        raise ValueError("not signedData")
    (_, signed), *_ = _ber(explicit)
    for tag, field in _ber(signed):
        if tag == _CERTIFICATES:
            yield from (der.element(*each) for each in _ber(field))


def _ber(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tag and the content of each element, also of those that end by a mark (X.690, 8.1.3.6)."""
    found, at = [], 0
    while at < len(data):
        tag, content, at = _element(data, at, _DEEPEST)
        found.append((tag, content))
    return found


def _element(data: bytes, at: int, deepest: int) -> tuple[int, bytes, int]:
    """Return the tag, the content and the end of the element that begins at an offset in bytes."""
    length, begin = data[at + 1], at + 2
    if length == _INDEFINITE[1]:
        if not deepest:
            raise ValueError("too deep")
        end = begin
        while data[end : end + 2] != _MARK:
            _, _, end = _element(data, end, deepest - 1)
        return data[at], data[begin:end], end + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
    if len(data) - begin < length:
        raise ValueError("cut short")
    return data[at], data[begin : begin + length], begin + length
