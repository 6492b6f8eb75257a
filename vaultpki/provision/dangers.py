"""Finds what no apply changes and a person must look at: issuers that do not belong on a CA's mount, nodes apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vaultpki.certificates import ISSUING_CAS, MOST_ISSUERS, ROOT, ca_subject, issuing_cas
from vaultpki.errors import BadAnswer, Denied
from vaultpki.identity import reports
from vaultpki.model import Cluster, Node, NodeRole
from vaultpki.pki import chains, trust
from vaultpki.pki.chains import why_untrusted
from vaultpki.pki.facts import Facts
from vaultpki.provision.plan import Danger
from vaultpki.provision.read_back import CaMount
from vaultpki.records import above, gaps
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
from vaultpki.redact import first_few, printable
from vaultpki.values import der
from vaultpki.vault import Vault

# Every node reads the records, so a few tell it; `ca status` reads the reports of all.
_ASKED: Final = 5


def issuers(cluster: Cluster, cas: Mapping[str, CaMount]) -> Iterator[Danger]:
    """Find every issuer that does not belong on its mount; `cas` are by mount. Dates are not checked.

    Below a PKI outside the CAs in the chains of the issuing CAs belong on any of the mounts.
    """
    mount_of_root = cas.get(cluster.mount(ROOT), CaMount())
    pems = [mount_of_root.pem, mount_of_root.certificates.get(mount_of_root.other, "")]
    roots = tuple(facts for facts in map(_read, filter(None, pems)) if facts is not None)
    shown = tuple(facts for ca in cas.values() for facts in map(_read, ca.certificates.values()) if facts is not None)
    above = _above(cluster, shown, roots)
    for mount, ca in cas.items():
        for name, pem in ca.certificates.items():
            why = _problem(cluster, mount, _read(pem), above)
            if why:
                yield Danger(f"issuer {mount}/issuer/{name}", f"foreign and dangerous: {why}")
    for mount, ca in cas.items():
        if ca.count > MOST_ISSUERS:
            why = (
                f"it has {ca.count} issuers, and nodes read only {MOST_ISSUERS} of them: delete those that nobody needs"
            )
            yield Danger(f"mount {mount}", why)


@dataclass(frozen=True, slots=True)
class CasAbove:
    """What becomes of the CAs above on the root's mount, by the names of their issuers.

    `leaving` are deleted, with the subject of each. `staying` are not in `ca.root_file` and stay all the same, and
    `dangers` say so for people. `left_out` are in `ca.root_file` and not wanted on the mount, since they have expired.
    """

    leaving: Mapping[str, str] = field(default_factory=dict)
    staying: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    dangers: tuple[Danger, ...] = ()


def cas_above(cluster: Cluster, cas: Mapping[str, CaMount], now: datetime, *, rotating: bool = False) -> CasAbove:
    """Return what becomes of the CAs above; `cas` is what is on each CA's mount.

    With `rotating`, while the root is rotated, all stay: those of the root that leaves are the rotation's to delete.
    """
    outside = cluster.authority.outside
    pems = cas.get(cluster.mount(ROOT), CaMount()).certificates
    # Whoever else put an issuer there gave it another name.
    there = {name: pem for name, pem in pems.items() if above.is_name(name) and pem and above.name(pem) == name}
    if outside is None or not outside.anchor or not (there or outside.others):
        return CasAbove()
    wanted, anchor = _all_read(above.names(cluster)), _read(outside.anchor)
    extra = {name: facts for name, facts in _all_read(there).items() if name not in wanted}
    if anchor is None or not (extra or any(facts.not_after <= now for facts in wanted.values())):
        return CasAbove()
    if rotating:
        return CasAbove(staying=tuple(extra))
    from vaultpki.outside import chain

    found = chain.changes(wanted, extra, _lower(cluster, cas, anchor, now), anchor, now)
    file = "ca.root_file" if outside.by_people else "the chain of ca.root"
    dangers = [Danger(file, _has_expired(cluster, wanted[name])) for name in sorted(found.left_out)]
    for name, older in (found.renewed or {}).items():
        dangers.append(Danger(file, _was_renewed(cluster, older, extra[name])))
    for name, needing in (found.needed or {}).items():
        where = f"issuer {cluster.mount(ROOT)}/issuer/{name}"
        dangers.append(Danger(where, _still_below(cluster, extra[name], needing)))
    expired = [name for name in sorted(found.left_out) if name in there]
    return CasAbove(
        {name: printable((extra | wanted)[name].subject_text) for name in (*found.leaving, *expired)},
        (*(found.renewed or {}), *(found.needed or {})),
        found.left_out,
        tuple(dangers),
    )


def _all_read(pems: Mapping[str, str]) -> dict[str, Facts]:
    return {name: facts for name, pem in pems.items() if (facts := _read(pem)) is not None}


def _lower(cluster: Cluster, cas: Mapping[str, CaMount], anchor: Facts, now: datetime) -> dict[str, list[Facts]]:
    """Return what needs a way up, by its name: the issuing CAs in date, and an anchor that is below a root."""
    found: dict[str, list[Facts]] = {}
    for ca in issuing_cas(cluster):
        shown = _all_read(cas.get(cluster.mount(ca), CaMount()).certificates).values()
        found[ca] = [facts for facts in shown if trust.no_signer(facts) is None and trust.in_date(facts, now)]
    if not trust.self_signed(anchor):
        found[printable(anchor.subject_text)] = [anchor]
    return found


def _was_renewed(cluster: Cluster, older: Facts, facts: Facts) -> str:
    return (
        f"{printable(facts.subject_text)} was renewed until {facts.not_after:%Y-%m-%d}, and {cluster.file} still names "
        f"the certificate that ends on {older.not_after:%Y-%m-%d}. Put the one with the SHA-256 {facts.fingerprint} in "
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
        f"below it: {first_few(needing)}; put its certificate back{how}"
    )


def nodes_apart(cluster: Cluster, vault: Vault, records: Mapping[str, RotationRecord]) -> tuple[Danger, ...]:
    """Return where listed nodes do not have the rotation records that the server has, by a few of their reports.

    At most five nodes are asked, those of the control plane first.

    Reads nothing else, and nothing that the token may not read.
    """
    revisions = {domain: record.revision for domain, record in records.items()}
    asked = sorted(cluster.nodes, key=lambda node: NodeRole.CONTROL_PLANE not in node.roles)[:_ASKED]

    def look(node: Node) -> list[Danger]:
        try:
            held = reports.cas_of_rows(cluster, node)
            report = reports.read(cluster, vault, reports.place_of(node, node.name), held).report
        except (BadAnswer, Denied):
            return []
        return [
            Danger(f"config {cluster.mount('config')}/{ROTATION_FOLDER}/{gap.domain}", f"{node.name} {gap.text}")
            for gap in (gaps.of_report(report, revisions) if report is not None else ())
        ]

    return tuple(danger for found in vault.map(look, asked) for danger in found)


@dataclass(frozen=True, slots=True)
class _Above:
    """The roots of the cluster, the CAs that may stand between, and those that stand in chains of its issuing CAs."""

    roots: tuple[Facts, ...]
    between: tuple[Facts, ...]
    chains: frozenset[Facts]


def _above(cluster: Cluster, shown: tuple[Facts, ...], roots: tuple[Facts, ...]) -> _Above:
    root_name, pin = ca_subject(cluster.name, ROOT), cluster.authority.root_sha256
    anchors = tuple(
        facts
        for facts in dict.fromkeys((*roots, *(facts for facts in shown if facts.fingerprint == pin)))
        if facts in roots or not trust.named(facts, root_name)
    )
    middle = chains.between(shown, anchors, root_name=root_name)
    issuing = [facts for facts in shown if trust.no_signer(facts) is None]
    outside = [facts for facts in anchors if not trust.named(facts, root_name)]
    found = {*chains.above(issuing, middle), *chains.tops(anchors, shown), *outside}
    # While the root is rotated, those of a new one have signed nothing yet, and those of an old one nothing any more.
    found.update(each for root in roots if root in outside for each in chains.between(shown, (root,)))
    if cluster.authority.outside is not None:
        # Also before they have signed anything.
        found.update(facts for facts in map(_read, cluster.authority.outside.certificates) if facts is not None)
    return _Above(anchors, middle, frozenset(found))


def _read(pem: str) -> Facts | None:
    from vaultpki.pki import x509

    return next(iter(x509.readable(pem)), None)


def _problem(cluster: Cluster, mount: str, facts: Facts | None, above: _Above) -> str | None:
    ca = mount.rpartition("/")[2]
    name, root_name = ca_subject(cluster.name, ca), ca_subject(cluster.name, ROOT)
    if facts is None:
        return "its certificate cannot be read"
    if facts in above.chains:
        return None
    if ca != ROOT:
        whys = [why_untrusted(facts, root, name, above.between, root_name=root_name) for root in above.roots]
        if not whys:
            return "the cluster has no root CA that signed it"
        return None if None in whys else whys[0]
    # A cross certificate has the key of the root for which it vouches.
    if facts not in above.roots and facts.public_key not in {root.public_key for root in above.roots}:
        return "it is not the cluster's root CA"
    if trust.named(facts, name) or any(_same_name(facts, root) for root in above.roots if not trust.named(root, name)):
        return trust.no_root(facts)
    return f"its name is not CN={name} alone"


def _same_name(one: Facts, other: Facts) -> bool:
    return der.certificate_parts(one.der).subject == der.certificate_parts(other.der).subject
