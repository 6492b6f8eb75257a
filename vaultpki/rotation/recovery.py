"""Decides how a rotation goes on after the server was restored from a snapshot, or has lost the record; pure.

Nodes tell it: their reports name the highest revision that they have read. Until a newer record is written such nodes
add trust, drop none, and re-issue nothing. Any node may lie, so what they say moves no rotation forward: `ca recover`
shows it to a person, and leads back only, to rest or to re-trusting. There each node keeps the leaf that it holds until
everybody trusts both CAs. The rules were explored with tests/models/rotation.py, and something breaks without
each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import ca_subject
from vaultpki.errors import StateConflict
from vaultpki.records.node_report import CertificateReport, Seen
from vaultpki.records.rotation import BEYOND, MOST_AHEAD, CaRef, Kept, Method, RotationRecord, State
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount, issuer_of, usable
from vaultpki.rotation.start import also_trusted, numbers
from vaultpki.vault.issuer import number, successor_name

_MARGIN: Final = 100
"""How far above what nodes say a recovered revision is: one that has not reported since may have read more."""

# Of CAs that nobody but nodes knows: a lying one cannot make the record too large.
_MOST_ALSO: Final = 100
# Of an agent that does not say how often it reports, or that a timer starts.
_SILENT: Final = 2 * 3600


def seen_of(domain: str, node: Participant) -> Seen:
    """Return the revisions of a CA's record that a node says it has read; zeros if it says nothing."""
    seen = node.report.seen.get(domain) if node.report is not None else None
    return seen if seen is not None else Seen(0, 0)


def counted(nodes: Collection[Participant], aside: Collection[str]) -> tuple[Participant, ...]:
    """Return the nodes whose word counts here: the listed ones that nobody has set aside.

    A pooled node is worth less: whoever may enrol into its pool makes as many as it likes.
    """
    return tuple(node for node in nodes if node.kind == "listed" and node.name not in aside)


def ahead(
    domain: str, record: RotationRecord | None, nodes: Collection[Participant], aside: Collection[str] = ()
) -> tuple[Participant, ...]:
    """Return the counted nodes that have read a newer record of this CA than the server has."""
    now = record.revision if record is not None else 0
    return tuple(node for node in counted(nodes, aside) if seen_of(domain, node).highest > now)


def out_of_reach(
    domain: str, record: RotationRecord | None, nodes: Collection[Participant], aside: Collection[str] = ()
) -> bool:
    """Return whether the record's number is so far above what every counted node remembers that none takes it."""
    known = _remembered(domain, nodes, aside).values()
    return record is not None and bool(known) and record.revision > max(known) + MOST_AHEAD


def _remembered(domain: str, nodes: Collection[Participant], aside: Collection[str]) -> dict[str, int]:
    """Return the highest revision that each counted node says it has read, 0 for none; not of one that says nothing."""
    return {
        node.name: node.report.seen[domain].highest
        for node in counted(nodes, aside)
        if node.report is not None and domain in node.report.seen
    }


def lost(cluster: str, domain: str, mount: RotationMount) -> bool:
    """Return whether a mount has a CA that only a rotation makes; without a record that one is lost."""
    name = ca_subject(cluster, domain)
    return any(
        each.name != f"{domain}-1" and each.facts is not None and mount.takes(each.facts, name)
        for each in _ours(domain, mount)
    )


def next_revision(
    domain: str, record: RotationRecord | None, nodes: Collection[Participant], aside: Collection[str] = ()
) -> int:
    """Return a revision above all that counted nodes have read, and that each of them takes.

    Raises StateConflict if there is none: of numbers that are far apart some are false.
    """
    known = _remembered(domain, nodes, aside)
    remembered = list(known.values())
    above = [*remembered] if out_of_reach(domain, record, nodes, aside) or record is None else [record.revision]
    top = max([*above, *remembered], default=0)
    low = min(remembered, default=top)
    if top - low >= MOST_AHEAD or top >= BEYOND - _MARGIN:
        far = sorted(name for name, highest in known.items() if highest > low + MOST_AHEAD - 1)
        names = ", ".join(far[:3]) or "the server"
        raise StateConflict(
            f"{names} {'has' if len(far) == 1 else 'have'} read revision {top} of {domain}, others {low}. No number "
            f"above both is taken by every node (at most {MOST_AHEAD} above what it has read). Join {names} anew, or "
            f"leave out what is false (`--without {far[0] if far else 'NODE'}`)"
        )
    return min(top + _MARGIN, low + MOST_AHEAD)


