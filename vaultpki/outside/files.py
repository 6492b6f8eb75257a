"""Reads what the signer of an outside root sends back: PEM, DER or PKCS#7, in any number of files; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509 as c
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.redact import printable
from vaultpki.values import certificate_forms, der

MOST_SENT_FILES: Final = 32
"""The largest number of files that are read together."""

MOST_SENT_CERTIFICATES: Final = 64
"""The largest number of different certificates in all files; each may have to be tried as the signer of each."""


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
    """A certificate that decodes, and that has a key or an extension that cannot be read.

    `public_key` is the DER of its SubjectPublicKeyInfo, byte for byte.
    """

    subject_text: str
    public_key: bytes
    file: str


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
    """Read certificates from PEM, DER and PKCS#7 files, in whatever order and text; see `values.certificate_forms`.

    Raises nothing: all that is wrong with a file is among the problems, with `too-many`, `too-large`, `private-key`,
    `unreadable` or `no-certificate` as its reason. A certificate with `der.oddities` is read, to be judged.
    """
    if len(files) > MOST_SENT_FILES:
        what = f"is one of {len(files)} files, and at most {MOST_SENT_FILES} are read together"
        return Sent(problems=(FileProblem(printable(files[MOST_SENT_FILES].name), "too-many", what),))
    found: dict[bytes, SentCertificate | OddCertificate] = {}
    others: list[OtherContent] = []
    problems: list[FileProblem] = []
    for file in files:
        name, content = printable(file.name), certificate_forms.read(file.data)
        others += [OtherContent(name, what) for what in content.others]
        problems += [FileProblem(name, *problem) for problem in content.problems]
        new = [each for each in content.certificates if each not in found]
        if len(found) + len(new) > MOST_SENT_CERTIFICATES:
            what = f"brings the certificates to more than {MOST_SENT_CERTIFICATES}"
            problems.append(FileProblem(name, "too-many", what))
            continue
        for each in new:
            if (certificate := _certificate(each, name)) is not None:
                found[each] = certificate
            else:
                problems.append(FileProblem(name, "unreadable", "contains a certificate that does not decode"))
    return Sent(
        tuple(each for each in found.values() if isinstance(each, SentCertificate)),
        tuple(each for each in found.values() if isinstance(each, OddCertificate)),
        tuple(dict.fromkeys(others)),
        tuple(dict.fromkeys(problems)),
    )


def _certificate(data: bytes, file: str) -> SentCertificate | OddCertificate | None:
    """Return a certificate, or what is known of one with parts that cannot be read; None if it does not decode."""
    try:
        return SentCertificate(x509.read_any(data), file)
    except CertificateUnreadable:
        pass
    try:
        read = c.load_der_x509_certificate(der.readable(data))
        subject, key = read.subject.rfc4514_string(), der.certificate_parts(data).public_key
    # As for `keys.parsing`: there is no closed list of what its parsers raise.
    except Exception:  # noqa: BLE001 - the line above
        return None
    return OddCertificate(printable(subject), _normal(read, key), file)


def _normal(read: c.Certificate, key: bytes) -> bytes:
    try:
        return read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Kinds of keys that `cryptography` does not know.
    except Exception:  # noqa: BLE001 - the line above
        return key
