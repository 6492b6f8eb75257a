"""Reads when a cluster's certificates expire, and what is wrong with them, from a folder of nodes or of an operator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.agent import node_folders, status
from vaultpki.agent.node_folders import NodeFolder
from vaultpki.agent.status import Status
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject, rows
from vaultpki.errors import StoreError
from vaultpki.findings import nodes, pairs
from vaultpki.findings.catalogue import Severity
from vaultpki.findings.finding import Finding, of_ends
from vaultpki.findings.nodes import NodeRow
from vaultpki.graph.content import ExpirySummary, count
from vaultpki.identity.access import holder_of
from vaultpki.model import Cluster, Node, Pool, Row
from vaultpki.node.procedures import Procedures
from vaultpki.pki import ca_life, renewal
from vaultpki.pki.ca_life import CaExpiry, CaLife, Level
from vaultpki.pki.facts import Facts
from vaultpki.provision import ca_ends
from vaultpki.show import attention
from vaultpki.show.attention import Notice
from vaultpki.show.inventory import FAULTS, CaFound, HolderPair, HolderSummary, Inventory
from vaultpki.verify import folders
from vaultpki.verify.kubeconfig_files import kubeconfig_checks
from vaultpki.verify.on_disk import NOT_BY_BUNDLE, Check, pair_checks, read_bundle
from vaultpki.verify.on_disk import Holder as Folder
from vaultpki.verify.token_key_files import token_key_checks

_MISSING: Final = "is missing"


def of_folder(cluster: Cluster, directory: Path, now: datetime, procedures: Procedures) -> Inventory:
    """Read the certificates in `directory`, as `verify --dir` finds them. Raises SpecError if it holds none."""
    return of_folders(cluster, folders.find_holders(cluster, directory), directory, now, procedures)


def of_folders(
    cluster: Cluster, found: Sequence[Folder], directory: Path, now: datetime, procedures: Procedures
) -> Inventory:
    """Read the certificates in folders that `verify.folders` found in `directory`.

    A pair is what `status` and `verify` call it.
    """
    table = {row.name: row for row in rows(cluster)}
    held = [folder for folder in found if folder.certificates]
    looks = [_look(cluster, folder, _status(cluster, folder, now, procedures), table, now) for folder in held]
    cas = tuple(_cas(cluster, held, now))
    again = f"run `vaultpki verify{cluster.file_option} --dir {directory}`"
    return Inventory(
        pairs=tuple(pair for look in looks for pair in look.pairs),
        holders=tuple(look.holder for look in looks),
        ends=_ends(cluster, looks, cas, now),
        source=f"files of {count(len(held), 'folder')}",
        cas=cas,
        notices=attention.worst_first(
            [
                *_unread(found, again),
                *attention.of_nodes((look.row for look in looks), "certificates"),
                *attention.of_cluster(_late(cas, cluster.file), "cas"),
            ]
        ),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What one folder holds. `signers` are the CAs behind its certificates, by the name of the CA."""

    row: NodeRow
    holder: HolderSummary
    pairs: tuple[HolderPair, ...]
    signers: tuple[tuple[str, Facts], ...]


