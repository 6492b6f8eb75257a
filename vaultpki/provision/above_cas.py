"""Decides which CAs above the issuing ones leave the root's mount: expired ones, and those that left `ca.root_file`.

A CA leaves only if everything below it has a way up without it, so no client loses a path. Pure; the server's objects
and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.identity import above
from vaultpki.model import Cluster
from vaultpki.pki import trust
from vaultpki.pki.facts import Facts
from vaultpki.provision.impact import named
from vaultpki.provision.plan import Danger
from vaultpki.provision.read_back import CaMount
from vaultpki.redact import printable


@dataclass(frozen=True, slots=True)
class AboveCas:
    """What becomes of the CAs above on the root's mount, by the names of their issuers.

    `leaving` are deleted, with the subject of each. `staying` are not in `ca.root_file` and stay all the same; `why`
    says so for people. `left_out` are in `ca.root_file` and not wanted on the mount, since they have expired.
    """

    leaving: Mapping[str, str]
    staying: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    why: tuple[Danger, ...] = ()


def find(cluster: Cluster, cas: Mapping[str, CaMount], now: datetime) -> AboveCas:
    """Return what becomes of them; `cas` is what is on each CA's mount."""
    outside = cluster.authority.outside
    if outside is None or not outside.anchor:
        return AboveCas({})
    mount = cluster.mount(ROOT)
    pems = cas.get(mount, CaMount()).certificates
    # Whoever else put an issuer there gave it another name.
    there = {name: pem for name, pem in pems.items() if above.is_name(name) and pem and above.name(pem) == name}
    wanted = _facts(above.names(cluster))
    extra = {name: facts for name, facts in _facts(there).items() if name not in wanted}
    anchor = next(iter(_facts({"": outside.anchor}).values()), None)
    expired = [name for name, facts in wanted.items() if facts.not_after <= now]
    if anchor is None or not (extra or expired):
        return AboveCas({})
    lower = _lower(cluster, cas, anchor, now)
    kept = {name: facts for name, facts in (wanted | extra).items() if facts.not_after > now}
    file = "ca.root_file" if outside.by_people else "the chain of ca.root"
    leaving, staying, why = dict[str, str](), list[str](), list[Danger]()
    left_out = {name for name in expired if not _below(wanted[name], lower, kept.values(), anchor)}
    for name in sorted(left_out):
        if name in there:
            leaving[name] = printable(wanted[name].subject_text)
        why.append(Danger(file, _has_expired(cluster, wanted[name])))
    # Those that end first leave first: of two for one key the later one stays.
    for name, facts in sorted(extra.items(), key=lambda each: (each[1].not_after, each[0])):
        others = [each for other, each in kept.items() if other != name]
        if older := _renewed(facts, wanted.values()):
            staying.append(name)
            why.append(Danger(file, _was_renewed(cluster, older, facts)))
        elif needing := _below(facts, lower, others, anchor):
            staying.append(name)
            why.append(Danger(f"issuer {mount}/issuer/{name}", _still_below(cluster, facts, needing)))
        else:
            leaving[name] = printable(facts.subject_text)
            kept.pop(name, None)
    return AboveCas(leaving, tuple(staying), frozenset(left_out), tuple(why))


def renewed_by(older: Facts, facts: Facts) -> bool:
    """Return whether `facts` is a later certificate for the same key and name as `older`."""
    from vaultpki.pki import der

    same = facts.public_key == older.public_key and facts != older
    if not same or facts.not_after <= older.not_after:
        return False
    return der.certificate_parts(facts.der).subject == der.certificate_parts(older.der).subject


def _renewed(facts: Facts, wanted: Iterable[Facts]) -> Facts | None:
    return next((older for older in wanted if renewed_by(older, facts)), None)


def _lower(cluster: Cluster, cas: Mapping[str, CaMount], anchor: Facts, now: datetime) -> dict[str, list[Facts]]:
    """Return what needs a way up, by its name: the issuing CAs in date, and an anchor that is below a root."""
    found: dict[str, list[Facts]] = {}
    for ca in ISSUING_CAS:
        shown = _facts(cas.get(cluster.mount(ca), CaMount()).certificates).values()
        found[ca] = [facts for facts in shown if trust.no_signer(facts) is None and trust.in_date(facts, now)]
    if not trust.self_signed(anchor):
        found[printable(anchor.subject_text)] = [anchor]
    return found


def _below(facts: Facts, lower: Mapping[str, list[Facts]], others: Iterable[Facts], anchor: Facts) -> tuple[str, ...]:
    """Return what has no way up as good as now without this CA; `others` are the CAs above that stay."""
    from vaultpki.pki.outside_path import Ends, ways_up

    rest, order = tuple(others), tuple(Ends)

    def reach(each: Facts, known: tuple[Facts, ...]) -> int:
        return order.index(ways_up(each, known, anchor)[0].ends)

    return tuple(
        name
        for name, certificates in lower.items()
        if any(reach(each, (*rest, facts)) < reach(each, rest) for each in certificates)
    )


def _facts(pems: Mapping[str, str]) -> dict[str, Facts]:
    return dict(_readable(pems))


def _readable(pems: Mapping[str, str]) -> Iterator[tuple[str, Facts]]:
    from vaultpki.pki import x509

    for name, pem in pems.items():
        for facts in x509.readable(pem)[:1]:
            yield name, facts


def _was_renewed(cluster: Cluster, older: Facts, facts: Facts) -> str:
    return (
        f"{printable(facts.subject_text)} was renewed until {facts.not_after:%Y-%m-%d}, and {cluster.file} still names "
        f"the certificate that ends on {older.not_after:%Y-%m-%d}: put the one with the SHA-256 {facts.fingerprint} in "
        "its place there, and run `vaultpki apply`"
    )


def _has_expired(cluster: Cluster, facts: Facts) -> str:
    return (
        f"the certificate of {printable(facts.subject_text)} that expired on {facts.not_after:%Y-%m-%d} is not "
        f"installed, since nothing needs it: take it out of the file that {cluster.file} names"
    )


def _still_below(cluster: Cluster, facts: Facts, needing: tuple[str, ...]) -> str:
    ours = [ca for ca in needing if ca in ISSUING_CAS]
    how = f", or rotate {'it' if len(ours) == 1 else 'these'} first (`vaultpki ca rotate {ours[0]}`)" if ours else ""
    return (
        f"{cluster.file} does not name {printable(facts.subject_text)} any more, and it stays as long as something is "
        f"below it: {named(needing)}; put its certificate back{how}"
    )
