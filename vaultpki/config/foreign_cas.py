"""Reads `ca.also_trust` of cluster.yaml: files with CAs that are not the cluster's, by domain.

Only whole certificates are taken from a file. Whether each is a CA is checked by `pki.foreign_cas`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.config import kinds
from vaultpki.config.fields import FieldValue, ListOf, MapOf, Text
from vaultpki.errors import SpecError
from vaultpki.model import ForeignCa
from vaultpki.records.foreign_cas import MOST_CAS, MOST_FOREIGN_BYTES, MOST_PINS
from vaultpki.values import pem
from vaultpki.values.names import quoted


def _domain(text: str) -> str:
    if text not in ISSUING_CAS:
        raise SpecError(f"{quoted(text)} is not an issuing CA: write one of {', '.join(ISSUING_CAS)}")
    return text


_DOMAIN: Final = Text(_domain, "an issuing CA", f"^({'|'.join(ISSUING_CAS)})$")

FILES: Final = MapOf(_DOMAIN, ListOf(kinds.FILE_PATH, 1, MOST_CAS))
"""The value of `also_trust` in cluster.yaml."""

PINS: Final = MapOf(_DOMAIN, ListOf(kinds.SHA256, 1, MOST_PINS))
"""The value of `also_trust` in agent.yaml."""

ReadFile = Callable[[FieldValue, Callable[[str], list[bytes]]], list[bytes]]
"""Returns what a check makes of the text of the file that a value names; SpecError with the place of the value."""


def read(found: FieldValue, content: ReadFile) -> tuple[ForeignCa, ...]:
    """Return the foreign CAs in the files that `found` names; SpecError with file, line and field for a wrong one.

    `content` reads a file.
    """
    return tuple(each for ca in ISSUING_CAS if found.has(ca) for each in _of_domain(ca, found, content))


def pins(found: FieldValue) -> dict[str, tuple[str, ...]]:
    """Return the SHA-256 in agent.yaml by domain."""
    return {ca: found.get(ca) for ca in ISSUING_CAS if found.has(ca)}


def _of_domain(ca: str, found: FieldValue, content: ReadFile) -> Iterator[ForeignCa]:
    seen: dict[str, FieldValue] = {}
    size = 0
    for item in found.items(ca):
        for der in content(item, _certificates):
            made = ForeignCa(
                ca, pem.of_der(der), sha256(der).hexdigest(), item.value, (item.place.line, item.place.path)
            )
            size += len(made.pem)
            if made.sha256 in seen:
                first = seen[made.sha256]
                where = "twice in it" if first is item else f"also in {first.value}, line {first.place.line}"
                raise item.refuse(f"the certificate with the SHA-256 {made.sha256} is {where}: keep one of them")
            seen[made.sha256] = item
            if len(seen) > MOST_CAS:
                raise item.refuse(f"with this file {ca} has more than {MOST_CAS} foreign CAs: leave some out")
            if size > MOST_FOREIGN_BYTES:
                most = f"{MOST_FOREIGN_BYTES // 1024} KiB"
                raise item.refuse(f"with this file the foreign CAs of {ca} are larger than {most}: leave some out")
            yield made


def _certificates(text: str) -> list[bytes]:
    """Return the DER of each certificate in a CA file; SpecError for a private key or a damaged block."""
    bodies = pem.pem_bodies(pem.pem_certificates(text), "CERTIFICATE")
    return [base64.b64decode("".join(body.split())) for body in bodies]
