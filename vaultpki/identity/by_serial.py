"""Finds one certificate on the mounts of a cluster's CAs by its serial number, or by its file, and who holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from vaultpki.certificates import MOST_ISSUERS, ROOT, all_cas, all_rows, issuing_cas, stored
from vaultpki.errors import ArgumentError, BadAnswer, Refused
from vaultpki.identity import nodes, revocation
from vaultpki.identity.access import holder_of
from vaultpki.identity.revocation import Chosen, StoredCertificate, Target
from vaultpki.model import NODE, NUMBER, Cluster, Row
from vaultpki.pki import chains, service_account, x509
from vaultpki.pki.chains import chain_up
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.pki.trust import self_signed
from vaultpki.redact import first_few, stamp
from vaultpki.values.names import quoted
from vaultpki.vault import Vault, text

_HEX: Final = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate of `ca`, whose mount has stored it.

    `revoked_at` is None if it was not revoked. `chain` are the CAs above it, its signer first, as far as the mounts
    show them. `rows` are those that it may be of: several only if rows share a subject. `named` is the node whose name
    is in its subject, empty for a name that nodes share. `holders` are the nodes that report it, which may be false.
    `kept` is False for one that is known from a file alone.
    """

    ca: str
    mount: str
    facts: Facts
    revoked_at: datetime | None
    chain: tuple[Facts, ...] = ()
    rows: tuple[Row, ...] = ()
    named: str = ""
    holders: tuple[str, ...] = ()
    kept: bool = True

    @property
    def owner(self) -> str:
        """The node that it was signed for: by its subject, else by the only report of it; empty if not known."""
        return self.named or (self.holders[0] if len(self.holders) == 1 else "")

    @property
    def name(self) -> str:
        """The name of its row; the subject if no row has it."""
        return " or ".join(row.name for row in self.rows) or self.facts.subject_text


def serial_number(written: str) -> int:
    """Return the serial number that a person wrote in hex, as Vault or OpenSSL print it; ArgumentError for another."""
    digits = written.strip().lower().removeprefix("serial=").removeprefix("0x").replace(":", "")
    if not _HEX.fullmatch(digits):
        raise ArgumentError(
            f"{quoted(written)} is not a serial number: write it in hex, with or without colons, as "
            "`openssl x509 -noout -serial -in FILE` prints it"
        )
    return int(digits, 16)


def find_certificate(cluster: Cluster, vault: Vault, serial: int) -> ServerCertificate:
    """Return the certificate with this serial number, revoked and expired ones too.

    Raises ArgumentError if no mount of the cluster has it.
    """

    def look(ca: str) -> ServerCertificate | None:
        return _on_mount(cluster, vault, ca, serial)

    # The certificate of an issuing CA is on its own mount and on the root's, which signed it.
    for found in vault.map(look, all_cas(cluster)):
        if isinstance(found, ServerCertificate):
            return found
    raise ArgumentError(
        f"no CA of {cluster.name} below {cluster.prefix} has a certificate with the serial number "
        f"{serial_text(serial)}: it is another cluster's, or expired and was removed from Vault{_hint(cluster)}"
    )


def _hint(cluster: Cluster) -> str:
    """Return why Vault may not know a certificate of this cluster; empty if it keeps a copy of every one."""
    if all(stored(row, cluster) for row in all_rows(cluster)):
        return ""
    return (
        ", or Vault keeps no copy of it (no_store): `vaultpki show FILE` shows a file, and `vaultpki revoke "
        "--certificate FILE` revokes it"
    )


def of_file(cluster: Cluster, vault: Vault, facts: Facts) -> ServerCertificate:
    """Return the certificate of a file as its CA's mount knows it, also if the mount has no copy of it.

    Raises ArgumentError if no issuer on the mounts of the cluster's issuing CAs has signed it.
    """
    for ca in issuing_cas(cluster):
        mount = cluster.mount(ca)
        if x509.issuer_of(facts, _signers(vault, mount)) is None:
            continue
        found = _on_mount(cluster, vault, ca, facts.serial)
        if found is None:
            return ServerCertificate(ca, mount, facts, None, kept=False)
        if found.facts.fingerprint != facts.fingerprint:
            raise BadAnswer(
                f"{mount}/cert/{serial_text(facts.serial)} shows another certificate; check the address and any proxy "
                "in between"
            )
        return found
    raise ArgumentError(
        f"no issuing CA that {cluster.prefix} shows has signed this certificate, {facts.subject_text}: it is another "
        "cluster's, or its CA was rotated away"
    )


def with_holder(cluster: Cluster, vault: Vault, found: ServerCertificate) -> ServerCertificate:
    """Return the certificate with the CAs above it, its row, and the nodes that report it."""
    facts, ca = found.facts, found.ca
    above = _signers(vault, found.mount)
    chain = [signer] if (signer := x509.issuer_of(facts, above)) is not None and signer != facts else []
    if chain and ca != ROOT:
        shown = _signers(vault, cluster.mount(ROOT))
        ends = [each for each in shown if self_signed(each)]
        # Below a PKI outside there are CAs between, which may be on either mount.
        chain += chain_up(chain[0], ends, [*shown, *above]) or chains.above(chain, shown)
    if facts.is_ca:
        return replace(found, chain=tuple(chain))
    reported = {
        member.name: name
        for member in nodes.members(cluster, vault)
        if member.report is not None
        for name, one in member.report.certificates.items()
        if one.serial and int(one.serial, 16) == facts.serial
    }
    like, named = rows_like(facts, all_rows(cluster), ca), _named(cluster, ca, facts)
    # No report of another node says what a certificate is that has this one's name.
    counted = {reported[named]} if named in reported else set() if named else set(reported.values())
    fitting = tuple(row for row in like if row.name in counted) or like
    holders = tuple(sorted(reported))
    return replace(found, chain=tuple(chain), rows=fitting, named=named, holders=holders)


