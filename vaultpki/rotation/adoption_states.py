"""Holds the states in which a live kubeadm cluster is taken over: what each means, and which comes next.

The old CAs are kubeadm's own, the new ones Vault's, and all domains go together. The states and the ways back were
explored exhaustively by tests/models/adoption.py; no other transition is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import ADOPTION_TABLE, AdoptionRecord, AdoptionState

Step = tuple[AdoptionState, AdoptionState]
"""A change from one state to another."""

_S = AdoptionState

_PHASES: Final = ADOPTION_TABLE.phases

ONWARD: Final = ADOPTION_TABLE.onward
"""The state that `adopt continue` leads to."""

HOMEWARD: Final = ADOPTION_TABLE.home
"""The state that `adopt abort` leads to."""

TRUSTED: Final = {state: phase.accepts for state, phase in _PHASES.items()}
"""The CAs that bundles, cluster-info and the pods' copies hold."""

LEAVES_OF: Final = {state: phase.takes for state, phase in _PHASES.items()}
"""The CA whose certificates nodes install, whichever the mount's default is."""

WITH_KUBECONFIG: Final = "--kubeconfig FILE"
"""What every command that takes a step needs; who knows the file puts it in there."""


def command_to(state: AdoptionState) -> str:
    """Return the command that leads to a state, and that gives machines their turns in it.

    In prepared and returning `adopt continue` waits for nobody and leads onward again, so it gives no turn there.
    """
    return f"vaultpki adopt {'abort' if state in HOMEWARD.values() else 'continue'} {WITH_KUBECONFIG}"


SIGNER_ON: Final = frozenset(state for state, phase in _PHASES.items() if Side.OLD in phase.uses)
"""The states in which controller managers sign CSRs with the old CA."""

FREE_STEPS: Final = ADOPTION_TABLE.free
"""The steps that wait for nobody: they take nobody's trust away, and install nothing that is not trusted."""

STEPS_BY_TRUST: Final = ADOPTION_TABLE.by_trust
"""The steps before which every node, on its disk and in its processes, must trust exactly these CAs."""

STEPS_BY_LEAVES: Final = ADOPTION_TABLE.by_use
"""The steps before which every node must hold and show certificates of this CA alone."""

LAST_STEP: Final[Step] = (_S.CLOSED, _S.RETIRED)
"""The step after which no certificate of the old CA is let in: nodes and CSRs are listed once no signer is left."""


def _while_away(reached: AdoptionState) -> frozenset[AdoptionState]:
    found, new = {reached}, [reached]
    while new:
        state = new.pop()
        for path in ((state, table[state]) for table in (ONWARD, HOMEWARD) if state in table):
            if path[1] not in found and (path in FREE_STEPS or path[0] is reached):
                found.add(path[1])
                new.append(path[1])
    return frozenset(found)


WHILE_AWAY: Final = {state: _while_away(state) for state in _S}
"""The states in which an adoption can be when a machine comes back, by the last state whose steps it has done.

A step that is not free waits for every machine that counts, until it has done the steps of the state before. So no
machine that counts has ever missed one, however long it was away.
"""


@dataclass(frozen=True, slots=True)
class AdoptionStep:
    """A step that is wanted: from the record's state to `to`, at the server's time `now`."""

    record: AdoptionRecord
    to: AdoptionState
    now: datetime

    @property
    def path(self) -> tuple[AdoptionState, AdoptionState]:
        return self.record.state, self.to

    @property
    def command(self) -> str:
        """The command that leads there: from re-trusting, `continue` leads to another state."""
        return command_to(self.to)

    @property
    def trust(self) -> Side | None:
        """The CAs that every machine must trust before it; None if it does not ask."""
        return TRUSTED[self.to] if self.resting else STEPS_BY_TRUST.get(self.path)

    @property
    def leaves(self) -> Side | None:
        """The CA whose certificates every machine must hold and show before it; None if it does not ask."""
        return LEAVES_OF[self.to] if self.resting else STEPS_BY_LEAVES.get(self.path)

    @property
    def resting(self) -> bool:
        """Whether there is no step: the state is one of the two ends, and must be whole."""
        return self.to is self.record.state