def emergency_revision(domain: str, begun: RotationRecord, nodes: Collection[Participant]) -> int:
    """Return the revision with which an emergency begins, which waits for nothing and nobody.

    It is above the server's, and above what nodes say within what the others take.
    """
    now = begun.revision - 1
    if out_of_reach(domain, replace(begun, revision=now), nodes):
        now = 0
    known = _remembered(domain, nodes, ()).values()
    low = now or min(known, default=0)
    return max([now, *(highest for highest in known if highest < low + MOST_AHEAD)]) + 1


def recovered(
    cluster: str,
    domain: str,
    record: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    aside: Collection[str],
    now: datetime,
) -> RotationRecord:
    """Return the record with which a CA goes on: at rest, or in re-trusting where each node keeps its leaf.

    At rest only if every counted node has reported since, and none holds anything of a CA that the server lost; a
    stolen key is not trusted again. Raises StateConflict as `next_revision`.
    """
    heard = counted(nodes, aside)
    found = _safe(cluster, domain, record, mount, heard, now)
    return replace(
        found,
        revision=next_revision(domain, record, nodes, aside),
        since=now,
        restarted=(),
        checked=(),
        turn="",
        excused=tuple(sorted({*aside, *(record.excused if record is not None else ())})),
    )


def key_ids(record: RotationRecord, mount: RotationMount, nodes: Collection[Participant]) -> dict[str, str]:
    """Return the key ids of the old and the new CA; of one that the server has lost, the one that nodes report."""
    found = {}
    for side, ca in (("old", record.old), ("new", record.new)):
        issuer = mount.issuer(ca.issuer) if ca is not None else None
        facts = issuer.facts if issuer is not None else None
        found[side] = (facts.subject_key_id or "") if facts is not None else ""
    for side in ("old", "new"):
        lost = next(iter(_unknown_keys(mount, counted(nodes, ()), record.domain)), "")
        found[side] = found[side] or lost
    return found


def named_since(record: RotationRecord, mount: RotationMount, nodes: Collection[Participant]) -> RotationRecord:
    """Return a recovered record with the CAs that counted nodes hold and that neither it nor the server has.

    A node that had not reported when the recovery began may hold one, and its peers trust it again before any step.
    """
    if record.kept is None or record.new is None:
        return record
    known = {record.new.sha256, record.old.sha256, *record.also}
    unknown = [sha256 for sha256 in _unknown_cas(record, mount, counted(nodes, record.excused)) if sha256 not in known]
    if not unknown or len(record.also) + len(unknown) > _MOST_ALSO:
        return record
    new, further = record.new, unknown
    if new.sha256 == record.old.sha256:
        new, further = replace(new, sha256=unknown[0]), unknown[1:]
    return replace(record, new=new, also=tuple(sorted({*record.also, *further})))


def _safe(
    cluster: str,
    domain: str,
    record: RotationRecord | None,
    mount: RotationMount,
    heard: Collection[Participant],
    now: datetime,
) -> RotationRecord:
    base = record if record is not None else rebuilt(cluster, domain, mount, heard, now)
    if base.method is Method.EMERGENCY and base.active:
        return base
    new = base.new
    if new is not None and not base.state.resting:
        there = issuer_of(cluster, base, mount, new)
        if there is not None and not new.sha256:
            new = replace(new, issuer=there.id, key=there.key or new.key, sha256=there.sha256)
        if new.sha256 and (there is not None or usable(cluster, base, mount, new)):
            return _kept(cluster, replace(base, new=new), mount, heard)
    unknown, keys = _unknown_cas(base, mount, heard), _unknown_keys(mount, heard, domain)
    if base.active and base.state is not State.PREPARED and new is not None and new.sha256 in unknown:
        # What the record names, first.
        unknown = [new.sha256, *(sha256 for sha256 in unknown if sha256 != new.sha256)]
    if not unknown and not keys and not _silent(domain, record, heard):
        return replace(base, state=base.state if base.state.resting else State.STEADY)
    # Nodes use a CA that the snapshot does not have, or has the key of alone, or may do so.
    beginning = base.active and new is not None
    old, highest = (base.old if base.active else base.leaf), base.highest
    if beginning and new is not None:
        name, key = new.name, new.key if new.key in mount.keys else ""
    else:
        name, highest = successor_name(domain, highest, Method.NEW_KEY, old.name)
        key = ""
    also = {*base.also, *unknown[1:_MOST_ALSO]} - {old.sha256}
    # Without any CA that is named, it says that of the old one: what nodes hold they keep in this state.
    lost_ca = CaRef(name, key=key, sha256=unknown[0] if unknown else old.sha256)
    whole = replace(base, method=Method.NEW_KEY, old=old, new=lost_ca, highest=highest, also=tuple(sorted(also)))
    # At rest, its old CA is another one.
    whole = replace(whole, drops=base.drops and base.active)
    return replace(whole, state=State.RETRUSTING, kept=Kept.OLD)


