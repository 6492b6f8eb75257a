"""Reads when a cluster's certificates expire: from a folder of nodes, or from the reports of nodes in Vault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.ca.status import CaStatus
from vaultpki.certificates import ISSUING_CAS, ROOT, node_rows, pair_files
from vaultpki.graph.content import ExpirySummary, count
from vaultpki.identity import nodes, revoked_list
from vaultpki.identity.access import holder_of
from vaultpki.identity.nodes import Member
from vaultpki.identity.revoked_list import Revoked
from vaultpki.model import Certificate, Cluster, Node, Pool
from vaultpki.pki import ca_life, renewal
from vaultpki.pki.ca_life import CaLife
from vaultpki.pki.facts import Facts
from vaultpki.pki.renewal import PairState
from vaultpki.provision import ca_ends, rotation_records
from vaultpki.records.node_report import NodeReport
from vaultpki.show.inventory import CaFound, HolderPair, HolderSummary, Inventory
from vaultpki.vault import Vault
from vaultpki.verify import folders
from vaultpki.verify.on_disk import Holder as Folder
from vaultpki.verify.on_disk import read_bundle

# A report follows a pass, so what is still due there could not be renewed.
_OVERDUE: Final = frozenset({PairState.DUE.value, PairState.BROKEN.value, PairState.EXPIRED.value})


def of_folder(cluster: Cluster, directory: Path, now: datetime) -> Inventory:
    """Read the certificates in `directory`, as `verify --dir` finds them. Raises SpecError if it holds none."""
    return of_folders(cluster, folders.find(cluster, directory), now)


def of_folders(cluster: Cluster, found: Sequence[Folder], now: datetime) -> Inventory:
    """Read the certificates in folders that `verify.folders` found."""
    pairs: list[HolderPair] = []
    signers: dict[str, set[Facts]] = {}
    problems: list[str] = []
    for folder in found:
        problems += [f"{folder.name}: {check.target} {check.detail}" for check in folder.found]
        for want in folder.certificates:
            chain = read_bundle(folder.at(want.folder) / pair_files(want.stem)[0])
            leaf = chain[0] if chain else None
            pairs.append(_pair(folder.name, want, leaf, now))
            signers.setdefault(want.ca, set()).update(chain[1:2])
    held = [folder for folder in found if folder.certificates]
    cas = tuple(_cas(cluster, held, now))
    ends = {ca: _end(cluster, ca, some, now) for ca, some in signers.items() if some}
    for ca in cas:
        if ca.ca == ROOT:
            # They stand in the order of their ends.
            ends.setdefault(ROOT, ExpirySummary(ca.not_after, due=ca.level.attention))
    return Inventory(
        pairs=tuple(pairs),
        holders=tuple(_holder(cluster, folder.name) for folder in held),
        ends=ends,
        source=f"files of {count(len(held), 'folder')}",
        cas=cas,
        problems=tuple(problems),
    )


def of_fleet(cluster: Cluster, vault: Vault, now: datetime, members: Iterable[Member] | None = None) -> Inventory:
    """Read the last report of every node, the CAs and their rotations from Vault.

    `members` are the nodes if they have been read. A node that never reported is named in `problems`. What a node
    reports is its own word; what was revoked is told by the mounts of the CAs too.
    """
    pairs: list[HolderPair] = []
    holders: list[HolderSummary] = []
    revoked = revoked_list.read(cluster, vault)
    for member in nodes.members(cluster, vault) if members is None else members:
        report = member.report if member.holder is not None else None
        holders.append(_member(member, report))
        if member.holder is not None:
            pairs += _reported(cluster, member.name, member.holder, report, revoked)
    silent = [holder.name for holder in holders if holder.silent]
    records = rotation_records.existing(cluster, vault)
    ends = ca_ends.read(cluster, vault, now)
    return Inventory(
        pairs=tuple(pairs),
        holders=tuple(holders),
        ends={end.ca: ExpirySummary(end.not_after, due=end.level.attention) for end in ends},
        source=f"reports of {count(len(holders) - len(silent), 'node')}",
        cas=tuple(CaFound(end.ca, end.ca, "", end.not_after, end.level, end.sentence) for end in ends),
        problems=(*(f"{name} has never reported" for name in silent), *revoked.problems),
        rotations={domain: record.state.value for domain, record in records.items() if record.active},
    )


def with_cas(found: Inventory, cas: Iterable[CaStatus]) -> Inventory:
    """Return what was found with what `ca status` knows of each CA: its name, key, fingerprint and problem."""
    ends = {ca.ca: ca for ca in found.cas}
    known = (
        replace(
            ends.get(ca.domain) or CaFound(ca.domain, ca.name, "", ca.not_after),
            name=ca.name,
            sha256=ca.sha256,
            key=ca.key,
            problem=ca.problem,
        )
        for ca in cas
    )
    return replace(found, cas=tuple(known))


def _pair(holder: str, want: Certificate, leaf: Facts | None, now: datetime) -> HolderPair:
    if leaf is None:
        return HolderPair(holder, want.name, want.ca)
    return HolderPair(
        holder, want.name, want.ca, leaf.not_after, renewal.overdue(leaf, want.reload, now), leaf.authority_key_id or ""
    )


def _holder(cluster: Cluster, name: str) -> HolderSummary:
    who = holder_of(cluster, name)
    return HolderSummary(name, _roles(who), _pool(who))


def _pool(who: Node | Pool | None) -> str:
    return who.name if isinstance(who, Pool) else ""


def _roles(who: Node | Pool | None) -> tuple[str, ...]:
    return tuple(sorted(role.value for role in who.roles)) if who else ()


def _cas(cluster: Cluster, held: Iterable[Folder], now: datetime) -> Iterator[CaFound]:
    """Yield the CAs in the chain bundles of these folders, roots first; those of one domain by their end."""
    found: dict[str, tuple[str, Facts]] = {}
    for folder in held:
        for ca in ISSUING_CAS:
            for facts in read_bundle(folder.bundle(ca, chain=True)):
                if facts.is_ca:
                    domain = ROOT if facts.issuer_text == facts.subject_text else ca
                    found.setdefault(facts.fingerprint, (domain, facts))
    order = (ROOT, *ISSUING_CAS)
    for domain, facts in sorted(found.values(), key=lambda each: (order.index(each[0]), each[1].not_after)):
        end = ca_life.expiry(_life(cluster, domain, facts), now)
        yield CaFound(
            domain,
            facts.subject_text,
            facts.fingerprint,
            facts.not_after,
            end.level,
            end.sentence,
            facts.key.value if facts.key else "",
            facts.subject_key_id or "",
        )


def _life(cluster: Cluster, ca: str, facts: Facts) -> CaLife:
    return CaLife(ca, ca == ROOT, facts.not_before, facts.not_after, ca_ends.longest_ttl(cluster, ca))


def _end(cluster: Cluster, ca: str, found: Iterable[Facts], now: datetime) -> ExpirySummary:
    first = min(found, key=lambda facts: facts.not_after)
    return ExpirySummary(first.not_after, due=_life(cluster, ca, first).level(now).attention)


def _member(member: Member, report: NodeReport | None) -> HolderSummary:
    pool = _pool(member.holder)
    if report is None:
        return HolderSummary(member.name, _roles(member.holder), pool, silent=True)
    return HolderSummary(member.name, _roles(member.holder), pool, report.time, report.agent, report.failures)


def _reported(
    cluster: Cluster, name: str, who: Node | Pool, report: NodeReport | None, revoked: Revoked
) -> Iterator[HolderPair]:
    for row in node_rows(cluster, who):
        one = report.certificates.get(row.name) if report is not None else None
        if one is None or one.not_after is None:
            yield HolderPair(name, row.name, row.ca)
        else:
            gone = one.state == PairState.REVOKED.value or revoked.has(row.name, one.serial)
            due = one.state in _OVERDUE
            yield HolderPair(name, row.name, row.ca, one.not_after, due, one.issuer_key_id, revoked=gone)
