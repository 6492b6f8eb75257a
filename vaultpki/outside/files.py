"""Reads what the signer of an outside root sends back: PEM, DER or PKCS#7, in any number of files; pure.

Blocks are taken out of their text here and handed on one by one: OpenBao and Vault refuse a comment before a later
block, a BOM, indentation, a missing newline between blocks, and PKCS#7, all of which signers send.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509 as c
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7

from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.redact import printable
from vaultpki.values import der

MOST_SENT_FILES: Final = 32
"""The largest number of files that are read together."""

MOST_SENT_BYTES: Final = 256 * 1024
"""The largest file, in bytes: a PKCS#7 with the whole PKI of a large company has less."""

MOST_SENT_CERTIFICATES: Final = 64
"""The largest number of different certificates in all files; each may have to be tried as the signer of each."""

# Of a DER file, each of which is copied once.
_MOST_PARTS: Final = 4 * MOST_SENT_CERTIFICATES

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
# The length of an element that ends by a mark: BER, which some signers write PKCS#7 in.
_INDEFINITE: Final = b"\x30\x80"


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file as the signer sent it: its name for messages, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SentCertificate:
    """A certificate and the name of the file that it was found in first."""

    facts: Facts
    file: str


@dataclass(frozen=True, slots=True)
class OddCertificate:
    """A certificate that decodes and that no program of a cluster accepts, with the reason.

    `public_key` is the DER of its SubjectPublicKeyInfo, byte for byte.
    """

    subject_text: str
    public_key: bytes
    file: str
    reason: str
    problem: str


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why a file is refused: `reason` is the short name, `problem` the rest of a sentence that begins with its name."""

    file: str
    reason: str
    problem: str


@dataclass(frozen=True, slots=True)
class OtherContent:
    """Something beside the certificates of a file that is not used, such as a CRL."""

    file: str
    what: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What all files contain: each certificate once, in the order of the files."""

    certificates: tuple[SentCertificate, ...] = ()
    odd: tuple[OddCertificate, ...] = ()
    others: tuple[OtherContent, ...] = ()
    problems: tuple[FileProblem, ...] = ()

    @property
    def pem(self) -> str:
        """Return the certificates as clean PEM, which both servers take."""
        return "".join(each.facts.pem for each in self.certificates)

    def adding(self, certificates: Sequence[Facts], source: str) -> Sent:
        """Return this with certificates that are known otherwise; `source` stands for their file in messages."""
        there = {each.facts for each in self.certificates}
        further = (SentCertificate(facts, source) for facts in dict.fromkeys(certificates) if facts not in there)
        return replace(self, certificates=(*self.certificates, *further))


def read_sent(files: Sequence[SentFile]) -> Sent:
    """Read certificates from PEM, DER and PKCS#7 files (RFC 7468, X.690, RFC 2315), in whatever order and text.

    Raises nothing: what is wrong with a file is among the problems, with `too-many`, `too-large`, `private-key`,
    `unreadable` or `no-certificate` as its reason.
    """
    if len(files) > MOST_SENT_FILES:
        what = f"is one of {len(files)} files, and at most {MOST_SENT_FILES} are read together"
        return Sent(problems=(FileProblem(printable(files[MOST_SENT_FILES].name), "too-many", what),))
    found: dict[bytes, SentCertificate | OddCertificate] = {}
    others: list[OtherContent] = []
    problems: list[FileProblem] = []
    for file in files:
        name = printable(file.name)
        try:
            blocks = tuple(_blocks(file.data))
            for each in dict.fromkeys(data for kind, data in blocks if kind == "certificate"):
                if each not in found and len(found) >= MOST_SENT_CERTIFICATES:
                    raise _Faulty("too-many", f"brings the certificates to more than {MOST_SENT_CERTIFICATES}")
                found.setdefault(each, _certificate(each, name))
        except _Faulty as faulty:
            problems.append(FileProblem(name, faulty.reason, faulty.problem))
            continue
        others += [OtherContent(name, _OTHERS[kind]) for kind, _ in dict.fromkeys(blocks) if kind in _OTHERS]
    return Sent(
        tuple(each for each in found.values() if isinstance(each, SentCertificate)),
        tuple(each for each in found.values() if isinstance(each, OddCertificate)),
        tuple(dict.fromkeys(others)),
        tuple(problems),
    )


_OTHERS: Final = {"request": "a signing request", "crl": "a CRL", "other": "something that is no certificate"}
_KEYS: Final = {
    "key": "contains a private key",
    "pkcs12": "is a PKCS#12 file, which is made to carry a private key",
}


class _Faulty(Exception):
    """A file that is refused."""

    def __init__(self, reason: str, problem: str) -> None:
        self.reason, self.problem = reason, problem
        super().__init__(problem)


