"""Writes and reads what a node's report says of an adoption: which CAs lie on its disk, and which its processes hold.

A node may write anything here, as in the rest of its report. What cannot be read counts as missing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from vaultpki.records.adoption import AdoptionState
from vaultpki.records.rotation import BEYOND
from vaultpki.redact import moment, printable, stamp

RESTART_ORDER: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
"""The components of kubeadm that read files of its CAs, in the order in which they are restarted."""

_LONGEST: Final = 300
_MOST_OWED: Final = 16
_MOST_MOUNTS: Final = 64


class Held(enum.Enum):
    """Which CAs files or processes hold, or have certificates of. MIXED is several answers, such as of two bundles."""

    OLD = "old"
    BOTH = "both"
    NEW = "new"
    MIXED = "mixed"
    UNKNOWN = "unknown"


class OldKeys(enum.Enum):
    """Where the keys of the old CAs lie on a machine: where kubeadm looks for them, aside, or nowhere."""

    IN_PLACE = "in-place"
    ASIDE = "aside"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """A component as it runs: the CAs that it trusts since its start, and whose certificates it shows.

    `started` is None if no process was seen. `problem` is what is wrong, as a part of a sentence.
    """

    started: datetime | None = None
    trust: Held = Held.UNKNOWN
    leaves: Held = Held.UNKNOWN
    healthy: bool = False
    problem: str = ""


STATIC_POD: Final = "the static pod "
"""How `who` of a `MountReport` begins where the kubelet of the machine runs it by a manifest."""


@dataclass(frozen=True, slots=True)
class MountReport:
    """A file or folder of kubeadm's at `path` that a container has mounted which is no component: `who` that is.

    `fresh` is whether it was started after the last change there. `trust` and `leaves` are what a kubeconfig at this
    path holds, UNKNOWN for anything else.
    """

    who: str
    path: str
    fresh: bool
    trust: Held = Held.UNKNOWN
    leaves: Held = Held.UNKNOWN


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What a node says of the adoption of its machine.

    `revision` is of the record that the report's pass read, 0 without one, and `highest` the highest that was ever read
    there. `not_followed` is that of a record that is too far ahead to be followed, 0 for none. `reached` is the last
    state whose steps are all done here; None while the machine is as kubeadm left it. `trust` and `leaves` are what
    lies on the disk, where components read it; `components` is what they hold. `signer` is whether the controller
    manager of this node signs CSRs as it runs, None if there is none; `rotates` the same of a kubelet that renews its
    own certificate by CSRs. `keys` is where the keys of the old CAs lie. `kept_until` is when the first of the kept old
    pairs expires. `by_agent` is whether agent.yaml lets the agent do the steps. `owed` are sentences: what is left to
    do for the state of the record. `since` is when something was last changed for the adoption on this machine; None if
    never, or if that was before its last boot. `no_signer` is whether the controller manager of this node cannot sign
    CSRs, because the key of the old CA is on no disk there. `mounts` is what containers beside the components have
    mounted of kubeadm's files, None from an agent that does not look. `pairs` are certificates of the old CAs beside
    the table that flags name: path and flag of each.
    """

    revision: int
    reached: AdoptionState | None = None
    trust: Held = Held.UNKNOWN
    leaves: Held = Held.UNKNOWN
    components: Mapping[str, ComponentReport] = field(default_factory=dict)
    signer: bool | None = None
    rotates: bool | None = None
    keys: OldKeys = OldKeys.NONE
    kept_until: datetime | None = None
    by_agent: bool = False
    owed: tuple[str, ...] = ()
    since: datetime | None = None
    highest: int = 0
    not_followed: int = 0
    no_signer: bool = False
    mounts: tuple[MountReport, ...] | None = None
    pairs: tuple[str, ...] = ()

    @property
    def memory(self) -> Held:
        """The CAs that every component of the node holds."""
        return common(each.trust for each in self.components.values())

    @property
    def shown(self) -> Held:
        """Whose certificates every component of the node shows."""
        return common(each.leaves for each in self.components.values())


def common(found: Iterable[Held]) -> Held:
    """Return what all of these are, MIXED if they differ; UNKNOWN for none of them, or if one is unknown."""
    held = set(found)
    if not held or Held.UNKNOWN in held:
        return Held.UNKNOWN
    return held.pop() if len(held) == 1 else Held.MIXED


