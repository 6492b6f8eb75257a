"""Reads in a CA's certificate what cluster.yaml says of CAs, and says which of them only a rotation would change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from vaultpki.certificates import ISSUING_BACKDATE, ISSUING_CAS, ROOT, ROOT_BACKDATE, ca_subject, rows
from vaultpki.model import Cluster, KeyType
from vaultpki.plan import Rotation
from vaultpki.values import dataclass

# How a SubjectPublicKeyInfo begins in DER, up to the key itself (RFC 5480, section 2; RFC 8410, section 4; RFC 3279,
# section 2.3.1, where the lengths tell the size of the modulus). cryptography would say the same, but its import costs
# more than all the requests of a plan.
_KEYS: Final[Mapping[KeyType, bytes]] = {
    KeyType.EC_P256: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    KeyType.EC_P384: bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
    KeyType.RSA_2048: bytes.fromhex("30820122300d06092a864886f70d01010105000382010f00"),
    KeyType.RSA_3072: bytes.fromhex("308201a2300d06092a864886f70d01010105000382018f00"),
    KeyType.RSA_4096: bytes.fromhex("30820222300d06092a864886f70d01010105000382020f00"),
    KeyType.ED25519: bytes.fromhex("302a300506032b6570032100"),
}

# Vault reads its clock twice for the two dates of a certificate.
_SLACK: Final = 60


@dataclass(frozen=True, slots=True)
class CaFacts:
    """A CA as its certificate says it: `life` is the seconds it was asked for, `key` None where it is none of ours."""

    common_name: str
    key: KeyType | None
    life: int
    not_after: datetime


def read_ca(ca: str, pem: str) -> CaFacts | None:
    """The facts of the CA named `ca` (root, etcd and so on); None where `pem` is no CA's certificate."""
    import ssl

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pem.strip() + "\n")
        (found,) = context.get_ca_certs()
        (der,) = context.get_ca_certs(binary_form=True)
        names = dict(pair for part in found["subject"] for pair in part)  # type: ignore[misc]
        begin, end = (ssl.cert_time_to_seconds(str(found[date])) for date in ("notBefore", "notAfter"))
    except (ValueError, KeyError, ssl.SSLError):
        return None
    backdate = ROOT_BACKDATE if ca == ROOT else ISSUING_BACKDATE
    return CaFacts(
        common_name=str(names.get("commonName", "")),
        key=next((key for key, head in _KEYS.items() if head in der), None),
        life=end - begin - backdate,
        not_after=datetime.fromtimestamp(end, UTC),
    )


def lives(cluster: Cluster, found: Mapping[str, CaFacts], maxima: Mapping[str, int]) -> dict[str, int]:
    """For how many seconds each CA that is there was made; `maxima` is what its mount allows now, in seconds.

    A value that says the same but for the slack of two readings of a clock goes before the certificate's own.
    """
    return {
        ca: next((near for near in (asked(cluster, ca), maxima.get(ca, 0)) if _same(near, facts.life)), facts.life)
        for ca, facts in found.items()
    }


def rotations_needed(cluster: Cluster, found: Mapping[str, CaFacts]) -> tuple[Rotation, ...]:
    """What cluster.yaml asks of CAs that are there and are otherwise, CA by CA."""
    rotations = (
        Rotation(ca, _differing(cluster, ca, found[ca]), found[ca].not_after, _refused(cluster, ca, found[ca]))
        for ca in (ROOT, *ISSUING_CAS)
        if ca in found
    )
    return tuple(rotation for rotation in rotations if rotation.fields)


def _refused(cluster: Cluster, ca: str, facts: CaFacts) -> tuple[str, ...]:
    ours = (row for row in rows(cluster) if row.ca == ca)
    return tuple(row.name for row in ours if (row.ttl or cluster.ttl) >= facts.life)


def asked(cluster: Cluster, ca: str) -> int:
    """The life in seconds that cluster.yaml asks for a CA."""
    return cluster.authority.root_ttl if ca == ROOT else cluster.authority.issuing_ttl


def _same(one: int, other: int) -> bool:
    return abs(one - other) <= _SLACK


def _differing(cluster: Cluster, ca: str, facts: CaFacts) -> dict[str, tuple[Any, Any]]:
    wanted = asked(cluster, ca)
    pairs: dict[str, tuple[Any, Any]] = {
        "common_name": (facts.common_name, ca_subject(cluster.name, ca)),
        "key": (facts.key.value if facts.key else "another key", cluster.authority.key.value),
        "ttl": (wanted if _same(facts.life, wanted) else facts.life, wanted),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
