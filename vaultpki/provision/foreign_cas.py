"""Foreign CAs in a plan: which are refused, which are added and removed, and what that means for nodes; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vaultpki.certificates import ISSUING_CAS, ca_subject
from vaultpki.model import Cluster
from vaultpki.pki import foreign_cas
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named
from vaultpki.provision.plan import Change
from vaultpki.records.foreign_cas import FIELD
from vaultpki.records.rotation import DOMAINS

if TYPE_CHECKING:
    from vaultpki.provision.observe import Observation


@dataclass(frozen=True, slots=True)
class ForeignChange:
    """What changes in the foreign CAs of one domain: the certificates that are offered anew, and those no more.

    `unreadable` says that the record had something else, which no vaultpki wrote.
    """

    ca: str
    added: tuple[Facts, ...]
    removed: tuple[Facts, ...]
    unreadable: bool = False


def refuse_unfit(cluster: Cluster, seen: Observation, now: datetime) -> None:
    """Raise SpecError if a foreign CA of cluster.yaml is one of the cluster's own, or is new and not in date."""
    if not cluster.authority.also_trust:
        return
    foreign_cas.refuse_own(cluster, _own(cluster, seen))
    record = seen.observed.objects.get(("config", f"{cluster.mount('config')}/cluster"), {})
    foreign_cas.refuse_expired(cluster, _pems(record.get(FIELD)), now)


def changes_of(cluster: Cluster, change: Change) -> Iterator[ForeignChange]:
    """Yield what a change of the cluster's record does to foreign CAs, by domain in the order of the table."""
    if change.key != ("config", f"{cluster.mount('config')}/cluster") or FIELD not in change.fields:
        return
    old, new = change.fields[FIELD]
    before, after = _pems(old), _pems(new)
    for ca in ISSUING_CAS:
        had, has = before.get(ca, ()), after.get(ca, ())
        if had == has:
            continue
        sides = [[facts for pem in pems for facts in _readable(pem)] for pems in (had, has)]
        yield ForeignChange(
            ca,
            tuple(facts for facts in sides[1] if facts not in sides[0]),
            tuple(facts for facts in sides[0] if facts not in sides[1]),
            unreadable=len(sides[0]) != len(had),
        )


def _own(cluster: Cluster, seen: Observation) -> Iterator[Facts]:
    for ca in DOMAINS:
        mount = seen.found.cas.get(cluster.mount(ca))
        for pem in (mount.pem, *mount.certificates.values()) if mount is not None else ():
            # What else is on a mount may well be a foreign CA that somebody imported there.
            yield from (facts for facts in _readable(pem) if named(facts, ca_subject(cluster.name, ca)))


def _pems(value: Any) -> Mapping[str, tuple[str, ...]]:
    """Return what a record offers, by domain; what no vaultpki writes is left out."""
    found = value if isinstance(value, Mapping) else {}
    lists = {ca: found.get(ca) for ca in ISSUING_CAS}
    return {
        ca: tuple(pem for pem in pems if isinstance(pem, str)) for ca, pems in lists.items() if isinstance(pems, list)
    }


def _readable(pem: str) -> tuple[Facts, ...]:
    from vaultpki.pki import x509

    return x509.readable(pem)[:1]
