"""What the agent and the views of a node need of a procedure in which its machine may take part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vaultpki.errors import VaultpkiError
    from vaultpki.host.log import Event
    from vaultpki.model import AgentConfig
    from vaultpki.node.assignment import Assignment
    from vaultpki.node.state import AgentState
    from vaultpki.procedure.envelope import ProcedureRecord
    from vaultpki.records.node_report import NodeReport


@dataclass(frozen=True, slots=True)
class PassMade:
    """What a pass has made of Vault's answers, for what follows it.

    `assigned` is the newest answer, and `report` the last report; None where the pass came to none. `reached` is as in
    Outcome.
    """

    assigned: Assignment | None = None
    report: NodeReport | None = None
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """What a machine did for a procedure: failures by what failed, and events for the log.

    `retry_at` is when its next step may be tried (Unix), None if none is left.
    """

    failures: Mapping[str, VaultpkiError] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class MachineStanding:
    """Where a machine stands in a procedure, by its disk; without arguments that of one that takes no part.

    `ended_cas` are the SHA-256 of foreign CAs by domain that it never trusts again, whatever a record says; empty where
    that is not known. `follows` is whether it does what the record asks; True where that is not known. `sentence` says
    where it stands.
    """

    ended_cas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    follows: bool = True
    sentence: str = ""


class ProcedureOnNode(Protocol):
    """A procedure as a node sees it: a module with a record and these functions is one.

    Where the machine takes no part each of them does nothing, and loads nothing. `known` is the agent's state, and
    `clock` is Unix time in seconds.
    """

    OWN_RECORD: ProcedureRecord

    def entered(self, config: AgentConfig, wait: float) -> AbstractContextManager[AgentConfig]:
        """Yield the configuration that a pass works by; the machine stays as it is until the block ends.

        Raises Busy if another process still changes the machine after `wait` seconds.
        """

    def standing(self, config: AgentConfig, wanted: Assignment | None, known: AgentState) -> MachineStanding:
        """Return where this machine stands; reads only the disk. Without `wanted` it is not said whether it follows."""

    def report(
        self, made: NodeReport, config: AgentConfig, wanted: Assignment, known: AgentState, clock: float
    ) -> NodeReport:
        """Return the report with what this machine says of the procedure."""

    def follow(
        self, config: AgentConfig, clock: float, made: PassMade, *, allow_http: bool, alive: Callable[[], None]
    ) -> Followed:
        """Do after a pass what a record asks of this machine. `alive` is called again and again while it waits.

        `config` is that of agent.yaml.
        """


Procedures = tuple[ProcedureOnNode, ...]
"""Those in which machines may take part; every entry point hands over `procedures.ON_NODES`."""


def records_of(procedures: Procedures) -> tuple[ProcedureRecord, ...]:
    """Return the records that nodes follow for them."""
    return tuple(each.OWN_RECORD for each in procedures)
