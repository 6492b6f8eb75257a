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

    names: tuple[str, ...]
    options: tuple[str, ...]
    any_ca: bool
    wants: str

    @property
    def text(self) -> str:
        return f"{', '.join(self.names[:-1])} and {self.names[-1]}"


_KINDS: Final = (
    _Libraries(
        ("Go", "curl", "GnuTLS", "NSS", "Java", "Python from 3.13"),
        ("-partial_chain",),
        any_ca=True,
        wants="any CA of the chain",
    ),
    _Libraries(
        ("OpenSSL", "Node", "Python before 3.13"),
        (),
        any_ca=False,
        wants="the self-signed root and every CA between",
    ),
)
_AS: Final = ", as {} check it"


@dataclass(frozen=True, slots=True)
class LibraryNeed:
    """What clients with these libraries need in their bundle, in words, and how it is on a cluster's own files.

    `accepted` are the files with which they accept every server of their CA, `refused` all others.
    """

    libraries: tuple[str, ...]
    wants: str
    accepted: tuple[str, ...]
    refused: tuple[str, ...]


def needs(checks: Sequence[Check]) -> tuple[LibraryNeed, ...]:
    """Return what clients need below a root outside, from what `library_checks` found; nothing below a root of ours."""
    found = []
    for kind in _KINDS:
        end = _AS.format(kind.text)
        said: dict[str, bool] = {}
        for check in checks:
            if check.kind == "chain" and check.target.endswith(end):
                bundle = check.target.removesuffix(end)
                said[bundle] = said.get(bundle, True) and check.got == "accept"
        if said:
            accepted = tuple(sorted(name for name, good in said.items() if good))
            refused = tuple(sorted(name for name, good in said.items() if not good))
            found.append(LibraryNeed(kind.names, kind.wants, accepted, refused))
    return tuple(found)


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
                        target = pair.holder.bundle_name(ca, chain=chain) + _AS.format(kind.text)
                        good = kind.any_ca or whole
                        yield tried(
                            pair.certificate.name, "chain", pair.label, target, good=good, refusal=said[pair.crt]
                        )