def _kept(cluster: str, record: RotationRecord, mount: RotationMount, heard: Collection[Participant]) -> RotationRecord:
    """Return the re-trusting in which each node keeps its leaf.

    The new CA is the default only if every leaf that is told of is of it, or if the old one cannot sign.
    """
    again = replace(record, state=State.RETRUSTING)
    if again.new is None:
        return again
    issuer = issuer_of(cluster, again, mount, again.new)
    new_key = issuer.facts.subject_key_id if issuer is not None and issuer.facts is not None else None
    leaves = {leaf.issuer_key_id for node in heard for _, leaf in held_leaves(node, record.domain)}
    default = issuer is not None and mount.default == issuer.id
    all_new = leaves == {new_key} if leaves else default
    usable_new, usable_old = (usable(cluster, again, mount, ca) for ca in (again.new, again.old))
    kept = Kept.NEW if usable_new and (all_new or not usable_old) else Kept.OLD
    return replace(again, kept=kept)


def held_leaves(node: Participant, domain: str) -> Iterator[tuple[str, CertificateReport]]:
    """Yield the certificates of a CA that a node reports, by row, as far as it may hold them."""
    for name, leaf in node.report.certificates.items() if node.report is not None else ():
        if name in node.certificates and leaf.ca == domain and leaf.issuer_key_id:
            yield name, leaf


def _silent(domain: str, record: RotationRecord | None, heard: Collection[Participant]) -> bool:
    """Return whether a counted node has not reported since others found the server set back.

    It may hold what nobody has told of. One that has read a newer record itself has told what it holds.
    """
    aware = ahead(domain, record, heard)
    last = max((node.report.time for node in aware if node.report is not None), default=None)
    if last is None:
        return False
    return any(
        node.report is None or node.report.time + timedelta(seconds=node.report.next_within or _SILENT) < last
        for node in heard
        if node not in aware and (node.bundle or node.certificates) and node.credentials != 0
    )


def rebuilt(
    cluster: str, domain: str, mount: RotationMount, nodes: Collection[Participant], now: datetime
) -> RotationRecord:
    """Return a record for a mount whose record is lost, from the names of its issuers and from its default."""
    ours = sorted(_ours(domain, mount), key=lambda each: _rank(each.name))
    trusted = also_trusted(cluster, domain, mount, nodes)
    refs = [CaRef(each.name, each.id, each.key, each.sha256) for each in ours]
    highest = max([*numbers(domain, mount), 1])
    if not refs:
        refs = [CaRef(f"{domain}-1", sha256=next(iter(sorted(trusted)), "0" * 64))]
    old = refs[-2] if len(refs) > 1 else refs[-1]
    new = refs[-1] if len(refs) > 1 else None
    same = new is not None and new.key == old.key
    also = trusted - {old.sha256} - ({new.sha256} if new is not None else set())
    return RotationRecord(
        domain=domain,
        state=State.RETRUSTING if new is not None else State.STEADY,
        revision=1,
        since=now,
        old=old,
        new=new,
        method=Method.SAME_KEY if same else Method.NEW_KEY,
        highest=highest,
        also=tuple(sorted(also)),
    )


def _ours(domain: str, mount: RotationMount) -> Iterator[MountIssuer]:
    for each in mount.issuers:
        if re.fullmatch(rf"{domain}-[0-9]{{1,6}}(?:r[0-9]{{1,6}})?", each.name) and each.facts is not None:
            yield each


def _rank(name: str) -> tuple[int, int]:
    return number(name), int(name.rpartition("-")[2].partition("r")[2] or 1)


def _unknown_keys(mount: RotationMount, nodes: Collection[Participant], domain: str) -> list[str]:
    """Return the key ids of leaves that no CA on the mount has, the most reported first."""
    known = {each.facts.subject_key_id for each in mount.issuers if each.facts is not None}
    told = Counter(leaf.issuer_key_id for node in nodes for _, leaf in held_leaves(node, domain))
    return [key for key, _ in told.most_common() if key not in known]


def _unknown_cas(record: RotationRecord, mount: RotationMount, nodes: Collection[Participant]) -> list[str]:
    """Return the SHA-256 of trusted CAs that neither the mount nor the record has, the most reported first."""
    known = {record.old.sha256, *record.also, *(each.sha256 for each in mount.issuers)}
    reports = [node.report for node in nodes if node.report is not None and node.bundle]
    bundles = [report.bundles[record.domain] for report in reports if record.domain in report.bundles]
    told = Counter(sha256 for bundle in bundles for sha256 in bundle.sha256)
    return [sha256 for sha256, _ in told.most_common(_MOST_ALSO) if sha256 not in known]
