"""The values of one run on a machine that is taken over: where it stands, where it goes, and what it goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vaultpki.model import AgentConfig, Certificate, TakenOver
from vaultpki.node.assignment import Assignment
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import ClusterShape
from vaultpki.takeover.arrangement import Arrangement
from vaultpki.takeover.journal import JournalFile
from vaultpki.takeover.machine import KubeadmMachine, OldAndNew
from vaultpki.takeover.processes import Components

OldCaSigner = Callable[[Certificate, bytes, Facts, datetime], bytes]
"""Returns a certificate of the old CA that is given, for the key that is given, both as PEM."""

TIMEOUT: Final = 300.0
"""Seconds for a component to be started anew and healthy: the kubelet alone may take half a minute to notice."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """One run. `where` are the places of the machine, `target` is what it shall be, and `cas` are both sides.

    `config` names the agent's files where they lie in the end. `clock` is Unix time in seconds. `tell` is called with
    a sentence for each thing that was done. `turn` says whether this machine may restart etcd and kube-apiserver now,
    `kept_keys` where a person keeps the old keys at the end, "" if they are deleted. `timeout` is in seconds.
    `sign` has Vault sign with an old CA that was imported; None where Vault is not asked. `finish` is whether what
    cannot be undone may be done: root has said so, or the agent's consent covers it.
    """

    config: AgentConfig
    where: TakenOver
    machine: KubeadmMachine
    journal: JournalFile
    assignment: Assignment
    cas: OldAndNew
    target: Arrangement
    components: Components
    clock: float
    turn: bool = True
    timeout: float = TIMEOUT
    tell: Callable[[str], None] = lambda text: None
    kept_keys: str = ""
    sign: OldCaSigner | None = None
    finish: bool = False

    @property
    def shape(self) -> ClusterShape:
        """What the cluster looked like when the record was written."""
        record = self.assignment.adoption.record
        return record.shape if record is not None else ClusterShape.OTHER

    @property
    def imported(self) -> tuple[str, ...]:
        """The domains whose old CA is in Vault with its key, as the record says."""
        record = self.assignment.adoption.record
        return record.imported if record is not None else ()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock, UTC)
