"""Decides how a rotation goes on after the server was restored from a snapshot, or has lost the record; pure.

Nodes tell it: their reports name the highest revision that they have read. Until a newer record is written such nodes
add trust, drop none, and re-issue nothing. What they hold then decides: the certificates that are in use must come from
a CA that all of them trust.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from vaultpki.certificates import ca_subject
from vaultpki.pki import trust
from vaultpki.provision.gates import Participant, Waiting
from vaultpki.provision.rotation import number, successor_name
from vaultpki.provision.rotation_start import also_trusted, numbers
from vaultpki.provision.rotation_steps import MountIssuer, RotationMount, usable
from vaultpki.redact import stamp
from vaultpki.spec.rotation_record import CaRef, Method, RotationRecord, State

# No rotation writes as many revisions; a higher number is a false report's.
_PLAUSIBLE: Final = 100_000


@dataclass(frozen=True, slots=True)
class Recovery:
    """The record to go on with, None while nodes are waited for; `note` says in one sentence what happened."""

    record: RotationRecord | None
    note: str
    waiting: tuple[Waiting, ...] = ()


def behind(
    domain: str, record: RotationRecord | None, nodes: Collection[Participant], without: Sequence[str] = ()
) -> tuple[Participant, ...]:
    """Return the nodes that have read a newer record of this CA than the server has."""
    now = record.revision if record is not None else 0
    excused = {*without, *(record.excused if record is not None else ())}
    return tuple(node for node in nodes if node.name not in excused and now < _highest(domain, node) < now + _PLAUSIBLE)


def lost(cluster: str, domain: str, mount: RotationMount) -> bool:
    """Return whether a mount has a CA that only a rotation makes; without a record that one is lost."""
    name = ca_subject(cluster, domain)
    return any(
        each.name != f"{domain}-1"
        and each.facts is not None
        and trust.why_untrusted(each.facts, mount.root, name) is None
        for each in _ours(domain, mount)
    )


def recovered(
    cluster: str,
    domain: str,
    record: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    without: Sequence[str],
    now: datetime,
) -> Recovery:
    """Return the record with which a rotation goes on, once every node has reported since the server was set back."""
    ahead = behind(domain, record, nodes, without)
    # Where no node has read a newer record, all of them may act on what they last reported.
    first = min(
        (node.report.time for node in ahead if node.report is not None), default=datetime.min.replace(tzinfo=UTC)
    )
    excused = {*without, *(record.excused if record is not None else ())}
    counted = [node for node in nodes if node.name not in excused and (node.certificates or node.bundle)]
    silent = [node for node in counted if ahead and (node.report is None or node.report.time < first)]
    was = (
        "has lost the record"
        if record is None
        else f"has an older record than nodes have read (revision {record.revision})"
    )
    what = f"the server {was} of {domain}: it was restored from a snapshot, or somebody deleted it"
    if silent:
        reason = (
            f"has not reported since {stamp(first)}, when another node found the server set back: start its agent, or "
            f"go on without it (`--without NAME`)"
        )
        return Recovery(None, what, tuple(Waiting(node.name, reason.replace("NAME", node.name)) for node in silent))
    aware = [node for node in counted if node.report is not None and node.report.seen]
    if record is not None and 2 * len(ahead) < len(aware):
        reason = (
            f"says that it has read a newer record of {domain}, and most nodes have not: its report or its state is "
            "false; join it anew, or go on without it (`--without NAME`)"
        )
        return Recovery(None, "", tuple(Waiting(node.name, reason.replace("NAME", node.name)) for node in ahead))
    revision = max((_highest(domain, node) for node in ahead), default=0) + 1
    found = _safe(cluster, domain, record, mount, counted, now)
    return Recovery(
        replace(found, revision=revision, since=now, restarted=(), turn="", excused=tuple(sorted(excused))),
        f"{what}; it goes on as {found.state.value}, with a newer record",
    )


def key_ids(record: RotationRecord, mount: RotationMount, nodes: Collection[Participant]) -> dict[str, str]:
    """Return the key ids of the old and the new CA; of one that the server has lost, the one that nodes report."""
    found = {}
    for side, ca in (("old", record.old), ("new", record.new)):
        issuer = mount.issuer(ca.issuer) if ca is not None else None
        facts = issuer.facts if issuer is not None else None
        found[side] = (facts.subject_key_id or "") if facts is not None else ""
    for side in ("old", "new"):
        lost = next(iter(_unknown_keys(mount, nodes, record.domain)), "")
        found[side] = found[side] or lost
    return found


def _safe(
    cluster: str,
    domain: str,
    record: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    now: datetime,
) -> RotationRecord:
    """Return the record that is safe with what nodes hold: both CAs trusted, and leaves of the one that is in use."""
    base = record if record is not None else _rebuilt(cluster, domain, mount, nodes, now)
    new = base.new
    if new is not None and not base.state.resting and new.sha256 and usable(cluster, base, mount, new):
        if base.method is Method.EMERGENCY:
            # A stolen key is not trusted again, whatever is in use.
            return replace(base, state=State.RETIRED)
        in_use = _in_use(mount, nodes, domain)
        later = base.leaf is new and record is not None
        if later and base.old.sha256 not in in_use:
            return base
        to = State.RETRUSTING if new.sha256 in in_use or (not in_use and later) else State.RETURNING
        return replace(base, state=to)
    lost = _unknown_keys(mount, nodes, domain)
    if not lost:
        return base
    # Nodes use a CA that the snapshot does not have, or has the key of alone.
    unknown = _unknown_cas(base, mount, nodes)
    prepared = base.state is State.PREPARED and new is not None
    old, highest = (base.old if prepared else base.leaf), base.highest
    if prepared and new is not None:
        name, key = new.name, new.key
    else:
        name, highest = successor_name(domain, highest, Method.NEW_KEY, old.name)
        key = ""
    also = tuple(sorted({*base.also, *unknown[1:]} - {old.sha256}))
    return replace(
        base,
        state=State.RETRUSTING,
        method=Method.NEW_KEY,
        old=old,
        new=CaRef(name, key=key, sha256=unknown[0]) if unknown else CaRef(name, key=key, sha256=old.sha256),
        highest=highest,
        also=also,
    )


def _rebuilt(
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
    state = State.STEADY
    if new is not None:
        state = State.RETRUSTING if mount.default == new.issuer else State.RETURNING
    same = new is not None and new.key == old.key
    also = trusted - {old.sha256} - ({new.sha256} if new is not None else set())
    return RotationRecord(
        domain=domain,
        state=state,
        revision=1,
        since=now,
        old=old,
        new=new,
        method=Method.SAME_KEY if same else Method.NEW_KEY,
        highest=highest,
        also=tuple(sorted(also)),
    )


def _highest(domain: str, node: Participant) -> int:
    seen = node.report.seen.get(domain) if node.report is not None else None
    return seen.highest if seen is not None else 0


def _ours(domain: str, mount: RotationMount) -> Iterator[MountIssuer]:
    for each in mount.issuers:
        if re.fullmatch(rf"{domain}-[0-9]{{1,6}}(?:r[0-9]{{1,6}})?", each.name) and each.facts is not None:
            yield each


def _rank(name: str) -> tuple[int, int]:
    return number(name), int(name.rpartition("-")[2].partition("r")[2] or 1)


def _reported_keys(nodes: Collection[Participant], domain: str) -> Counter[str]:
    reports = [node.report for node in nodes if node.report is not None]
    leaves = [leaf for report in reports for leaf in report.certificates.values() if leaf.ca == domain]
    return Counter(leaf.issuer_key_id for leaf in leaves if leaf.issuer_key_id)


def _in_use(mount: RotationMount, nodes: Collection[Participant], domain: str) -> frozenset[str]:
    """Return the SHA-256 of the mount's CAs whose leaves nodes report."""
    keys = _reported_keys(nodes, domain)
    return frozenset(each.sha256 for each in mount.issuers if each.facts and each.facts.subject_key_id in keys)


def _unknown_keys(mount: RotationMount, nodes: Collection[Participant], domain: str) -> list[str]:
    """Return the key ids of leaves that no CA on the mount has, the most reported first."""
    known = {each.facts.subject_key_id for each in mount.issuers if each.facts is not None}
    return [key for key, _ in _reported_keys(nodes, domain).most_common() if key not in known]


def _unknown_cas(record: RotationRecord, mount: RotationMount, nodes: Collection[Participant]) -> list[str]:
    """Return the SHA-256 of trusted CAs that neither the mount nor the record has, the most reported first."""
    known = {record.old.sha256, *record.also, *(each.sha256 for each in mount.issuers)}
    reports = [node.report for node in nodes if node.report is not None]
    bundles = [report.bundles[record.domain] for report in reports if record.domain in report.bundles]
    held = Counter(sha256 for bundle in bundles for sha256 in bundle.sha256)
    return [sha256 for sha256, _ in held.most_common(100) if sha256 not in known]
