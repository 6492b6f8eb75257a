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
from vaultpki.records.report_fields import BOOL, MOMENT, Or, Printed, ReportPart, Some, SomeByName
from vaultpki.records.rotation import BEYOND
from vaultpki.values.json_object import FLAG, Integer, JsonMember, OneOf

RESTART_ORDER: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
"""The components of kubeadm that read files of its CAs, in the order in which they are restarted."""

_MOST_OWED: Final = 16
_MOST_MOUNTS: Final = 64
MOST_KUBECONFIGS: Final = 64
"""How many kubeconfigs a report names at the most."""

_REVISION: Final = Integer(0, BEYOND - 1)


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
class KubeconfigReport:
    """A kubeconfig that no state changes: the CAs that it trusts, and whose certificate it logs in with."""

    path: str
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
    the table that flags name: path and flag of each; at the end also kubeconfigs of people's that trust an old CA.
    `kubeconfigs` are those of people, such as copies of admin.conf in home folders; empty while the machine is at rest.
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
    kubeconfigs: tuple[KubeconfigReport, ...] = ()

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


def _as_it_runs(one: ComponentReport, entry: Mapping[str, Any]) -> ComponentReport:
    return one if one.started is not None else ComponentReport(problem=one.problem)


_HELD: Final = OneOf(Held)
_TEXT: Final = Printed(cut=True)
_COMPONENT: Final = ReportPart(
    ComponentReport,
    {
        "started": JsonMember(MOMENT, null=True),
        "trust": _HELD,
        "leaves": _HELD,
        "healthy": FLAG,
        "problem": _TEXT,
    },
    also=_as_it_runs,
)
_MOUNT: Final = ReportPart(
    MountReport, {"who": Or(_TEXT, ""), "path": Or(_TEXT, ""), "fresh": FLAG, "trust": _HELD, "leaves": _HELD}
)
_KUBECONFIG: Final = ReportPart(KubeconfigReport, {"path": _TEXT, "trust": _HELD, "leaves": _HELD})

ADOPTION: Final = ReportPart(
    AdoptionReport,
    {
        "revision": _REVISION,
        "reached": OneOf(AdoptionState, or_empty=True),
        "trust": _HELD,
        "leaves": _HELD,
        "components": SomeByName(RESTART_ORDER.__contains__, _COMPONENT),
        "signer": JsonMember(BOOL, left_out=True),
        "rotates": JsonMember(BOOL, left_out=True),
        # What cannot be read counts as the place that holds gates closed.
        "keys": Or(OneOf(OldKeys), OldKeys.IN_PLACE),
        "kept_until": JsonMember(MOMENT, left_out=True),
        "by_agent": FLAG,
        "owed": Some(Printed(least=1, cut=True), _MOST_OWED, cut=True),
        "since": JsonMember(MOMENT, left_out=True),
        "highest": JsonMember(_REVISION, left_out=True),
        "not_followed": JsonMember(_REVISION, left_out=True),
        "no_signer": JsonMember(FLAG, left_out=True),
        "mounts": JsonMember(Some(_MOUNT, _MOST_MOUNTS, cut=True), left_out=True),
        "pairs": JsonMember(Some(Or(_TEXT, ""), _MOST_MOUNTS, cut=True), left_out=True),
        "kubeconfigs": JsonMember(Some(_KUBECONFIG, MOST_KUBECONFIGS, cut=True), left_out=True),
    },
    must=["reached"],
)
"""What a report says of an adoption; it does not count if its revision or its state cannot be read."""

to_json = ADOPTION.write
read = ADOPTION.found
