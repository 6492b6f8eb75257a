"""Reads when a cluster's certificates expire, for pictures: from a folder of nodes, or from nodes' reports in Vault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.certificates import node_rows, pair_files
from vaultpki.model import Certificate, Cluster
from vaultpki.pki import renewal
from vaultpki.pki.ca_life import CaLife
from vaultpki.pki.facts import Facts
from vaultpki.pki.renewal import State
from vaultpki.provision import ca_ends, node_list, rotation_store
from vaultpki.show.graph_model import Expiry, count
from vaultpki.spec import node_report
from vaultpki.vault import Vault
from vaultpki.verify import folders
from vaultpki.verify.on_disk import read_bundle

# A report follows a pass, so what is still due there could not be renewed.
_OVERDUE: Final = frozenset({State.DUE.value, State.BROKEN.value, State.EXPIRED.value})


@dataclass(frozen=True, slots=True)
class Found:
    """Expiries by row and by CA, the states of rotations by CA, and where they come from in a few words.

    `problems` are sentences on what could not be read.
    """

    rows: Mapping[str, Expiry]
    cas: Mapping[str, Expiry]
    source: str
    problems: tuple[str, ...] = ()
    rotations: Mapping[str, str] = field(default_factory=dict)


def of_folder(cluster: Cluster, directory: Path, now: datetime) -> Found:
    """Read the certificates in `directory`, as `verify --dir` finds them. Raises SpecError if it holds none."""
    leaves: dict[str, list[tuple[Certificate, Facts | None]]] = {}
    signers: dict[str, set[Facts]] = {}
    problems: list[str] = []
    holders = folders.find(cluster, directory)
    for holder in holders:
        problems += [f"{holder.name}: {check.target} {check.detail}" for check in holder.found]
        for want in holder.certificates:
            chain = read_bundle(holder.at(want.folder) / pair_files(want.stem)[0])
            leaves.setdefault(want.name, []).append((want, chain[0] if chain else None))
            signers.setdefault(want.ca, set()).update(chain[1:2])
    return Found(
        {name: _of_row(found, now) for name, found in leaves.items()},
        {ca: _of_ca(cluster, ca, found, now) for ca, found in signers.items() if found},
        f"files of {count(sum(bool(holder.certificates) for holder in holders), 'folder')}",
        tuple(problems),
    )


def of_fleet(cluster: Cluster, vault: Vault, now: datetime) -> Found:
    """Read the last report of every node, the CAs and their rotations from Vault.

    A node that never reported is named in `problems`. What a node reports is its own word.
    """
    ends: dict[str, list[datetime]] = {}
    lacking: dict[str, int] = {}
    due: set[str] = set()
    silent: list[str] = []
    reporting = 0
    for member in node_list.members(cluster, vault):
        report = node_report.read(member.report)
        if report is None or member.holder is None:
            silent.append(member.name)
            continue
        reporting += 1
        for row in node_rows(cluster, member.holder):
            held = report.certificates.get(row.name)
            if held is None or held.not_after is None:
                lacking[row.name] = lacking.get(row.name, 0) + 1
                continue
            ends.setdefault(row.name, []).append(held.not_after)
            if held.state in _OVERDUE:
                due.add(row.name)
    records = {domain: stored.record for domain, stored in rotation_store.read_records(cluster, vault).items()}
    names = dict.fromkeys((*ends, *lacking))
    return Found(
        {
            name: Expiry(
                min(ends.get(name, ()), default=None), len(ends.get(name, ())), lacking.get(name, 0), name in due
            )
            for name in names
        },
        {end.ca: Expiry(end.not_after, due=end.level.attention) for end in ca_ends.read(cluster, vault, now)},
        f"reports of {count(reporting, 'node')}",
        tuple(f"{name} has never reported" for name in silent),
        {domain: record.state.value for domain, record in records.items() if record is not None and record.active},
    )


def _of_row(found: Iterable[tuple[Certificate, Facts | None]], now: datetime) -> Expiry:
    pairs = list(found)
    there = [(want, leaf) for want, leaf in pairs if leaf is not None]
    return Expiry(
        first=min((leaf.not_after for _, leaf in there), default=None),
        read=len(there),
        lacking=len(pairs) - len(there),
        due=any(renewal.overdue(leaf, want.reload, now) for want, leaf in there),
    )


def _of_ca(cluster: Cluster, ca: str, found: Iterable[Facts], now: datetime) -> Expiry:
    first = min(found, key=lambda facts: facts.not_after)
    life = CaLife(ca, False, first.not_before, first.not_after, ca_ends.longest_ttl(cluster, ca))
    return Expiry(first.not_after, due=life.level(now).attention)
