"""Finds what no apply changes and a person must look at: issuers that do not belong on a CA's mount, nodes apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.certificates import MOST_ISSUERS, ROOT, ca_subject
from vaultpki.errors import BadAnswer, Denied
from vaultpki.identity import reports
from vaultpki.model import Cluster, Node, NodeRole
from vaultpki.pki import chains, trust
from vaultpki.pki.chains import why_untrusted
from vaultpki.pki.facts import Facts
from vaultpki.provision.plan import Danger
from vaultpki.provision.read_back import CaMount
from vaultpki.records import gaps
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
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
    return trust.no_root(facts) if trust.named(facts, name) else f"its name is not CN={name} alone"
