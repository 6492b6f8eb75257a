"""Holds what was read of a whole cluster, as every view judges and shows it: frozen values that procedures fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vaultpki.identity.ending import LockRecord
from vaultpki.identity.nodes import NodeList
from vaultpki.identity.revoked_list import Revoked
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import CaExpiry
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.gaps import LeftOver
from vaultpki.records.move import MoveRecord
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.service_account import KeyRecord
from vaultpki.records.written import Written


@dataclass(frozen=True, slots=True)
class CaStatus:
    """One CA: its name, its certificate's SHA-256, end and kind of key, and where its rotation stands.

    `record` is None if it was never rotated. `gate` is that of the step that `continue` takes. `problem` is why it
    cannot sign, in one sentence. `apart` are the nodes that have not the record that the server has, and cannot follow
    it. `behind` are those with a component that reads this CA and holds another bundle, or is not healthy, while no
    gate waits for it. `advice` is a sentence on what a person does now that the rotation is at rest. `left_over` are
    CAs that nodes trust and the server does not have. `recover` is the CA that `ca recover` must put right before any
    step, the root if that takes this one along; "" if the record is the newest.
    """

    domain: str
    name: str
    sha256: str
    not_after: datetime | None
    record: RotationRecord | None = None
    gate: Gate | None = None
    problem: str = ""
    key: str = ""
    apart: tuple[Waiting, ...] = ()
    behind: tuple[Waiting, ...] = ()
    advice: str = ""
    left_over: tuple[LeftOver, ...] = ()
    recover: str = ""


def under_way(cas: Iterable[CaStatus]) -> CaStatus | None:
    """Return the CA whose rotation is under way; None if there is none."""
    return next((ca for ca in cas if ca.record is not None and ca.record.active), None)


@dataclass(frozen=True, slots=True)
class KeyStepDone:
    """What a command has done with service-account keys: the record as it is now, None if there is none.

    `moved` says that a step was made, `changed` that the record is another one. `gate` is what stands before the next
    step. `joining` are nodes that wait to start, and why. `counting` are stolen keys, by node, with the nodes that may
    still accept their tokens. `differing` are nodes whose union lacks keys of the record that they have read, and what
    helps. `may_start` are nodes that have read that their kube-apiserver may start, and where it was not seen yet, and
    `to_read` those whose agents have not read it yet. `sharing` are nodes with one `sa.key` that no agent has made,
    before a rotation takes it over. `notes` are sentences about something unusual. `written` says who wrote the record.
    """

    record: KeyRecord | None
    gate: Gate | None = None
    moved: bool = False
    changed: bool = False
    joining: tuple[Waiting, ...] = ()
    counting: tuple[Waiting, ...] = ()
    restarts: tuple[Waiting, ...] = ()
    differing: tuple[Waiting, ...] = ()
    may_start: tuple[str, ...] = ()
    to_read: tuple[str, ...] = ()
    sharing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    written: Written = field(default_factory=Written)

    @property
    def waits(self) -> bool:
        """Whether anything is to be done, or waited for, by agents or by people."""
        active = self.record is not None and self.record.active
        return active or bool(self.joining or self.counting or self.restarts or self.differing)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What Vault has of a cluster at the server's time `now`.

    `revisions` are those of the rotation records by domain, None if they cannot be read. `ends` are the ends of the
    CAs, and `cas` where each stands, empty if that cannot be read. `adopted` is the record of an adoption, None if
    there is none, and `move` that of a move to another server. `keys` says where the rotation of service-account keys
    stands, None if none does. `problems` are sentences on what could not be read. `locks` are the records of locks by
    node, which views alone read. `written` says who wrote the records that nodes follow, by their paths in the config
    store.
    """

    cluster: Cluster
    now: datetime
    nodes: NodeList
    revoked: Revoked
    revisions: Mapping[str, int] | None
    ends: tuple[CaExpiry, ...]
    cas: tuple[CaStatus, ...]
    problems: tuple[str, ...]
    adopted: AdoptionRecord | None = None
    keys: KeyStepDone | None = None
    move: MoveRecord | None = None
    locks: Mapping[str, LockRecord] = field(default_factory=dict)
    written: Mapping[str, Written] = field(default_factory=dict)
