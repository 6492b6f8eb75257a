"""Reads PEM blocks (RFC 7468) from files that people name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from vaultpki.errors import SpecError

MOST_CA_BYTES: Final = 256 * 1024
"""The largest file, in bytes, with the CA of Vault's TLS certificate: every join file contains a copy of it."""

_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")


def pem_certificates(text: str) -> str:
    """Return only the PEM certificates of a CA file; raise SpecError for a private key or a damaged block."""
    if "PRIVATE KEY" in text:
        raise SpecError("the file contains a private key: name a file that contains CA certificates only")
    bodies = pem_bodies(text, "CERTIFICATE")
    if not bodies:
        raise SpecError(
            "the file contains no whole PEM certificate: name one that begins with -----BEGIN CERTIFICATE-----"
        )
    if not all(map(decodes, bodies)):
        raise SpecError("the file contains a PEM certificate that does not decode: copy the CA certificate again")
    return "".join(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n" for body in bodies)


def pem_bodies(text: str, label: str) -> list[str]:
    """Return the stripped content of each PEM block with this label, or an empty list unless all blocks are complete.

    Text between blocks is ignored. The running time is linear in the length of the text.
    """
    _, *blocks = text.split(f"-----BEGIN {label}-----")
    bodies = []
    for block in blocks:
        body, end, _ = block.partition(f"-----END {label}-----")
        inner = body.strip()
        if not (end and inner and body[0].isspace() and _BASE64.fullmatch(body)):
            return []
        bodies.append(inner)
    return bodies


def of_der(der: bytes) -> str:
    """Return a certificate, as DER, in the one form of PEM that vaultpki writes."""
    import base64

    text = base64.b64encode(der).decode()
    lines = (text[start : start + 64] for start in range(0, len(text), 64))
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


def whole_bodies(text: str, label: str) -> Iterator[str]:
    """Yield the stripped content of each complete PEM block with this label; what is damaged is left out."""
    begin = f"-----BEGIN {label}-----"
    for block in text.split(begin)[1:]:
        yield from pem_bodies(begin + block, label)


def fingerprints(text: str) -> frozenset[str]:
    """Return the SHA-256 of each certificate in a text, in hexadecimal; what does not decode is left out."""
    import base64

    return frozenset(
        sha256(base64.b64decode("".join(body.split()))).hexdigest()
        for body in whole_bodies(text, "CERTIFICATE")
        if decodes(body)
    )


def decodes(body: str) -> bool:
    """Return whether the content of a PEM block decodes to the beginning of an ASN.1 sequence."""
    import base64
    import binascii

    try:
        return base64.b64decode("".join(body.split()), validate=True).startswith(b"\x30")
    except binascii.Error:
        return False
