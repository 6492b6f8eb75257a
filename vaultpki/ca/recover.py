"""Recovers the rotation of a CA after its server was restored from a snapshot, or has lost the record: `ca recover`.

It is an operator's decision: what nodes say is shown first, and may be left out. No other command does this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from vaultpki.ca import set_back
from vaultpki.ca.announced import announced
from vaultpki.ca.facts import reload
from vaultpki.ca.run import reconcile
from vaultpki.ca.scene import Scene, keys_in_the_way, read_scene, refuse_active
from vaultpki.certificates import ROOT, all_cas, issuing_cas
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity.adoption_record import refuse_adoption
from vaultpki.model import Cluster
from vaultpki.provision.rotation_records import refuse_move
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.redact import first_few
from vaultpki.rotation import left_over, recovery, root_recovery
from vaultpki.rotation.gates import Participant, gate
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.rotation.reasons import Transition
from vaultpki.vault import Vault

_FAR: Final = 100
"""How much more than all others a node must have read to be called an outlier."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one node says about a CA: the revision that it last read, the highest ever, and when it said so.

    `leaves` are its certificates of this CA with the CA that signed each, `trusts` the CAs in its bundle, by their
    names on the server. `counts` is whether its word counts; `note` is what is odd about it, in a few words.
    """

    node: str
    kind: str
    revision: int
    highest: int
    reported: datetime | None
    leaves: tuple[str, ...] = ()
    trusts: tuple[str, ...] = ()
    counts: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a recovery would do: why, what each node says, and the records that it writes, that of `domain` first.

    Without a reason there is nothing to recover. `before` is the record that the server has.
    """

    scene: Scene
    domain: str
    why: str
    claims: tuple[Claim, ...]
    before: RotationRecord | None
    records: Mapping[str, RotationRecord] = field(default_factory=dict)


def propose(cluster: Cluster, vault: Vault, domain: str, without: Sequence[str], now: datetime) -> Proposal:
    """Return what would be done; writes nothing. `without` are the nodes whose word does not count.

    Raises ArgumentError if there is no such CA, StateConflict if it is the root that is to be recovered, or if no
    revision fits what nodes say.
    """
    if domain not in all_cas(cluster):
        raise ArgumentError(f"there is no CA {domain}; write one of {', '.join(all_cas(cluster))}")
    refuse_move(cluster, vault)
    scene = read_scene(cluster, vault, now)
    set_back.refuse_no_member(scene, without)
    record = scene.records[domain].record
    whole = set_back.with_root(scene, domain)
    if whole != domain:
        raise StateConflict(
            f"the root is being rotated and takes {domain} along; run `vaultpki ca recover {whole}"
            f"{cluster.file_option}`"
        )
    # What a gate leaves out has still read what it has read; only a person's word now sets it aside.
    claims = _claims(scene, domain, without)
    domains = all_cas(cluster) if domain == ROOT and (record is not None and record.active) else (domain,)
    why = next((said for each in domains if (said := set_back.why(scene, each, without))), "")
    if not why:
        return Proposal(scene, domain, "", claims, record)
    if domain == ROOT:
        records = _with_companions(scene, without)
    else:
        mount = scene.mount(domain)
        nodes = scene.nodes(domain)
        made = recovery.recovered(cluster.name, domain, record, mount, nodes, without, scene.now)
        others = [each.record for name, each in scene.records.items() if name != domain]
        if made.active and any(each is not None and each.active for each in others):
            raise StateConflict(
                f"{domain} would go on as {made.state.value}, and another CA is being rotated: end that one first "
                f"(`vaultpki ca abort{cluster.file_option} {' '.join(f'--without {name}' for name in _named(claims))}`)"
            )
        records = {domain: made}
    return Proposal(scene, domain, why, claims, record, records)


def recover(proposal: Proposal) -> RotationRecord:
    """Write what was proposed, unless somebody changed a record meanwhile (Refused), and make the server match it."""
    with announced(proposal.scene.cluster, proposal.scene.vault) as notice:
        return _recover(replace(proposal.scene, notice=notice), proposal)


def propose_drop(cluster: Cluster, vault: Vault, domain: str, dropped: Sequence[str], now: datetime) -> Proposal:
    """Return what takes CAs out that nodes trust and the server does not have, by their SHA-256; writes nothing.

    Raises as `left_over.dropping`, Attention if a CA is to be recovered first, and StateConflict while another rotation
    is under way, or as long as a node does not trust the CA that signs.
    """
    if domain not in issuing_cas(cluster):
        raise ArgumentError(f"{domain} is no issuing CA; write one of {', '.join(issuing_cas(cluster))}")
    scene = read_scene(cluster, vault, now)
    set_back.refuse(scene)
    refuse_adoption(cluster, vault)
    refuse_move(cluster, vault)
    refuse_active(cluster, scene.records)
    if why := keys_in_the_way(cluster, vault):
        raise StateConflict(why)
    before, mount, nodes = scene.records[domain].record, scene.mount(domain), scene.nodes(domain)
    made = left_over.dropping(cluster, domain, before, mount, nodes, dropped, scene.now)
    asked = left_over.before_dropping(made, before)
    step = Transition(asked, State.SWITCHED, scene.now, reload(cluster, domain))
    for each in gate(step, nodes).waiting:
        raise StateConflict(f"{each.node} may not trust {made.leaf.name}, which signs: it {each.reason}")
    holders = {name for each in left_over.left_over(before, mount, nodes) for name in each.nodes}
    why = f"{first_few(sorted(holders))} trust what the server does not have"
    return Proposal(scene, domain, why, _claims(scene, domain, ()), before, {domain: made})