def _look(cluster: Cluster, folder: Folder, looked: Status, table: Mapping[str, Row], now: datetime) -> _Look:
    said = nodes.of_status(looked, now, name=folder.name).wrong
    by_path = {os.path.realpath(one.path): said.get(one.name) for one in looked.seen}
    pairs: list[HolderPair] = []
    signers: list[tuple[str, Facts]] = []
    faults: list[str] = []
    states: dict[str, str] = {}
    for want in folder.certificates:
        pair, found = pair_checks(folder, table[want.name], want, now)
        checks = (*found, *kubeconfig_checks(pair))
        path = os.path.realpath(pair.crt)
        # What `status` does not see is held to the same rule.
        late = path not in by_path and pair.leaf is not None and renewal.overdue(pair.leaf, want.reload, now)
        # A bundle that `status` finds wrong is one fault, and not one more for each pair below its CA.
        apart = NOT_BY_BUNDLE if path in by_path and looked.bundles else None
        fault = _fault(pair.leaf, checks, now, apart)
        state = _worst(by_path.get(path), fault, "overdue" if late else None)
        if state is not None:
            states[want.name] = state
            faults += (f"{check.target} {check.detail}" for check in checks if not check.ok)
        shown = FAULTS.get(state or "")
        if pair.leaf is None:
            pairs.append(HolderPair(folder.name, want.name, want.ca, None, shown))
        else:
            key_id = pair.leaf.authority_key_id or ""
            pairs.append(HolderPair(folder.name, want.name, want.ca, pair.leaf.not_after, shown, key_id))
            signers += ((want.ca, facts) for facts in read_bundle(pair.crt)[1:2])
    faults += (f"{check.target} {check.detail}" for check in token_key_checks((folder,)) if not check.ok)
    row = _row(cluster, folder, looked, states, now)
    holder = HolderSummary(folder.name, row.roles, row.pool or "", row, tuple(faults))
    return _Look(row, holder, tuple(pairs), tuple(signers))


def _worst(*states: str | None) -> str | None:
    return next((name for name in pairs.PAIR_FINDINGS if name in states), None)


def _unread(found: Iterable[Folder], again: str) -> Iterator[Notice]:
    for folder in found:
        if not folder.certificates:
            for check in folder.found:
                yield Notice(folder.name, (f"{check.target} {check.detail}: {again}",), Severity.WARNING, "checks")


def _late(cas: Iterable[CaFound], file: str) -> Iterator[Finding]:
    return of_ends((CaExpiry(ca.ca, ca.not_after, ca.level, ca.sentence) for ca in cas if ca.not_after), file)


def _ends(
    cluster: Cluster, looks: Iterable[_Look], cas: Iterable[CaFound], now: datetime
) -> Mapping[str, ExpirySummary]:
    signers: dict[str, set[Facts]] = {}
    for look in looks:
        for ca, facts in look.signers:
            signers.setdefault(ca, set()).add(facts)
    ends = {ca: _end(cluster, ca, some, now) for ca, some in signers.items()}
    for found in cas:
        if found.ca == ROOT:
            # They stand in the order of their ends.
            ends.setdefault(ROOT, ExpirySummary(found.not_after, due=found.level.attention))
    return ends


def _status(cluster: Cluster, folder: Folder, now: datetime, procedures: Procedures) -> Status:
    """Return what `status --dir` says of a folder: with its agent.yaml if it is NODE/pki or a copy, else by itself."""
    if copy := node_folders.collected_with(folder.folder):
        return node_folders.read(copy, now, procedures, allow_http=True)
    above = folder.folder.absolute().parent
    own = folder.folder.absolute().name == "pki" and holder_of(cluster, folder.name) is not None
    if own and os.path.lexists(above / "agent.yaml"):
        return node_folders.read(NodeFolder(above), now, procedures, allow_http=True)
    try:
        return status.of_folder(str(folder.folder), now)
    except StoreError as error:
        return Status(None, None, (), {"directory": str(error)}, {}, None, None)


def _row(cluster: Cluster, folder: Folder, looked: Status, states: Mapping[str, str], now: datetime) -> NodeRow:
    """Return the row of `status`, with what `verify` calls the pairs."""
    who = holder_of(cluster, folder.name)
    row = nodes.of_status(looked, now, name=folder.name)
    # The CAs of all folders are judged once. Files beside each other are not seen by `status`.
    left_out = {*pairs.PAIR_FINDINGS, "ca-expires", "empty"}
    kept = [each for each in row.findings if each.name not in left_out]
    own = pairs.of_node(states) if who else pairs.of_operator(states, str(folder.folder), cluster.file)
    findings = [*own, *(_for(who, each, cluster, folder) for each in kept)]
    return replace(
        row, node=folder.name, roles=_roles(who), pool=_pool(who) or None, findings=tuple(findings), wrong=states
    )