def to_json(report: AdoptionReport) -> dict[str, Any]:
    """Return the part as it is stored."""
    return {
        "revision": report.revision,
        "reached": report.reached.value if report.reached is not None else "",
        "trust": report.trust.value,
        "leaves": report.leaves.value,
        "components": {name: _component(one) for name, one in report.components.items()},
        **({"signer": report.signer} if report.signer is not None else {}),
        **({"rotates": report.rotates} if report.rotates is not None else {}),
        "keys": report.keys.value,
        **({"kept_until": stamp(report.kept_until)} if report.kept_until is not None else {}),
        "by_agent": report.by_agent,
        "owed": [printable(text)[:_LONGEST] for text in report.owed[:_MOST_OWED]],
        **({"since": stamp(report.since)} if report.since is not None else {}),
        **({"highest": report.highest} if report.highest else {}),
        **({"not_followed": report.not_followed} if report.not_followed else {}),
        **({"no_signer": True} if report.no_signer else {}),
        **({"mounts": list(map(_mount, report.mounts[:_MOST_MOUNTS]))} if report.mounts is not None else {}),
        **({"pairs": [printable(text)[:_LONGEST] for text in report.pairs[:_MOST_MOUNTS]]} if report.pairs else {}),
    }


def _mount(one: MountReport) -> dict[str, Any]:
    return {
        "who": printable(one.who)[:_LONGEST],
        "path": printable(one.path)[:_LONGEST],
        "fresh": one.fresh,
        "trust": one.trust.value,
        "leaves": one.leaves.value,
    }


def _component(one: ComponentReport) -> dict[str, Any]:
    return {
        "started": stamp(one.started) if one.started is not None else None,
        "trust": one.trust.value,
        "leaves": one.leaves.value,
        "healthy": one.healthy,
        "problem": printable(one.problem)[:_LONGEST],
    }


def read(value: object) -> AdoptionReport | None:
    """Return the part; None if there is none, or if its revision or its state cannot be read."""
    entry = value if isinstance(value, Mapping) else {}
    revision, reached = entry.get("revision"), entry.get("reached")
    if type(revision) is not int or not 0 <= revision < BEYOND or not isinstance(reached, str):
        return None
    try:
        state = AdoptionState(reached) if reached else None
    except ValueError:
        return None
    found = entry.get("components")
    components = {
        name: _read_component(one)
        for name, one in (found if isinstance(found, Mapping) else {}).items()
        if name in RESTART_ORDER and isinstance(one, Mapping)
    }
    owed, pairs = entry.get("owed"), entry.get("pairs")
    return AdoptionReport(
        revision=revision,
        reached=state,
        trust=_held(entry.get("trust")),
        leaves=_held(entry.get("leaves")),
        components=components,
        signer=_truth(entry.get("signer")),
        rotates=_truth(entry.get("rotates")),
        keys=_keys(entry.get("keys")),
        kept_until=moment(entry.get("kept_until")),
        by_agent=entry.get("by_agent") is True,
        owed=tuple(_text(each) for each in (owed[:_MOST_OWED] if isinstance(owed, list) else []) if _text(each)),
        since=moment(entry.get("since")),
        highest=_revision(entry.get("highest")),
        not_followed=_revision(entry.get("not_followed")),
        no_signer=entry.get("no_signer") is True,
        mounts=_mounts(entry.get("mounts")),
        pairs=tuple(map(_text, pairs[:_MOST_MOUNTS] if isinstance(pairs, list) else [])),
    )


def _read_component(entry: Mapping[str, Any]) -> ComponentReport:
    started = moment(entry.get("started"))
    return ComponentReport(
        started=started,
        trust=_held(entry.get("trust")) if started is not None else Held.UNKNOWN,
        leaves=_held(entry.get("leaves")) if started is not None else Held.UNKNOWN,
        healthy=started is not None and entry.get("healthy") is True,
        problem=_text(entry.get("problem")),
    )


def _mounts(value: object) -> tuple[MountReport, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(
        MountReport(
            _text(one.get("who")),
            _text(one.get("path")),
            one.get("fresh") is True,
            _held(one.get("trust")),
            _held(one.get("leaves")),
        )
        for one in value[:_MOST_MOUNTS]
        if isinstance(one, Mapping)
    )


def _held(value: object) -> Held:
    try:
        return Held(value)
    except ValueError:
        return Held.UNKNOWN


def _keys(value: object) -> OldKeys:
    """Return where the keys lie; what cannot be read counts as the place that holds gates closed."""
    try:
        return OldKeys(value)
    except ValueError:
        return OldKeys.IN_PLACE


def _revision(value: object) -> int:
    return value if type(value) is int and 0 <= value < BEYOND else 0


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str:
    return printable(value[:_LONGEST]) if isinstance(value, str) else ""