def _recover(scene: Scene, proposal: Proposal) -> RotationRecord:
    domain = proposal.domain
    for record in proposal.records.values():
        scene = scene.writing(record)
    # At rest the root takes nothing along: an issuing CA may be in a rotation of its own.
    if domain != ROOT or scene.active(ROOT):
        scene, _ = reconcile(scene, domain)
    return scene.record(domain)


def _with_companions(scene: Scene, aside: Sequence[str]) -> dict[str, RotationRecord]:
    """Return the records with which the root, and each issuing CA that nodes have read more of, go on."""
    mount = scene.mount(ROOT)
    companions = {ca: scene.records[ca].record for ca in issuing_cas(scene.cluster)}
    record, name = scene.records[ROOT].record, scene.cluster.name
    root = root_recovery.recovered(name, record, mount, scene.nodes(ROOT), companions, aside, scene.now)
    found = {ROOT: root}
    for ca in issuing_cas(scene.cluster):
        if set_back.told(ca, companions[ca], scene.nodes(ca), aside):
            found[ca] = _renewed(scene, ca, root, aside)
    return found


def _renewed(scene: Scene, ca: str, root: RotationRecord, aside: Sequence[str]) -> RotationRecord:
    """Return an issuing CA's record with a higher revision than nodes have read, in the state that fits the root's."""
    own, nodes = scene.records[ca].record, scene.nodes(ca)
    revision = recovery.next_revision(ca, own, nodes, aside)
    if own is None:
        mount = scene.mount(ca)
        own = recovery.rebuilt(scene.cluster.name, ca, mount, nodes, scene.now)
    state = State.RETRUSTING if own.active and root.state is State.RETRUSTING else own.state
    return replace(own.moved(state, scene.now), revision=revision)


def _named(claims: Collection[Claim]) -> list[str]:
    return [claim.node for claim in claims if claim.counts and claim.note]


def _claims(scene: Scene, domain: str, without: Collection[str]) -> tuple[Claim, ...]:
    """Return what listed nodes say, and of pooled ones those that say that they have read a newer record."""
    record, nodes = scene.records[domain].record, scene.nodes(domain)
    names = {} if domain == ROOT else _names(scene.mount(domain), record)
    known = {
        node.name: recovery.seen_of(domain, node).highest
        for node in recovery.counted(nodes, without)
        if node.report is not None
    }
    pooled = set_back.pooled_claims(domain, record, nodes)
    shown = [node for node in nodes if node.kind == "listed" or node.name in pooled]
    return tuple(
        _claim(domain, record, node, names, _note(record, node, known, without))
        for node in sorted(shown, key=lambda each: (each.kind != "listed", each.name))
    )


def _claim(
    domain: str, record: RotationRecord | None, node: Participant, names: Mapping[str, str], note: tuple[bool, str]
) -> Claim:
    seen, report = recovery.seen_of(domain, node), node.report
    leaves = {
        name: names.get(leaf.issuer_key_id, f"unknown ({leaf.issuer_key_id[:8]})")
        for name, leaf in recovery.held_leaves(node, domain)
    }
    bundle = report.bundles.get(domain) if report is not None and node.bundle and domain != ROOT else None
    trusts = bundle.sha256 if bundle is not None else report.pins if report is not None and domain == ROOT else ()
    if domain == ROOT and record is not None:
        names = {ca.sha256: ca.name for ca in (record.old, record.new) if ca is not None}
    return Claim(
        node.name,
        node.kind,
        seen.revision,
        seen.highest,
        report.time if report is not None else None,
        tuple(f"{name}: {ca}" for name, ca in sorted(leaves.items())),
        tuple(sorted(names.get(sha256, f"unknown ({sha256[:8]})") for sha256 in trusts)),
        *note,
    )


def _note(
    record: RotationRecord | None, node: Participant, known: Mapping[str, int], without: Collection[str]
) -> tuple[bool, str]:
    """Return whether a node's word counts, and what is odd about it."""
    now = record.revision if record is not None else 0
    if node.name in without:
        return False, "left out"
    if node.kind != "listed":
        return False, "pooled: does not count; join it anew if it stays ahead"
    if node.report is None:
        return True, "has not reported, or is locked"
    mine, others = known[node.name], [highest for name, highest in known.items() if name != node.name]
    alone = mine > now and bool(others) and max(others) <= now
    if alone or (others and mine > max(others) + _FAR):
        return True, "alone says so: perhaps false; join it anew, or leave it out"
    return True, "ahead of the server" if mine > now else ""


def _names(mount: RotationMount, record: RotationRecord | None) -> dict[str, str]:
    """Return the names of a mount's CAs, by the id of their keys and by their SHA-256."""
    found = {ca.sha256: ca.name for ca in (record.old, record.new) if ca is not None} if record is not None else {}
    for each in mount.issuers:
        if each.facts is not None:
            found[each.sha256] = each.name or each.id
            found.setdefault(each.facts.subject_key_id or "", each.name or each.id)
    return found