def rows_like(facts: Facts, table: Sequence[Row], ca: str = "") -> tuple[Row, ...]:
    """Return the rows whose subject and usage a certificate has; `ca` is the CA that signed it, empty if unknown."""
    return tuple(
        row
        for row in table
        if ca in ("", row.ca)
        and row.usage is facts.usage
        and row.organization == facts.subject.organization
        and re.fullmatch(_pattern(row), facts.subject.common_name)
    )


def _pattern(row: Row) -> str:
    return re.escape(row.common_name).replace(re.escape(NODE), ".+").replace(re.escape(NUMBER), "[0-9]+")


def to_revoke(cluster: Cluster, found: ServerCertificate, now: datetime) -> Chosen:
    """Return the certificate as what `revoke.revoke` revokes.

    Raises ArgumentError for the certificate of a CA, and for one that has expired.
    """
    facts, shown = found.facts, serial_text(found.facts.serial)
    if facts.is_ca or found.ca == ROOT:
        raise ArgumentError(
            f"{shown} is the certificate of a CA, {facts.subject_text}, and is not revoked: if its key was stolen, run "
            f"`vaultpki ca rotate {_domain(cluster, facts) or 'DOMAIN'} --emergency{cluster.file_option}`"
        )
    if facts.not_after <= now:
        raise ArgumentError(
            f"{shown} ({found.name}) expired at {stamp(facts.not_after)}: there is nothing to revoke, no component "
            "accepts it any more"
        )
    certificate = StoredCertificate(found.ca, facts, found.revoked_at is not None, found.kept)
    claimants = tuple(node for node in found.holders if node != found.owner) if not found.named else ()
    return Chosen((Target(found.name, certificate, claimants),), ())


def revocation_limits(found: ServerCertificate, chosen: Chosen) -> list[str]:
    """Return what the revocation of this certificate does not do, and what comes next."""
    node = found.owner
    said = revocation.sentences(node or "its holder", chosen, ended=True)
    key = "if its key was stolen"
    lock = f"{key}, run `vaultpki lock {node}` first, which ends all that it can log in with"
    if node in found.holders:
        again = "its agent replaces this one when it next asks Vault (`vaultpki agent --once` there does it at once)"
        said.insert(-1, f"{node} can still get new certificates, and {again}; {lock}")
    elif node:
        said.insert(-1, f"{node} does not report it: it has another one by now, or has not reported yet; {lock}")
    elif found.holders:
        said.insert(-1, f"{first_few(found.holders)} report it, and one node at most holds it; {key}, lock them all")
    elif any(row.operator for row in found.rows):
        row = next(row for row in found.rows if row.operator)
        said.insert(-1, f"whoever needs it gets another one by `vaultpki issue {row.name}`")
    else:
        said.insert(
            -1,
            f"no node reports it: a node that holds it can still get new certificates; {key}, find the node and run "
            "`vaultpki lock NODE`",
        )
    return said


def _named(cluster: Cluster, ca: str, facts: Facts) -> str:
    """Return the node of the cluster whose name is in the subject, as a name that no other node has; else empty."""
    key = service_account.key_name(facts.subject.common_name)
    names = (facts.subject.common_name.removeprefix("system:node:"), *facts.subject.dns, *([key.node] if key else []))
    fitting = (name for name in names if holder_of(cluster, name) is not None)
    return next((name for name in fitting if revocation.names_node(cluster, name, ca, facts)), "")


def _domain(cluster: Cluster, facts: Facts) -> str:
    """Return the CA whose certificate it is; empty if its common name is that of no CA of the cluster."""
    name = facts.subject.common_name
    head = re.escape(f"{cluster.name} ")
    return next((ca for ca in all_cas(cluster) if re.fullmatch(rf"{head}{ca} CA( \d+)?", name)), "")


def _on_mount(cluster: Cluster, vault: Vault, ca: str, serial: int) -> ServerCertificate | None:
    mount, shown = cluster.mount(ca), serial_text(serial)
    answer = vault.api.secrets.pki.read_certificate(shown, mount_point=mount)
    if not answer.found:
        return None
    found = x509.readable(text(answer.data, "certificate"))
    if not found or found[0].serial != serial:
        raise BadAnswer(f"{mount}/cert/{shown} shows another certificate; check the address and any proxy in between")
    when = answer.data.get("revocation_time")
    revoked_at = datetime.fromtimestamp(when, UTC) if type(when) is int and when > 0 else None
    return ServerCertificate(ca, mount, found[0], revoked_at)


def _signers(vault: Vault, mount: str) -> list[Facts]:
    """Return the certificates of the issuers on a mount; none if this token may not read them."""
    pki = vault.api.secrets.pki
    try:
        listed = pki.list_issuers(mount_point=mount).keys[: 2 * MOST_ISSUERS]
        answers = vault.map(lambda id_: pki.read_issuer(id_, mount_point=mount), listed)
    except Refused:
        return []
    return [facts for each in answers if each.found for facts in x509.readable(text(each.data, "certificate"))[:1]]
