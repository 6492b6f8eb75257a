"""Compares the CAs that exist with what cluster.yaml asks of them; such a difference needs a rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import ISSUING_BACKDATE, ROOT, ROOT_BACKDATE, all_cas, all_rows, ca_subject
from vaultpki.model import Cluster, KeyType
from vaultpki.provision.plan import Rotation
from vaultpki.records.rotation import RotationRecord
from vaultpki.vault.issuer import number

BEFORE_ROOT: Final = 3600
"""How many seconds before the root a CA ends at the latest: OpenBao signs a longer one and warns, Vault cuts it."""

# Vault reads its clock twice for the two dates of a certificate. In seconds.
_SLACK: Final = 60


@dataclass(frozen=True, slots=True)
class CaFacts:
    """A CA as its certificate describes it.

    `life` is the TTL in seconds that it was requested with. `key` is None for a key of another type than ours.
    `subject` is what its name has besides the CN, by the parameters of the PKI engine, `subject_text` the whole of it.
    """

    common_name: str
    key: KeyType | None
    life: int
    not_after: datetime
    subject: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subject_text: str = field(default="", compare=False)


def read_ca(ca: str, pem: str) -> CaFacts | None:
    """Read the certificate of the CA named `ca` (root, etcd, ...); None unless `pem` is one CA certificate."""
    from vaultpki.pki import x509

    found = x509.readable(pem)
    if len(found) != 1 or not found[0].is_ca:
        return None
    (facts,) = found
    life = facts.not_after - facts.not_before
    backdate = ROOT_BACKDATE if ca == ROOT else ISSUING_BACKDATE
    seconds = int(life.total_seconds()) - backdate
    subject = x509.subject_values(facts)
    return CaFacts(facts.subject.common_name, facts.key, seconds, facts.not_after, subject, facts.subject_text)


def lives(cluster: Cluster, found: Mapping[str, CaFacts], maxima: Mapping[str, int]) -> dict[str, int]:
    """Return for how many seconds each existing CA was made; `maxima` are the `max_ttl` of their mounts, in seconds.

    The value of cluster.yaml or of the mount is preferred if it differs from the certificate by clock slack only.
    """
    outside = cluster.authority.outside
    # A signer that people carry requests to need not backdate.
    more = ISSUING_BACKDATE if outside is not None and outside.by_people else 0
    made = {}
    for ca, facts in found.items():
        lengths = (facts.life, facts.life + more)
        wanted = (requested_ttl(cluster, ca), maxima.get(ca, 0))
        made[ca] = next((near for near in wanted if any(_same(near, each) for each in lengths)), lengths[-1])
    return made


def rotations_needed(
    cluster: Cluster,
    found: Mapping[str, CaFacts],
    records: Mapping[str, RotationRecord] | None = None,
    *,
    moves: tuple[str, str] | None = None,
) -> tuple[Rotation, ...]:
    """Return, CA by CA, where cluster.yaml differs from the existing CAs.

    `records` are those of CAs that were rotated; one that is being rotated is left out. `moves` are the root that is
    there and the other one that cluster.yaml asks for, in words, if that is to come.
    """
    known = records or {}
    active = {ca for ca, record in known.items() if record.active}
    rotations = (
        Rotation(
            ca, _differing(cluster, ca, found, known.get(ca)), found[ca].not_after, _refused(cluster, ca, found[ca])
        )
        for ca in all_cas(cluster)
        if ca in found and ca not in active
        # The end of a root from outside is not ours to choose.
        if ca != ROOT or cluster.authority.outside is None
    )
    needed = tuple(rotation for rotation in rotations if rotation.fields)
    if moves is None or ROOT not in found or ROOT in active:
        return needed
    return Rotation(ROOT, {"root": moves}, found[ROOT].not_after), *(each for each in needed if each.ca != ROOT)


def requested_ttl(cluster: Cluster, ca: str) -> int:
    """Return the TTL in seconds that cluster.yaml asks for a CA."""
    return cluster.authority.root_ttl if ca == ROOT else cluster.authority.issuing_ttl


def _refused(cluster: Cluster, ca: str, facts: CaFacts) -> tuple[str, ...]:
    ours = (row for row in all_rows(cluster) if row.ca == ca)
    return tuple(row.name for row in ours if (row.ttl or cluster.ttl) >= facts.life)


def _same(one: int, other: int) -> bool:
    return abs(one - other) <= _SLACK


def _differing(
    cluster: Cluster, ca: str, found: Mapping[str, CaFacts], record: RotationRecord | None
) -> dict[str, tuple[Any, Any]]:
    facts, wanted = found[ca], requested_ttl(cluster, ca)
    life = wanted if _same(facts.life, wanted) or _up_to_root(ca, found, wanted) else facts.life
    subject = ca_subject(cluster.name, ca, number(record.leaf.name) if record is not None else 1)
    names = ("", "")
    if cluster.authority.outside is not None:
        from vaultpki.pki.x509 import subject_words

        # Who signs it decides how long it lives.
        life = wanted
        names = subject_words(facts.subject), subject_words(cluster.authority.subject)
    pairs: dict[str, tuple[Any, Any]] = {
        "common_name": (facts.common_name, subject),
        "subject": names,
        "key": (facts.key.value if facts.key else "another key", cluster.authority.key.value),
        "ttl": (life, wanted),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _up_to_root(ca: str, found: Mapping[str, CaFacts], wanted: int) -> bool:
    """Return whether the CA is shorter than wanted because the root ends: no rotation would make it longer."""
    if ca == ROOT or ROOT not in found or found[ca].life > wanted:
        return False
    return (found[ROOT].not_after - found[ca].not_after).total_seconds() <= 2 * BEFORE_ROOT