def _blocks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the kind and the DER of each part of a file; PKCS#7 is opened."""
    if len(data) > MOST_SENT_BYTES:
        raise _Faulty("too-large", f"is longer than {MOST_SENT_BYTES // 1024} KiB")
    if data.startswith(_UTF16):
        # What PowerShell writes with `>`.
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    if _KEY.search(data):
        raise _Faulty("private-key", _KEYS["key"])
    parts = list(_pem(data) if _BEGIN in data else _der(data))
    kinds = [(_kind(part), part) for part in parts]
    for kind, _ in kinds:
        if kind in _KEYS:
            raise _Faulty("private-key", _KEYS[kind])
    opened = [
        (("certificate", each) if kind == "pkcs7" else (kind, part))
        for kind, part in kinds
        for each in (_opened(part) if kind == "pkcs7" else (part,))
    ]
    if not any(kind == "certificate" for kind, _ in opened):
        held = next((_OTHERS[kind] for kind, _ in opened if kind in _OTHERS), "nothing that can be read")
        raise _Faulty("no-certificate", f"contains no certificate, but {held}")
    yield from opened


def _pem(data: bytes) -> Iterator[bytes]:
    # The running time is linear in the length: no part is looked at twice.
    for piece in data.split(_BEGIN)[1:]:
        label, dashes, rest = piece.partition(_DASHES)
        if not dashes or not _LABEL.fullmatch(label):
            continue
        body, end, _ = rest.partition(_DASHES + b"END " + label + _DASHES)
        shown = label.decode("ascii")
        if not end:
            raise _Faulty("unreadable", f"contains a block {shown} without its end: it was cut short")
        try:
            decoded = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            raise _Faulty("unreadable", f"contains a block {shown} that does not decode") from None
        yield _first(decoded) if label == _TRUSTED else decoded


def _der(data: bytes) -> Iterator[bytes]:
    if data.startswith(_INDEFINITE):
        yield data
        return
    elements = _elements(data)
    if not elements or any(tag != _SEQUENCE for tag, _ in elements):
        raise _Faulty("unreadable", "is empty" if not data.strip() else "is neither PEM nor DER nor PKCS#7")
    yield from (der.element(*each) for each in elements)


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements that follow each other in a file, or none if it is no DER."""
    found: list[tuple[int, bytes]] = []
    at = 0
    # A mail program adds a newline; 0x0A may also be the last byte of a signature.
    while at < len(data) and (data[at] == _SEQUENCE or data[at:].strip()):
        if len(found) >= _MOST_PARTS:
            raise _Faulty("too-many", f"has more than {_MOST_PARTS} parts")
        try:
            first = next(der.elements(data[at:]))
        except (ValueError, IndexError):
            return []
        found.append(first)
        at += len(der.element(*first))
    return found


def _first(data: bytes) -> bytes:
    try:
        return der.element(*next(der.elements(data)))
    except (ValueError, IndexError, StopIteration):
        return data


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
    try:
        with warnings.catch_warnings():
            # `cryptography` warns of BER.
            warnings.simplefilter("ignore")
            held = pkcs7.load_der_pkcs7_certificates(data)
        yield from (each.public_bytes(Encoding.DER) for each in held)
    # As for `keys.parsing`: there is no closed list of what its parsers raise.
    except Exception:  # noqa: BLE001 - the line above
        raise _Faulty("unreadable", "contains a PKCS#7 that does not decode") from None


def _certificate(data: bytes, file: str) -> SentCertificate | OddCertificate:
    try:
        return SentCertificate(x509.read_certificates(_as_pem(data))[0], file)
    except CertificateUnreadable:
        return _odd(data, file)


def _odd(data: bytes, file: str) -> OddCertificate:
    """Return why no program of a cluster accepts a certificate that decodes; _Faulty if it does not decode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = c.load_der_x509_certificate(data)
            subject, version, serial = read.subject.rfc4514_string(), read.version, read.serial_number
            key = der.certificate_parts(data).public_key
    # As above.
    except Exception:  # noqa: BLE001 - the line above
        raise _Faulty("unreadable", "contains a certificate that does not decode") from None
    if version is not c.Version.v3:
        reason, problem = "version-1", "is of version 1, which has no extensions and so cannot be a CA"
    elif serial <= 0:
        reason, problem = "serial-number", "has a serial number that is not positive"
    else:
        reason, problem = "odd-certificate", "has a key or an extension that cannot be read"
    return OddCertificate(printable(subject), _normal(read, key), file, reason, problem)


def _normal(read: c.Certificate, key: bytes) -> bytes:
    try:
        return read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Kinds of keys that `cryptography` does not know.
    except Exception:  # noqa: BLE001 - the line above
        return key


def _as_pem(data: bytes) -> bytes:
    body = base64.encodebytes(data)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
