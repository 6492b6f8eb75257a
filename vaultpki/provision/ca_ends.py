"""Says when the CAs of a cluster end, and how urgent that is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from vaultpki.certificates import ROOT, all_cas, all_rows
from vaultpki.errors import BadAnswer, Denied, Refused, SpecError
from vaultpki.model import Cluster
from vaultpki.pki import foreign_cas
from vaultpki.pki.ca_life import CaExpiry, CaLife, expiry, foreign_life
from vaultpki.provision.ca_facts import CaFacts, read_ca
from vaultpki.provision.rotation_records import existing
from vaultpki.vault import Vault, text


def of(
    cluster: Cluster, found: Mapping[str, CaFacts], now: datetime, rotating: Collection[str] = ()
) -> tuple[CaExpiry, ...]:
    """Return the end of each CA that exists, in the order of the table; `rotating` are those under rotation.

    The foreign CAs of cluster.yaml come last.
    """
    ends = []
    for ca in all_cas(cluster):
        if ca in found:
            facts = found[ca]
            begins = facts.not_after - timedelta(seconds=facts.life)
            life = CaLife(ca, ca == ROOT, begins, facts.not_after, longest_ttl(cluster, ca))
            ends.append(expiry(life, now, rotating=ca in rotating))
    foreign = foreign_cas.read(cluster).items()
    return (*ends, *(expiry(foreign_life(ca, facts), now) for ca, cas in foreign for facts in cas))


def longest_ttl(cluster: Cluster, ca: str) -> int:
    """Return the longest TTL of the leaves below a CA, in seconds."""
    return max((row.ttl or cluster.ttl for row in all_rows(cluster) if ca in (ROOT, row.ca)), default=cluster.ttl)


def read(cluster: Cluster, vault: Vault, now: datetime) -> tuple[CaExpiry, ...]:
    """Read the CA that each mount signs with, and return their ends; a mount that shows none is left out."""

    def one(ca: str) -> tuple[str, CaFacts | None]:
        try:
            answer = vault.api.secrets.pki.read_certificate("ca", mount_point=cluster.mount(ca))
            return ca, read_ca(ca, text(answer.data, "certificate")) if answer.found else None
        except (BadAnswer, Denied, Refused):
            # Without a default issuer both servers answer 400. `plan` says what is wrong with a mount.
            return ca, None

    found = dict(vault.map(one, all_cas(cluster)))
    return of(cluster, {ca: facts for ca, facts in found.items() if facts is not None}, now, _rotating(cluster, vault))


def _rotating(cluster: Cluster, vault: Vault) -> frozenset[str]:
    """Return the CAs under rotation, as far as the records can be read: only the advice depends on it."""
    try:
        return frozenset(domain for domain, record in existing(cluster, vault).items() if record.active)
    except (Denied, SpecError):
        return frozenset()
