"""Says when the CAs of a cluster end, and how urgent that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from vaultpki.certificates import MOST_ISSUERS, ROOT, all_cas, all_rows, ca_subject, issuing_cas
from vaultpki.errors import BadAnswer, Denied, Refused, SpecError
from vaultpki.model import Cluster
from vaultpki.pki import ca_life, chains, foreign_cas
from vaultpki.pki.ca_life import CaExpiry, CaLife, expiry, foreign_life
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named
from vaultpki.provision.ca_facts import CaFacts, read_ca
from vaultpki.provision.rotation_records import existing
from vaultpki.records import above as above_records
from vaultpki.vault import Vault, shown_certificate, shown_request, text


def of(
    cluster: Cluster,
    found: Mapping[str, CaFacts],
    now: datetime,
    rotating: Collection[str] = (),
    above: Iterable[CaLife] = (),
) -> tuple[CaExpiry, ...]:
    """Return the end of each CA that exists, in the order of the table; `rotating` are those under rotation.

    `above` are the CAs of a PKI outside, as `lives_above` returns them, which follow; the foreign CAs of cluster.yaml
    come last.
    """
    lives, above = list[CaLife](), tuple(above)
    for ca in all_cas(cluster):
        if ca in found:
            facts = found[ca]
            begins = facts.not_after - timedelta(seconds=facts.life)
            outside = (facts.subject_text or facts.common_name) if ca == ROOT and not _own_root(cluster, facts) else ""
            lives.append(CaLife(ca, ca == ROOT, begins, facts.not_after, longest_ttl(cluster, ca), outside=outside))
    foreign = foreign_cas.read(cluster).items()
    return (
        *(expiry(life, now, rotating=life.ca in rotating) for life in ca_life.below(lives, (*lives, *above))),
        *(expiry(life, now) for life in above),
        *(expiry(foreign_life(ca, facts), now) for ca, cas in foreign for facts in cas),
    )


def lives_above(cluster: Cluster, pems: Mapping[str, str], shown: Iterable[str]) -> tuple[CaLife, ...]:
    """Return the lives of the CAs of a PKI outside that end before one of the issuing CAs below them.

    `pems` are the certificates of the root and of the issuing CAs by their names, `shown` those on the root's mount.
    Nothing is trusted for it: whoever shows a CA above ours gets a warning at most.
    """
    issuing = [facts for ca in issuing_cas(cluster) for facts in _readable(pems.get(ca, ""))]
    known = {facts for pem in shown for facts in _readable(pem)}
    root_name = ca_subject(cluster.name, ROOT)
    mine = {facts for facts in known if named(facts, root_name) or facts in _readable(pems.get(ROOT, ""))}
    return ca_life.lives_above(chains.above(issuing, tuple(known - mine)), issuing, longest_ttl(cluster, ROOT))


def _own_root(cluster: Cluster, facts: CaFacts) -> bool:
    """Return whether it has the common name of a root that was made for this cluster."""
    name = ca_subject(cluster.name, ROOT)
    return facts.common_name == name or facts.common_name.startswith(f"{name} ")


def _own(cluster: Cluster, pem: str) -> bool:
    """Return whether this is the certificate of a root that was made for this cluster."""
    facts = read_ca(ROOT, pem) if pem else None
    return facts is not None and _own_root(cluster, facts)


def longest_ttl(cluster: Cluster, ca: str) -> int:
    """Return the longest TTL of the leaves below a CA, in seconds."""
    return max((row.ttl or cluster.ttl for row in all_rows(cluster) if ca in (ROOT, row.ca)), default=cluster.ttl)


def read(cluster: Cluster, vault: Vault, now: datetime) -> tuple[CaExpiry, ...]:
    """Read the CA that each mount signs with, and return their ends; a mount that shows none is left out."""

    def one(ca: str) -> tuple[str, str]:
        try:
            answer = vault.api.secrets.pki.read_certificate("ca", mount_point=cluster.mount(ca))
            return ca, text(answer.data, "certificate") if answer.found else ""
        except (BadAnswer, Denied, Refused):
            # Without a default issuer both servers answer 400. `plan` says what is wrong with a mount.
            return ca, ""

    pems = dict(vault.map(one, all_cas(cluster)))
    shown = () if _own(cluster, pems[ROOT]) else _shown(cluster, vault)
    if not pems[ROOT]:
        # One from outside has no key, so it is no mount's default issuer; its SHA-256 is what counts.
        pems[ROOT] = next((pem for pem in shown if above_records.sha256(pem) == cluster.authority.root_sha256), "")
    read_cas = {ca: read_ca(ca, pem) for ca, pem in pems.items()}
    found = {ca: facts for ca, facts in read_cas.items() if facts is not None}
    over = lives_above(cluster, pems, shown) if any(ca in found for ca in issuing_cas(cluster)) else ()
    return of(cluster, found, now, _rotating(cluster, vault), over)


def _shown(cluster: Cluster, vault: Vault) -> tuple[str, ...]:
    """Read what the root's mount shows, as far as it can be read."""
    mount = cluster.mount(ROOT)
    try:
        listed = vault.api.secrets.pki.list_issuers(mount_point=mount).keys[:MOST_ISSUERS]
        answers = vault.many([shown_request(mount, issuer) for issuer in listed])
        return tuple(shown_certificate(mount, *each) for each in zip(listed, answers, strict=True))
    except (BadAnswer, Denied, Refused):
        return ()


def _readable(pem: str) -> tuple[Facts, ...]:
    from vaultpki.pki import x509

    return x509.readable(pem)


def _rotating(cluster: Cluster, vault: Vault) -> frozenset[str]:
    """Return the CAs under rotation, as far as the records can be read: only the advice depends on it."""
    try:
        return frozenset(domain for domain, record in existing(cluster, vault).items() if record.active)
    except (Denied, SpecError):
        return frozenset()
