"""Holds the one table of all that is replaced in steps, and the one rule of what a step waits for.

Readers check certificates (or tokens), and users present them. Readers first accept both, then users change over, then
readers drop the old one; and there is a way back. The models (tests/models) explore these very tables: no other move
is safe.

What a procedure has beside the seven phases and the rule stands at its table below, with the reason. An emergency goes
to `retired` at once and waits for nobody, since distrust comes first. The root has the table of the CAs; what its steps
wait for too (issuing CAs that go along, pods, kubeconfigs outside) is no phase, and stands in `rotation.root_gates`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_State = TypeVar("_State")
_Other = TypeVar("_Other")


class Side(enum.Flag):
    """The old and the new CA, or the old and the new key."""

    OLD = enum.auto()
    NEW = enum.auto()
    BOTH = OLD | NEW


OLD, NEW, BOTH, NEITHER = Side.OLD, Side.NEW, Side.BOTH, Side(0)


@dataclass(frozen=True, slots=True)
class Phase:
    """What a state means.

    `accepts` is what readers are told to accept, and `takes` what users are told to take: the CA whose certificates
    they install, the key with which they sign. `sure` is what every reader has accepted since the phase began, and
    `uses` what some user may still present. `onward` and `home` are the states that follow, "" for none. What
    `destroys` names is gone for good once the phase has begun.
    """

    accepts: Side
    takes: Side
    sure: Side
    uses: Side
    onward: str = ""
    home: str = ""
    destroys: Side = NEITHER


def waits(before: Phase, after: Phase) -> tuple[Side, Side]:
    """Return what a move waits for: what every reader must accept first, and what alone users may then present.

    THE rule: it waits for readers if it makes something sure that was not, or destroys something; and for users if it
    ends a use. NEITHER if it does not wait.
    """
    trust = after.sure if after.sure & ~before.sure or after.destroys else NEITHER
    use = after.uses if before.uses & ~after.uses else NEITHER
    return trust, use


@dataclass(frozen=True, slots=True)
class Table(Generic[_State]):
    """The phases of a procedure by its states, and what follows from them.

    `by_trust` has the moves before which every reader, on its disk and in its memory, must accept what is named, and
    `by_use` those before which users must present that alone.
    """

    phases: Mapping[_State, Phase]
    onward: Mapping[_State, _State]
    home: Mapping[_State, _State]
    by_trust: Mapping[tuple[_State, _State], Side]
    by_use: Mapping[tuple[_State, _State], Side]

    @property
    def free(self) -> frozenset[tuple[_State, _State]]:
        """The moves that wait for nobody: they make nothing sure, destroy nothing and end no use."""
        moves = {*self.onward.items(), *self.home.items()}
        return frozenset(moves - self.by_trust.keys() - self.by_use.keys())

    def ahead(self, state: _State, *, back: bool) -> frozenset[_State]:
        """Return the states that steps onward, or with `back` home, lead to from this one; itself too."""
        way, found = self.home if back else self.onward, {state}
        while (state := way.get(state, state)) not in found:
            found.add(state)
        return frozenset(found)

    def of(self, state: Callable[[_State], _Other]) -> Table[_Other]:
        """Return the table by other names of its states, such as the members of an enum."""
        return Table(
            {state(name): phase for name, phase in self.phases.items()},
            {state(name): state(to) for name, to in self.onward.items()},
            {state(name): state(to) for name, to in self.home.items()},
            {(state(name), state(to)): side for (name, to), side in self.by_trust.items()},
            {(state(name), state(to)): side for (name, to), side in self.by_use.items()},
        )


def seven_phases(start: str) -> dict[str, Phase]:
    """Return the seven phases; `start` is the state in which all is old."""
    return {
        # accepts, takes, sure, uses
        start: Phase(OLD, OLD, OLD, OLD, "published"),
        "published": Phase(BOTH, OLD, OLD, OLD, "switched", start),
        "switched": Phase(BOTH, NEW, BOTH, BOTH, "retired", "returning"),
        "retired": Phase(NEW, NEW, NEW, NEW, "done", "re-trusting"),
        "done": Phase(NEW, NEW, NEW, NEW, destroys=OLD),
        "re-trusting": Phase(BOTH, NEW, NEW, NEW, "switched", "returning"),
        "returning": Phase(BOTH, OLD, BOTH, BOTH, "switched", start),
    }


def table(
    phases: Mapping[str, Phase],
    *,
    trust: Mapping[tuple[str, str], Side] | None = None,
    use: Mapping[tuple[str, str], Side] | None = None,
) -> Table[str]:
    """Return the table of phases by their names; `trust` and `use` are waits beside the rule."""
    onward = {name: phase.onward for name, phase in phases.items() if phase.onward}
    home = {name: phase.home for name, phase in phases.items() if phase.home}
    found = {(name, to): waits(phases[name], phases[to]) for name, to in (*onward.items(), *home.items())}
    return Table(
        phases,
        onward,
        home,
        {step: side for step, (side, _) in found.items() if side} | dict(trust or {}),
        {step: side for step, (_, side) in found.items() if side} | dict(use or {}),
    )


KEY_PHASES: Final = table(seven_phases("steady"))
"""Service-account keys: the seven phases, and nothing beside them."""

CA_PHASES: Final = table(
    seven_phases("steady")
    | {
        # A number is reserved, and a key made, before anybody learns of the new CA.
        "steady": Phase(OLD, OLD, OLD, OLD, "prepared"),
        "prepared": Phase(OLD, OLD, OLD, OLD, "published", "steady"),
        # After a recovery, which leads to re-trusting, nothing is sure. The way home asks for the old CA alone, since
        # the new one may be lost.
        "returning": Phase(BOTH, OLD, OLD, BOTH, "switched", "steady"),
    },
    trust={
        # This way is taken where the old CA is lost: readers need not accept it.
        ("returning", "switched"): NEW,
        # No move: a rollback has ended and deleted the new CA, which processes may hold from their start.
        ("steady", "steady"): OLD,
    },
)
"""Issuing CAs, and the root."""

ADOPTION_PHASES: Final = table(
    seven_phases("prepared")
    | {
        # Controller managers sign CSRs with the old CA until all users have changed over.
        "switched": Phase(BOTH, NEW, BOTH, BOTH, "closed", "returning"),
        "closed": Phase(BOTH, NEW, BOTH, NEW, "retired", "returning"),
    },
    use={
        # A CSR that was signed just before gives a kubelet a certificate of the old CA, so each is looked at again.
        ("closed", "retired"): NEW,
        # A machine that still shows one needs the old key, which is deleted, to be mended.
        ("retired", "done"): NEW,
    },
)
"""The CAs of kubeadm, and Vault's."""
