"""Reads which certificates the mounts of the CAs have, and which of them are revoked.

What is revoked is one list for each CA, however many nodes there are. A node's own report is not enough: who has
stolen a node does not report that it is revoked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import all_rows, issuing_cas
from vaultpki.errors import BadAnswer, Denied, Refused
from vaultpki.model import Cluster
from vaultpki.vault import Request, Vault, text

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

# The form in which a mount lists serial numbers.
_SERIAL: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){0,31}")


@dataclass(frozen=True, slots=True)
class Revoked:
    """The serial numbers of revoked certificates by the names of their rows, and why some are not known."""

    serials: Mapping[str, frozenset[int]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def has(self, row: str, serial: str) -> bool:
        """Return whether the certificate of a row with this serial number, in hex, was revoked."""
        return bool(serial) and int(serial, 16) in self.serials.get(row, frozenset())


def read(cluster: Cluster, vault: Vault) -> Revoked:
    """Return what the mounts of all issuing CAs show as revoked."""
    cas = issuing_cas(cluster)
    found = dict(zip(cas, vault.map(lambda ca: _read(cluster, vault, ca), cas), strict=True))
    unknown = [ca for ca, serials in found.items() if serials is None]
    paths = ", ".join(f"{cluster.mount(ca)}/certs/revoked" for ca in unknown)
    problem = (
        f"what was revoked is not known: this token may not list {paths}, or the list cannot be read; "
        f"`vaultpki policy{cluster.file_option} viewer` prints what that needs"
    )
    # A row's CA, not the one that a node names: it would name another.
    return Revoked(
        {row.name: found.get(row.ca) or frozenset() for row in all_rows(cluster)}, (problem,) if unknown else ()
    )


def _read(cluster: Cluster, vault: Vault, ca: str) -> frozenset[int] | None:
    """Return the serial numbers on one list, empty if nothing was revoked; None if it cannot be read."""
    try:
        # hvac has no method for it.
        listed = vault.call(Request("LIST", f"{cluster.mount(ca)}/certs/revoked")).keys
    except (Denied, Refused, BadAnswer):
        return None
    return frozenset(int(serial.replace(":", ""), 16) for serial in listed if _SERIAL.fullmatch(serial))


def stored_certificates(vault: Vault, mount: str) -> list[tuple[Facts, bool]]:
    """Return the certificates that a mount has stored, each with whether it was revoked."""
    from vaultpki.pki import x509

    pki = vault.api.secrets.pki
    serials = [serial for serial in pki.list_certificates(mount_point=mount).keys if _SERIAL.fullmatch(serial)]
    answers = vault.map(lambda serial: pki.read_certificate(serial, mount_point=mount), serials)
    # The server may have removed one since it was listed, and others may have signed what none of ours is like.
    there = [each.data for each in answers if each.found]
    found = [(x509.readable(text(data, "certificate")), bool(data.get("revocation_time"))) for data in there]
    return [(facts[0], revoked) for facts, revoked in found if facts]
