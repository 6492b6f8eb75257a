"""Checks which bundle the TLS libraries of clients need below a root outside, on a cluster's own files.

Libraries differ in which CA of a chain they take as its end. It was tried with Go, OpenSSL 3.0, GnuTLS 3.7, NSS 3.87,
Java 17, Node, and Python 3.11 and 3.13, and each decides as `openssl verify` does, with a partial chain or without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.host import openssl
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import self_signed
from vaultpki.verify.on_disk import Check, PairOnDisk, read_bundle, tried


@dataclass(frozen=True, slots=True)
class _Libraries:
    """Libraries that take a chain to end at the same CAs: at any CA of their bundle, or at a self-signed one alone."""

    names: str
    options: tuple[str, ...]
    any_ca: bool


_KINDS: Final = (
    _Libraries("Go, curl, GnuTLS, NSS, Java and Python from 3.13", ("-partial_chain",), any_ca=True),
    _Libraries("OpenSSL, Node and Python before 3.13", (), any_ca=False),
)


def library_checks(sound: Sequence[PairOnDisk], now: datetime) -> Iterator[Check]:
    """Check each server's certificate as clients of every kind do, with either bundle; nothing below a root of ours."""
    servers = [pair for pair in sound if pair.certificate.usage.server]
    for ca in ISSUING_CAS:
        for chain in (False, True):
            # Nodes have the same bundle, so one call of openssl is enough for all of them.
            alike: dict[tuple[Facts, ...], tuple[Path, list[PairOnDisk]]] = {}
            for pair in servers:
                path = pair.holder.bundle(ca, chain=chain)
                if pair.certificate.ca == ca and pair.holder.parts(ca).outside and (held := read_bundle(path)):
                    alike.setdefault(held, (path, []))[1].append(pair)
            for held, (path, pairs) in alike.items():
                whole = any(self_signed(facts) for facts in held)
                for kind in _KINDS:
                    options = ["-purpose", "sslserver", *kind.options]
                    said = openssl.verify([pair.crt for pair in pairs], options, trusted=path, now=now)
                    for pair in pairs:
                        target = f"{pair.holder.bundle_name(ca, chain=chain)}, as {kind.names} check it"
                        good = kind.any_ca or whole
                        yield tried(
                            pair.certificate.name, "chain", pair.label, target, good=good, refusal=said[pair.crt]
                        )