def _for(who: Node | Pool | None, finding: Finding, cluster: Cluster, folder: Folder) -> Finding:
    """Return a finding with the command of the holder: no agent renews what an operator has."""
    if who is not None or finding.kind.where != "node":
        return finding
    return replace(finding, command=pairs.issuing(folder.certificates[0].name, str(folder.folder), cluster.file))


def _fault(leaf: Facts | None, checks: Iterable[Check], now: datetime, apart: str | None) -> str | None:
    """Return what `verify` calls a pair whose files have these checks; None if they are as they should be.

    A problem that begins with `apart` is not one of the pair.
    """
    bad = [check for check in checks if not check.ok and check.got != "unchecked"]
    problems = {
        check.target: [each for each in check.detail.split("; ") if not (apart and each.startswith(apart))]
        for check in bad
    }
    if leaf is not None and leaf.not_after <= now:
        return "expired"
    if any(_MISSING in each for target, each in problems.items() if not target.endswith(".conf")):
        return "missing"
    return "broken" if any(problems.values()) else None


def _pool(who: Node | Pool | None) -> str:
    return who.name if isinstance(who, Pool) else ""


def _roles(who: Node | Pool | None) -> tuple[str, ...]:
    return tuple(sorted(role.value for role in who.roles)) if who else ()


def _cas(cluster: Cluster, held: Iterable[Folder], now: datetime) -> Iterator[CaFound]:
    """Yield the CAs in the chain bundles of these folders, the upper ones first; those of one domain by their end."""
    found: dict[str, tuple[str, Facts]] = {}
    foreign: dict[tuple[str, str], Facts] = {}
    named = {(each.ca, each.sha256) for each in cluster.authority.also_trust}
    between, issuing = set[Facts](), set[Facts]()
    for folder in held:
        for ca in ISSUING_CAS:
            parts = folder.parts(ca)
            between.update(parts.between)
            issuing.update(parts.issuing)
            for domain, some in ((ROOT, parts.roots), ("", parts.between), (ca, parts.issuing)):
                found |= {facts.fingerprint: (domain, facts) for facts in some if facts.fingerprint not in found}
            for facts in read_bundle(folder.bundle(ca, chain=True)):
                if (ca, facts.fingerprint) in named:
                    foreign[ca, facts.fingerprint] = facts
    # A CA above that ends after ours asks for nothing.
    early = {life.ca: life for life in ca_life.lives_above(between, issuing, ca_ends.longest_ttl(cluster, ROOT))}
    order = (ROOT, "", *ISSUING_CAS)
    for domain, facts in sorted(found.values(), key=lambda each: (order.index(each[0]), each[1].not_after)):
        life = _life(cluster, domain, facts) if domain else early.get(facts.subject_text)
        lives = ca_life.below((life,), early.values()) if life is not None else ()
        end = ca_life.expiry(lives[0], now) if lives else None
        if facts.is_ca:
            yield CaFound(
                domain or facts.subject_text,
                facts.subject_text,
                facts.fingerprint,
                facts.not_after,
                end.level if end is not None else Level.NONE,
                end.sentence if end is not None else "",
                facts.key.value if facts.key else "",
                facts.subject_key_id or "",
            )
    yield from (CaFound.of_foreign(ca, facts, now) for (ca, _), facts in foreign.items())


def _life(cluster: Cluster, ca: str, facts: Facts) -> CaLife:
    longest = ca_ends.longest_ttl(cluster, ca)
    if ca == ROOT:
        return ca_life.of_root(facts, longest, root_name=ca_subject(cluster.name, ROOT))
    return CaLife(ca, False, facts.not_before, facts.not_after, longest)


def _end(cluster: Cluster, ca: str, found: Iterable[Facts], now: datetime) -> ExpirySummary:
    first = min(found, key=lambda facts: facts.not_after)
    return ExpirySummary(first.not_after, due=_life(cluster, ca, first).level(now).attention)
